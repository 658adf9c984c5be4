"""Figures of actions and of how well they are modelled. Functions return a matplotlib `Figure` and neither show nor save it."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from action_ddim.actions import CHANNELS, PRESS, PRESS_THRESHOLD, X, Y
from action_ddim.evaluation.metrics import TARGETS
from action_ddim.evaluation.realism import DISTANCES, Comparison

# Okabe and Ito's palette, which people with any common colour blindness can tell apart.
COLORS = {"x": "#0072B2", "y": "#D55E00", "press": "#999999", "target": "#009E73"}
MAX_ROWS = 6
DPI = 100
NOISE_LIMIT = 3.0  # standard deviations, the ends of the colour scale
# What the documentation expects of the first ten epochs: from below 5 dB to above 10 dB.
DOCUMENTED_PROGRESSION = ((0, 5.0), (10, 10.0))


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
            plot_over_time(axes[row, column], actions[row], pressed, points=title == "noisy")
            if row == 0:
                axes[row, column].set_title(title)
        plot_stroke(axes[row, 3], original[row], color="black", label="original")
        plot_stroke(axes[row, 3], reconstructed[row], color=COLORS["x"], label="reconstructed")
    axes[0, 3].set_title("pressed, on the screen")
    axes[0, 3].legend(fontsize=8)
    axes[0, 0].legend(fontsize=8, loc="upper right")
    for axis in axes[:, 0]:
        axis.set_ylabel("x, y [screen]", fontsize=9)
    for axis in axes[:, 3]:
        axis.set_ylabel("y [screen]", fontsize=9)
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
        plot_over_time(over_time, sequence, sequence[:, PRESS])
        over_time.set_xlabel("time [steps]", fontsize=9)
        screen.plot(*sequence[:, :PRESS].T, "-", lw=0.8, color=COLORS["press"], label="whole way")
        plot_stroke(screen, sequence, color="black", label="pressed")
        screen.set_xlabel("x [screen]", fontsize=9)
    for over_time, screen in axes[:, 0].reshape(-1, 2):
        over_time.set_ylabel("x, y [screen]", fontsize=9)
        screen.set_ylabel("y [screen]", fontsize=9)
    axes[0, 0].legend(fontsize=8, loc="center right", framealpha=0.5)
    axes[1, 0].legend(fontsize=8, framealpha=0.5)
    return figure


def plot_noise_comparison(true: np.ndarray, predicted: np.ndarray, timestep: int) -> Figure:
    """Draw the true and the predicted noise, and their difference, as heat maps on one colour scale, a row a channel.

    Args:
        true, predicted: `(N, L, 3)`, standard normal; a row of a heat map is a sequence.
        timestep: The diffusion timestep of both, for the title.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(len(CHANNELS), 3, sharex=True, sharey=True)
    columns = {"true noise": true, "predicted noise": predicted, "predicted - true": predicted - true}
    for column, (title, noise) in enumerate(columns.items()):
        for channel, name in enumerate(CHANNELS):
            axis = axes[channel, column]
            # PuOr stays ordered for colour-blind people, with white for no noise.
            image = axis.imshow(
                noise[..., channel], cmap="PuOr", vmin=-NOISE_LIMIT, vmax=NOISE_LIMIT, aspect="auto", interpolation="nearest"
            )
            axis.tick_params(labelsize=8)
            if column == 0:
                axis.set_ylabel(f"{name}\nsequence", fontsize=9)
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("time [steps]")
    figure.colorbar(image, ax=axes, extend="both", shrink=0.8, label="noise [standard deviations]")
    figure.suptitle(f"noise at diffusion timestep {timestep}", fontsize=11)
    return figure


