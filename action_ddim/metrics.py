"""How well actions were reconstructed: arrays in, numbers out.

Two stages, because the sequences may be spread over processes: `sequence_statistics` gives what each sequence
contributes, `summarize` reduces the contributions of all of them. Originals and reconstructions are `(N, L, 3)` in
[0, 1]; the reconstruction's press may be soft, and is cut at 0.5 where a metric speaks of pressed steps.
"""

import numpy as np

from action_ddim.actions import CHANNELS, PRESS, PRESS_THRESHOLD

POWER_FLOOR = 1e-10  # keeps the decibels of a perfect reconstruction, and of a sequence of zeros, within +-100
VARIANCE_FLOOR = 1e-12  # below it a channel counts as constant: its float32 rounding is no motion


def sequence_statistics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each sequence contributes to the metrics, arrays `(N,)` in float64."""
    original, reconstruction = np.asarray(original, np.float64), np.asarray(reconstruction, np.float64)
    squared_error = (reconstruction - original) ** 2
    error_power = squared_error.mean(axis=(1, 2))
    signal_power = (original**2).mean(axis=(1, 2))
    pressed = original[..., PRESS] > PRESS_THRESHOLD
    statistics = {
        "mse": error_power,
        "coord_mse": squared_error[..., :PRESS].mean(axis=(1, 2)),
        "press_accuracy": (pressed == (reconstruction[..., PRESS] > PRESS_THRESHOLD)).mean(axis=1),
        "mean_snr_db": 10 * np.log10(np.maximum(signal_power, POWER_FLOOR) / np.maximum(error_power, POWER_FLOOR)),
    }
    for name, actions in (("original", original), ("reconstruction", reconstruction)):
        for channel, label in enumerate(CHANNELS[:PRESS]):
            statistics[f"variance_{label}_{name}"] = actions[..., channel].var(axis=1)
            statistics[f"smoothness_{label}_{name}"] = np.diff(actions[..., channel], axis=1).var(axis=1)
    return statistics


def summarize(statistics: dict[str, np.ndarray]) -> dict[str, float]:
    """Reduce the statistics of N >= 1 sequences to the metrics.

    - `mse`, `coord_mse`: mean of (reconstruction - original)^2 over sequences, steps and channels; x and y only.
    - `press_accuracy`: share of steps whose press, cut at 0.5, agrees.
    - `mean_snr_db`: mean over sequences of 10 log10(mean original^2 / mean (reconstruction - original)^2), in +-100 dB.
    - `variance_ratio_x/y`: mean temporal variance of the reconstruction over that of the original.
    - `smoothness_ratio_x/y`: the same of the first differences; more than 1 is rougher than the original.

    A variance counts as at least 1e-12, so a ratio is 1 where nothing moves in either, and large where only the
    reconstruction moves.
    """
    names = ("mse", "coord_mse", "press_accuracy", "mean_snr_db")
    metrics = {name: float(statistics[name].mean()) for name in names}
    for kind in ("variance", "smoothness"):
        for label in CHANNELS[:PRESS]:
            original, reconstruction = (
                max(float(statistics[f"{kind}_{label}_{of}"].mean()), VARIANCE_FLOOR) for of in ("original", "reconstruction")
            )
            metrics[f"{kind}_ratio_{label}"] = reconstruction / original
    return metrics


def reconstruction_metrics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """Return the metrics of `summarize` for originals and reconstructions `(N, L, 3)`."""
    return summarize(sequence_statistics(original, reconstruction))
