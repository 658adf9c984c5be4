"""Recordings cleaned of jitter by a model, beside a Savitzky-Golay filter and a moving mean that are tuned to it.

    python benchmarks/denoising.py --model checkpoints/pipeline \
        --data_dir diffusion_test_data/val --tuning_dir diffusion_test_data/train

White noise of known deviation is added to x and y of held-out sequences. Each filter takes the window (and the order) that
leaves least on the tuning data at that noise; the model is told the deviation, or estimates it. The error is the root mean
square over all steps, in pixels of a screen --width pixels wide.
"""

import argparse

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import savgol_filter

from action_ddim import ActionDataset, ActionDDIMPipeline
from action_ddim.actions import PRESS
from action_ddim.evaluation.tables import Table

WINDOWS = (*range(3, 32, 2), 41, 51, 61, 81, 101)
ORDERS = (1, 2, 3, 4)
SAVITZKY_GOLAY = [(window, order) for window in WINDOWS for order in ORDERS if order < window]


def savitzky_golay(actions: np.ndarray, window: int, order: int) -> np.ndarray:
    return savgol_filter(actions, window, order, axis=1, mode="nearest")


def moving_mean(actions: np.ndarray, window: int) -> np.ndarray:
    return uniform_filter1d(actions, window, axis=1, mode="nearest")


def read(folder: str, count: int) -> np.ndarray:
    data = ActionDataset(folder)
    return data.read(np.random.default_rng(0).permutation(len(data))[:count]).numpy()


def jittered(actions: np.ndarray, noise_std: float, seed: int) -> np.ndarray:
    recording = actions.copy()
    recording[..., :PRESS] += np.random.default_rng(seed).normal(0, noise_std, recording[..., :PRESS].shape)
    return recording


def error(actions: np.ndarray, original: np.ndarray) -> float:
    difference = actions[..., :PRESS].clip(0, 1) - original[..., :PRESS]
    return float(np.sqrt(np.square(difference).mean()))


def compare(pipeline: ActionDDIMPipeline, held_out: np.ndarray, tuning: np.ndarray, noise_std: float) -> list[float | str]:
    """Return what each leaves of the noise, in screens, and the settings of the filters."""
    recording, tuned_on = jittered(held_out, noise_std, 1), jittered(tuning, noise_std, 2)
    settings = min(SAVITZKY_GOLAY, key=lambda setting: error(savitzky_golay(tuned_on, *setting), tuning))
    window = min(WINDOWS, key=lambda window: error(moving_mean(tuned_on, window), tuning))
    told, estimated = pipeline.denoise(recording, noise_std), pipeline.denoise(recording)
    return [
        error(savitzky_golay(recording, *settings), held_out),
        "{}, {}".format(*settings),
        error(moving_mean(recording, window), held_out),
        str(window),
        error(told.actions, held_out),
        error(estimated.actions, held_out),
        estimated.noise_std,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", required=True, default=argparse.SUPPRESS, help="pipeline folder")
    parser.add_argument("--data_dir", required=True, default=argparse.SUPPRESS, help="held-out data, *_actions.npy")
    parser.add_argument("--tuning_dir", required=True, default=argparse.SUPPRESS, help="data that the filters are tuned on")
    parser.add_argument("--num_sequences", type=int, default=500, help="sequences of either, at most")
    parser.add_argument("--pixels", type=float, nargs="+", default=[2, 10, 38, 95], help="deviations of the noise")
    parser.add_argument("--width", type=int, default=1920, help="pixels of a screen")
    args = parser.parse_args()
    pipeline = ActionDDIMPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    held_out, tuning = (read(folder, args.num_sequences) for folder in (args.data_dir, args.tuning_dir))
    rows = []
    for pixels in args.pixels:
        values = compare(pipeline, held_out, tuning, pixels / args.width)
        cells = (value if isinstance(value, str) else f"{value * args.width:.2f}" for value in values)
        rows.append((f"{pixels:g}", *cells))
    columns = (
        "noise",
        "Savitzky-Golay",
        "window, order",
        "moving mean",
        "window",
        "model",
        "model, estimating",
        "its estimate",
    )
    print(Table("What is left of white noise, pixels", columns, tuple(rows), f"{len(held_out)} sequences").to_text())


if __name__ == "__main__":
    main()