def plot_learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the metrics of every epoch, with the documented target of each shaded, and the documented rise of the SNR.

    Args:
        history: A mapping an epoch, of `epoch` and the tracked keys; what an earlier version did not track may be missing.
    """
    # The last epoch of a run takes all sequences: a point of its own, not a turn of the curve.
    usual = next(row["val/num_sequences"] for row in history if "val/num_sequences" in row)
    alike = [row for row in history if row.get("val/num_sequences", usual) == usual]
    others = [row for row in history if row.get("val/num_sequences", usual) != usual]
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, 4)
    losses = axes.flat[0]
    _plot_curve(losses, history, [], "train/loss", "x", "train/loss")
    _plot_curve(losses, alike, others, "val/loss", "y", "val/loss")
    losses.set(title="loss", ylabel="loss")
    scale_logarithmically(losses)
    units = {"mse": "error²", "coord_mse": "error² [screen²]", "press_accuracy": "share of steps", "mean_snr_db": "SNR [dB]"}
    for axis, target in zip(axes.flat[1:], TARGETS, strict=False):
        for metric, name in zip(target.metrics, ("x", "y"), strict=False):
            label = name if len(target.metrics) > 1 else "measured"
            _plot_curve(axis, alike, others, f"val/{metric}", name, label)
        axis.set(title=f"{target.name}, target {target.wanted}", ylabel=units.get(target.name, "ratio to the original"))
        if target.name == "mean_snr_db":
            axis.plot(*zip(*DOCUMENTED_PROGRESSION, strict=True), ":", lw=2, color="black", label="documented rise")
        elif target.name != "press_accuracy":
            scale_logarithmically(axis)
        _shade_target(axis, target.above, target.below)
    for axis in axes.flat[: 1 + len(TARGETS)]:
        axis.set_xlabel("epoch")
        axis.title.set_fontsize(10)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8)
    _plot_realism(axes.flat[-1], [row for row in history if "val/realism/frechet_distance" in row])
    return figure


def _plot_realism(axis: Axes, rows: Sequence[Mapping]) -> None:
    """Draw how far drawn actions are from the data at the epochs that looked."""
    if not rows:
        axis.set_visible(False)
        return
    epochs = [row["epoch"] for row in rows]
    for name in DISTANCES:
        axis.plot(epochs, [row[f"val/realism/{name}"] for row in rows], marker="o", ms=3, label=name.replace("_", " "))
    axis.set(title="drawn beside real, 0 is best", xlabel="epoch", ylabel="distance", ylim=(0, None))
    axis.title.set_fontsize(10)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)


def _plot_curve(axis: Axes, rows: Sequence[Mapping], others: Sequence[Mapping], key: str, name: str, label: str) -> None:
    """Draw a key of the rows as a line in the style of a channel, and of others, measured on more sequences, as diamonds."""
    epochs = [row["epoch"] for row in rows]
    axis.plot(
        epochs, [row.get(key, np.nan) for row in rows], _style(name), color=COLORS[name], label=label, marker=_marker(epochs)
    )
    if others:
        count, epochs = others[-1]["val/num_sequences"], [row["epoch"] for row in others]
        note = f"{label}, all {count:.0f} sequences"
        axis.plot(epochs, [row.get(key, np.nan) for row in others], "D", markersize=5, color=COLORS[name], label=note)


def plot_error_by_timestep(
    timesteps: Sequence[int], errors: Mapping[str, Sequence[float]], constants: Mapping[str, float]
) -> Figure:
    """Draw how far the clean actions that the network predicts lie from the true ones, by diffusion timestep.

    Args:
        timesteps: T of them.
        errors: T mean squared errors each of `coord` and `press`, and `copied_coord` and `copied_press`, of a network that
            returns its input.
        constants: The error of a prediction that is always the mean, which pure noise leaves nothing better than.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for (name, label), color, style in zip(
        (("coord", "x and y"), ("press", "press")), (COLORS["x"], COLORS["y"]), ("-", "--"), strict=True
    ):
        axis.plot(timesteps, errors[name], style, marker="o", ms=4, color=color, label=label)
        axis.plot(timesteps, errors[f"copied_{name}"], style, color=color, lw=1, alpha=0.5, label=f"{label}, input copied")
        axis.axhline(constants[name], color=color, lw=1, ls=":", label=f"{label}, always the mean")
    axis.set(xlabel="diffusion timestep (0 is clean)", ylabel="mean squared error [screen²]")
    scale_logarithmically(axis)
    axis.legend(fontsize=9)
    axis.grid(alpha=0.3)
    return figure


