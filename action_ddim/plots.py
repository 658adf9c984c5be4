"""Figures of actions. Functions return a matplotlib `Figure` and neither show nor save it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from action_ddim.actions import CHANNELS, PRESS, PRESS_THRESHOLD, X, Y

# Okabe and Ito's palette, which people with any common colour blindness can tell apart.
COLORS = {"x": "#0072B2", "y": "#D55E00", "press": "#999999"}
MAX_ROWS = 6


def plot_reconstructions(original: np.ndarray, noisy: np.ndarray, reconstructed: np.ndarray) -> Figure:
    """Draw up to six sequences, a row each: original, noisy and reconstructed over time, and both strokes on the screen.

    Args:
        original, noisy, reconstructed: `(N, L, 3)` in [0, 1]; the noisy one may lie outside.
    """
    count = min(len(original), MAX_ROWS)
    figure = Figure(figsize=(13, 2.1 * count + 0.6), layout="constrained")
    axes = figure.subplots(count, 4, squeeze=False, width_ratios=(3, 3, 3, 2))
    titles = ("original", "noisy", "reconstructed")
    for row in range(count):
        for column, (title, actions) in enumerate(zip(titles, (original, noisy, reconstructed), strict=True)):
            # The noisy press says nothing at a glance; the true span shows where the gesture lies.
            pressed = (original if title == "noisy" else actions)[row, :, PRESS]
            _plot_over_time(axes[row, column], actions[row], pressed, points=title == "noisy")
            if row == 0:
                axes[row, column].set_title(title)
        _plot_stroke(axes[row, 3], original[row], color="black", label="original")
        _plot_stroke(axes[row, 3], reconstructed[row], color=COLORS["x"], label="reconstructed")
    axes[0, 3].set_title("pressed, on the screen")
    axes[0, 3].legend(fontsize=7)
    axes[0, 0].legend(fontsize=7, loc="upper right")
    for axis in axes[:, 0]:
        axis.set_ylabel("x, y [screen]", fontsize=8)
    for axis in axes[-1, :3]:
        axis.set_xlabel("time [steps]")
    axes[-1, 3].set_xlabel("x [screen]")
    return figure


def plot_samples(actions: np.ndarray) -> Figure:
    """Draw a sheet of actions `(N, L, 3)`, five a row: each over time, and its stroke on the screen below."""
    columns = min(len(actions), 5)
    rows = -(-len(actions) // columns)
    figure = Figure(figsize=(2.8 * columns, 4.2 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(2, 3) * rows)
    for axis in axes.flat:
        axis.set_visible(False)  # the last row may not be full
    for index, sequence in enumerate(actions):
        row, column = divmod(index, columns)
        over_time, screen = axes[2 * row, column], axes[2 * row + 1, column]
        over_time.set_visible(True)
        screen.set_visible(True)
        _plot_over_time(over_time, sequence, sequence[:, PRESS])
        over_time.set_xlabel("time [steps]", fontsize=8)
        _plot_stroke(screen, sequence, color="black", label="pressed")
        screen.set_xlabel("x [screen]", fontsize=8)
    for over_time, screen in axes[:, 0].reshape(-1, 2):
        over_time.set_ylabel("x, y [screen]", fontsize=8)
        screen.set_ylabel("y [screen]", fontsize=8)
    axes[0, 0].legend(fontsize=7, loc="center right", framealpha=0.5)
    return figure


def figure_to_image(figure: Figure) -> np.ndarray:
    """Render a figure to RGB bytes `(H, W, 3)`, as trackers take them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _plot_over_time(axis: Axes, sequence: np.ndarray, pressed: np.ndarray, points: bool = False) -> None:
    """Draw x and y over time; the background is shaded where the press is down."""
    time = np.arange(len(sequence))
    axis.fill_between(
        time, 0, 1, where=pressed > PRESS_THRESHOLD, color=COLORS["press"], alpha=0.35, lw=0, step="mid", label="press"
    )
    for channel, style in ((X, "-"), (Y, "--")):
        name = CHANNELS[channel]
        if points:
            axis.plot(time, sequence[:, channel], ".", ms=1.5, color=COLORS[name], label=name)
        else:
            axis.plot(time, sequence[:, channel], style, lw=1.5, color=COLORS[name], label=name)
    axis.set(xlim=(0, len(sequence) - 1), ylim=(-0.05, 1.05), yticks=(0, 0.5, 1))
    axis.tick_params(labelsize=7)


def _plot_stroke(axis: Axes, sequence: np.ndarray, *, color: str, label: str) -> None:
    """Draw the pressed path on the screen, y downwards, with a gap between presses and a dot where each starts."""
    pressed = sequence[:, PRESS] > PRESS_THRESHOLD
    path = np.where(pressed[:, None], sequence[:, [X, Y]], np.nan)
    starts = path[np.diff(pressed, prepend=False) & pressed]
    axis.plot(*path.T, "-", lw=1.5, color=color, label=label, alpha=0.8)
    axis.plot(*starts.T, "o", ms=5, color=color, alpha=0.8)
    axis.set(xlim=(0, 1), ylim=(1, 0), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axis.tick_params(labelsize=7)
