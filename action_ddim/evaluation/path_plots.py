"""Figures of what DDIM allows beyond drawing: paths between two actions, and actions that were filled in."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from action_ddim.actions import CHANNELS, PRESS, X, Y
from action_ddim.evaluation.plots import COLORS, MAX_ROWS, plot_over_time, plot_stroke

KNOWN_COLOR = "#009E73"


def plot_interpolation(actions: np.ndarray) -> Figure:
    """Draw the way from one action to another, a column each: over time, and its stroke on the screen below.

    Args:
        actions: `(N, L, 3)` in [0, 1], from the first to the last.
    """
    count = len(actions)
    figure = Figure(figsize=(2.0 * count + 0.5, 4.4), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False, sharey="row", height_ratios=(2, 3))
    for index, (sequence, over_time, screen) in enumerate(zip(actions, *axes, strict=True)):
        plot_over_time(over_time, sequence, sequence[:, PRESS])
        _plot_way(screen, sequence)
        title = "first" if index == 0 else "last" if index == count - 1 else f"{index} of {count - 1}"
        over_time.set_title(title, fontsize=9)
        over_time.set_xlabel("time [steps]", fontsize=8)
        screen.set_xlabel("x [screen]", fontsize=8)
    axes[0, 0].set_ylabel("x, y [screen]", fontsize=9)
    axes[1, 0].set_ylabel("y [screen]", fontsize=9)
    axes[0, 0].legend(fontsize=7)
    axes[1, 0].legend(fontsize=7)
    return figure


def plot_filled(known: np.ndarray, mask: np.ndarray, filled: np.ndarray) -> Figure:
    """Draw what was given of an action beside up to six ways to fill it in, a column each, with the given entries marked.

    Args:
        known: `(L, 3)` in [0, 1]; only what the mask says is drawn.
        mask: `(L, 3)`, True where known.
        filled: `(N, L, 3)` in [0, 1].
    """
    filled = filled[:MAX_ROWS]
    given = np.where(mask, known, np.nan)
    figure = Figure(figsize=(2.6 * (1 + len(filled)), 5.0), layout="constrained")
    axes = figure.subplots(2, 1 + len(filled), squeeze=False, sharey="row", height_ratios=(2, 3))
    for column, (over_time, screen) in enumerate(axes.T):
        if column:
            plot_over_time(over_time, filled[column - 1], filled[column - 1][:, PRESS])
            _plot_way(screen, filled[column - 1])
        else:
            plot_over_time(over_time, given, given[:, PRESS])
            plot_stroke(screen, given, color="black", label="pressed")
        _mark_given(over_time, screen, given)
        over_time.set_title("filled in" if column else "given", fontsize=10)
        over_time.set_xlabel("time [steps]", fontsize=9)
        screen.set_xlabel("x [screen]", fontsize=9)
    axes[0, 0].set_ylabel("x, y [screen]", fontsize=9)
    axes[1, 0].set_ylabel("y [screen]", fontsize=9)
    axes[0, -1].legend(fontsize=7)
    axes[1, -1].legend(fontsize=7)
    return figure


def _plot_way(axis: Axes, sequence: np.ndarray) -> None:
    """Draw the whole way on the screen, and the pressed part of it over it."""
    axis.plot(*sequence[:, :PRESS].T, "-", lw=0.8, color=COLORS["press"], label="whole way")
    plot_stroke(axis, sequence, color="black", label="pressed")


def _mark_given(over_time: Axes, screen: Axes, given: np.ndarray) -> None:
    """Mark given places by circles in both, and the steps at which the press is given by a bar above."""
    time = np.arange(len(given))
    marks: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4, "mfc": "none", "color": KNOWN_COLOR}
    for channel in (X, Y):
        over_time.plot(time, given[:, channel], **marks, label=f"given {CHANNELS[channel]}")
    bar = np.where(np.isnan(given[:, PRESS]), np.nan, 1.03)
    over_time.plot(time, bar, "-", lw=3, color=KNOWN_COLOR, label="given press")
    screen.plot(*given[:, :PRESS].T, **marks, label="given place")