def plot_distributions(drawn: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray]) -> Figure:
    """Draw a histogram a feature of drawn over real actions, shares of the sequences.

    Args:
        drawn, real: Arrays by name with unit, the same names in both.
    """
    figure = Figure(figsize=(3.4 * len(drawn), 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        edges = np.histogram_bin_edges(np.concatenate([drawn[name], real[name]]), 24)
        for values, color, label, fill in (
            (real[name], COLORS["press"], "real", True),
            (drawn[name], COLORS["x"], "drawn", False),
        ):
            shares = np.histogram(values, edges)[0] / len(values)
            axis.stairs(shares, edges, color=color, fill=fill, alpha=0.6 if fill else 1, lw=2, label=label)
        axis.set_xlabel(name)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("share of sequences")
    figure.axes[0].legend(fontsize=9)
    return figure


def plot_giveaways(by_feature: Mapping[str, Comparison], by_stretch: Mapping[str, Comparison]) -> Figure:
    """Draw how well drawn actions are told from real ones by one feature alone, and by one stretch of time alone.

    Args:
        by_feature: Accuracies by name; the highest is drawn on top.
        by_stretch: The same in order of time, which runs downwards; there may be none.
    """
    panels = {"one feature alone, by a decision tree": dict(sorted(by_feature.items(), key=lambda item: item[1].value))}
    panels |= (
        {"one stretch of time alone [steps], by MiniRocket": dict(reversed(list(by_stretch.items())))} if by_stretch else {}
    )
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        names = [name.replace("_", " ") for name in panel]
        values, floors = ([getattr(each, side) for each in panel.values()] for side in ("value", "floor"))
        axis.hlines(names, floors, values, color=COLORS["x"], lw=2, alpha=0.5)
        axis.plot(floors, names, "|", ms=12, mew=2, color=COLORS["press"], label="real beside real, the floor")
        axis.plot(values, names, "o", ms=7, color=COLORS["x"], label="drawn beside real")
        axis.axvline(0.5, ls=":", color="black", lw=1)
        axis.set(xlabel="accuracy (0.5 is a guess)", title=title)
        axis.title.set_fontsize(10)
        axis.tick_params(labelsize=9)
        axis.grid(axis="x", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=2)
    return figure


def figure_to_image(figure: Figure) -> np.ndarray:
    """Render a figure to RGB bytes `(H, W, 3)`, as trackers take them."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def image_to_png(image: np.ndarray) -> bytes:
    """Return RGB bytes `(H, W, 3)` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def plot_over_time(axis: Axes, sequence: np.ndarray, pressed: np.ndarray, points: bool = False) -> None:
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
    axis.tick_params(labelsize=8)


def plot_stroke(axis: Axes, sequence: np.ndarray, *, color: str, label: str) -> None:
    """Draw the pressed path on the screen, y downwards, with a gap between presses and a dot where each starts."""
    pressed = sequence[:, PRESS] > PRESS_THRESHOLD
    path = np.where(pressed[:, None], sequence[:, [X, Y]], np.nan)
    starts = path[np.diff(pressed, prepend=False) & pressed]
    axis.plot(*path.T, "-", lw=1.5, color=color, label=label, alpha=0.8)
    axis.plot(*starts.T, "o", ms=5, color=color, alpha=0.8)
    axis.set(xlim=(0, 1), ylim=(1, 0), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axis.tick_params(labelsize=8)


def _style(name: str) -> str:
    return "-" if name == "x" else "--"


def _marker(epochs: Sequence[float]) -> str:
    return "o" if len(epochs) == 1 else ""  # a line of one point shows nothing


def scale_logarithmically(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")


def _shade_target(axis: Axes, above: float, below: float) -> None:
    """Shade where a target is met, within limits that hold both the curve and the bound."""
    low, high = axis.get_ylim()
    margin = 1.3 if axis.get_yscale() == "log" else 1.05
    bounds = [bound for bound in (above, below) if np.isfinite(bound)]
    low, high = min([low, *(bound / margin for bound in bounds)]), max([high, *(bound * margin for bound in bounds)])
    axis.axhspan(max(above, low), min(below, high), color=COLORS["target"], alpha=0.15, lw=0, label="target")
    axis.set_ylim(low, high)
