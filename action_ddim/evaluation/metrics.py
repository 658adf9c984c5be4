"""How well actions were reconstructed: arrays in, numbers out; and the targets that the documentation sets.

Two stages, because the sequences may be spread over processes: `sequence_statistics` gives what each sequence
contributes, `summarize` reduces the contributions of all of them. Originals and reconstructions are `(N, L, 3)` in
[0, 1]; the reconstruction's press may be soft, and is cut at 0.5 where a metric speaks of pressed steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from action_ddim.actions import CHANNELS, PRESS, PRESS_THRESHOLD
from action_ddim.data.features import gesture_types

POWER_FLOOR = 1e-10  # keeps the decibels of a perfect reconstruction, and of a sequence of zeros, within +-100
VARIANCE_FLOOR = 1e-12  # below it a channel counts as constant: its float32 rounding is no motion
NEAR, VERY_NEAR = 0.1, 0.02  # of the screen: a finger's button, and a mouse's
# Averaged over sequences as they are.
_MEANS = (
    *("mse", "mae", "coord_mse", "press_mse", "press_accuracy"),
    *("mean_snr_db", "temporal_iou", "gesture_type_accuracy"),
)


@dataclass(frozen=True)
class Target:
    """A documented target: each of the `metrics` is to lie above and below these bounds."""

    name: str
    metrics: tuple[str, ...]
    above: float = -math.inf
    below: float = math.inf

    @property
    def wanted(self) -> str:
        if math.isinf(self.above):
            return f"< {self.below:g}"
        return f"> {self.above:g}" if math.isinf(self.below) else f"{self.above:g} to {self.below:g}"

    def is_met(self, metrics: Mapping[str, float]) -> bool:
        return all(self.above < metrics[name] < self.below for name in self.metrics)


TARGETS = (
    Target("mse", ("mse",), below=0.01),
    Target("coord_mse", ("coord_mse",), below=0.005),
    Target("press_accuracy", ("press_accuracy",), above=0.9),
    Target("mean_snr_db", ("mean_snr_db",), above=20),
    Target("variance_ratio_x/y", ("variance_ratio_x", "variance_ratio_y"), above=0.8, below=1.2),
    Target("smoothness_ratio_x/y", ("smoothness_ratio_x", "smoothness_ratio_y"), below=2),
)


def sequence_statistics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each sequence contributes to the metrics, arrays `(N,)` in float64."""
    original, reconstruction = np.asarray(original, np.float64), np.asarray(reconstruction, np.float64)
    error = reconstruction - original
    squared_error = error**2
    error_power = squared_error.mean(axis=(1, 2))
    signal_power = (original**2).mean(axis=(1, 2))
    pressed, pressed_again = (actions[..., PRESS] > PRESS_THRESHOLD for actions in (original, reconstruction))
    distance = np.linalg.norm(error[..., :PRESS], axis=-1)
    intersection, union = (pressed & pressed_again).sum(axis=1), (pressed | pressed_again).sum(axis=1)
    statistics = {
        "mse": error_power,
        "mae": np.abs(error).mean(axis=(1, 2)),
        "coord_mse": squared_error[..., :PRESS].mean(axis=(1, 2)),
        "press_mse": squared_error[..., PRESS].mean(axis=1),
        "press_accuracy": (pressed == pressed_again).mean(axis=1),
        "mean_snr_db": 10 * np.log10(np.maximum(signal_power, POWER_FLOOR) / np.maximum(error_power, POWER_FLOOR)),
        "temporal_iou": np.where(union > 0, intersection / np.maximum(union, 1), 1.0),
        "gesture_type_accuracy": (gesture_types(original) == gesture_types(reconstruction)).astype(np.float64),
        "pressed_steps": pressed.sum(axis=1).astype(np.float64),
        "pressed_squared_error": (pressed * squared_error[..., :PRESS].mean(axis=-1)).sum(axis=1),
        "near_steps": (pressed & (distance <= NEAR)).sum(axis=1).astype(np.float64),
        "very_near_steps": (pressed & (distance <= VERY_NEAR)).sum(axis=1).astype(np.float64),
    }
    for name, actions in (("original", original), ("reconstruction", reconstruction)):
        for channel, label in enumerate(CHANNELS):
            statistics[f"variance_{label}_{name}"] = actions[..., channel].var(axis=1)
            statistics[f"smoothness_{label}_{name}"] = np.diff(actions[..., channel], axis=1).var(axis=1)
    return statistics


def summarize(statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Reduce the statistics of N >= 1 sequences to the metrics, finite numbers all.

    With u the original, v the reconstruction, and means over sequences, steps and channels:

    - `mse`, `mae`: mean (v - u)^2, mean |v - u|; `coord_mse`, `press_mse`: the first, of x and y, and of the press.
    - `active_coord_mse`: mean (v - u)^2 of x and y over the steps that u presses; 0 where it never does.
    - `press_accuracy`: share of steps whose press, cut at 0.5, agrees.
    - `mean_snr_db`: mean over sequences of 10 log10(mean u^2 / mean (v - u)^2), in +-100 dB.
    - `temporal_iou`: mean over sequences of the steps that both press over the steps that either presses; 1 where
      neither does.
    - `spatial_accuracy`, `spatial_accuracy_fine`: share of the steps that u presses where v is at most 0.1, or 0.02, of
      the screen away; 1 where it never presses.
    - `gesture_type_accuracy`: share of sequences whose type (`features.gesture_types`) agrees.
    - `variance_ratio_x/y/press`: mean temporal variance of v over that of u; below 1 motion is flattened.
    - `smoothness_ratio_x/y/press`: the same of the first differences; more than 1 is rougher than the original.

    A variance counts as at least 1e-12, so a ratio is 1 where nothing moves in either, and large where only the
    reconstruction moves.
    """
    metrics = {name: float(statistics[name].mean()) for name in _MEANS}
    total = {
        name: float(statistics[name].sum())
        for name in ("pressed_steps", "pressed_squared_error", "near_steps", "very_near_steps")
    }
    steps = total["pressed_steps"]
    metrics["active_coord_mse"] = total["pressed_squared_error"] / steps if steps else 0.0
    metrics["spatial_accuracy"] = total["near_steps"] / steps if steps else 1.0
    metrics["spatial_accuracy_fine"] = total["very_near_steps"] / steps if steps else 1.0
    for kind in ("variance", "smoothness"):
        for label in CHANNELS:
            original, reconstruction = (
                max(float(statistics[f"{kind}_{label}_{of}"].mean()), VARIANCE_FLOOR) for of in ("original", "reconstruction")
            )
            metrics[f"{kind}_ratio_{label}"] = reconstruction / original
    return metrics


def reconstruction_metrics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """Return the metrics of `summarize` for originals and reconstructions `(N, L, 3)`."""
    return summarize(sequence_statistics(original, reconstruction))
