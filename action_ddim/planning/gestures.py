"""Gestures in words: a click at a place, a double click, a swipe, a drag through points, from where the pointer is.

A *gesture* lies between its first press-down and its last release, and is exact: the press of every step is known, and so is
the place wherever the words name one. What the words leave open, the ways to the gesture, along it and after it, the model
fills in (see `inpainting`). Each word gives what is known of N actions of L steps, for
`pipeline(known=..., mask=...)`; `perform` does both.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from action_ddim.actions import NUM_CHANNELS, PRESS
from augmentation.strokes import minimum_jerk_progress

if TYPE_CHECKING:
    import torch

    from action_ddim.pipeline import ActionDDIMPipeline

PAUSE_MS = 100  # between the clicks of a double click; windows systems take up to 500 for one
CLICK_MS = 80  # the median of people's clicks is 76 (SapiMouse)
STROKE_MS = 300


class Gestures(NamedTuple):
    """What is known of N actions, float32 and boolean, both `(N, L, 3)`."""

    known: np.ndarray
    mask: np.ndarray

    def rows(self, first: int, end: int) -> "Gestures":
        """Return some of the actions."""
        return Gestures(self.known[first:end], self.mask[first:end])


def perform(
    pipeline: "ActionDDIMPipeline",
    gestures: Gestures,
    num_inference_steps: int = 10,
    generator: "torch.Generator | list[torch.Generator] | None" = None,
) -> np.ndarray:
    """Draw the actions `(N, L, 3)`, in which everything that is known is so to the last bit; a list is of a generator each."""
    known, mask = gestures
    return pipeline(len(known), num_inference_steps, generator=generator, known=known, mask=mask, return_dict=False)[0]


def click(
    at, seq_len: int, rate: float, *, duration_ms: float = CLICK_MS, onset_ms: float | None = None, start=None
) -> Gestures:
    """Press at a place, and release there.

    Args:
        at: `(2,)` or `(N, 2)` in [0, 1].
        seq_len: L, the steps of the model.
        rate: Steps a second.
        duration_ms: From press-down to release.
        onset_ms: When the press begins; in the middle of the time by default.
        start: Where the pointer is at step 0, as `at`; the model's choice by default.

    Raises:
        ValueError: a place lies outside [0, 1], the rate is not above 0, or the gesture does not fit into the L steps.
    """
    places = _places(at, 1)
    return strokes(
        places.repeat(2, axis=1), _spans(seq_len, rate, [duration_ms], [], onset_ms), seq_len, still=True, start=start
    )


def double_click(
    at,
    seq_len: int,
    rate: float,
    *,
    duration_ms: float = CLICK_MS,
    pause_ms: float = PAUSE_MS,
    onset_ms: float | None = None,
    start=None,
) -> Gestures:
    """Press and release twice at a place, `pause_ms` between release and press; otherwise as `click`."""
    places = _places(at, 1)
    spans = _spans(seq_len, rate, [duration_ms, duration_ms], [pause_ms], onset_ms)
    return strokes(places.repeat(2, axis=1), spans, seq_len, still=True, start=start)


def swipe(
    begin, end, seq_len: int, rate: float, *, duration_ms: float = STROKE_MS, onset_ms: float | None = None, start=None
) -> Gestures:
    """Press at one place, and release at another; otherwise as `click`."""
    ends = np.concatenate(np.broadcast_arrays(_places(begin, 1), _places(end, 1)), axis=1)  # (N, 2, 2)
    return drag(ends, seq_len, rate, duration_ms=duration_ms, onset_ms=onset_ms, start=start)


def drag(
    points, seq_len: int, rate: float, *, duration_ms: float = STROKE_MS, onset_ms: float | None = None, start=None
) -> Gestures:
    """Press at the first of the points, `(P, 2)` or `(N, P, 2)`, pass through the others, and release at the last.

    It is at each when a hand of minimum jerk has that share of the way behind it (Flash and Hogan 1985, equation 5); otherwise
    as `click`.
    """
    points = np.asarray(points, np.float32)
    places = _places(points, points.shape[-2])
    return strokes(places, _spans(seq_len, rate, [duration_ms], [], onset_ms), seq_len, start=start, whole=True)


def _places(values, count: int) -> np.ndarray:
    """Check places in [0, 1], and return them `(N, count, 2)`."""
    places = np.asarray(values, np.float32)
    if places.size == 0 or places.shape[-1] != 2:
        raise ValueError(f"places have the shape {places.shape}, not (..., 2)")
    if not ((places >= 0) & (places <= 1)).all():
        raise ValueError("a place lies outside [0, 1]; give shares of the screen")
    return places.reshape(-1, count, 2)


def _spans(seq_len: int, rate: float, durations_ms: list[float], pauses_ms: list[float], onset_ms: float | None) -> np.ndarray:
    """Return the first and the last pressed step of each press, `(1, S, 2)`."""
    if not 0 < rate < math.inf:
        raise ValueError(f"rate is {rate:g}; give the steps a second, more than 0")
    lengths = [max(1, round(duration * rate / 1000)) for duration in durations_ms]
    pauses = [max(1, round(pause * rate / 1000)) for pause in pauses_ms]
    if onset_ms is not None and not 0 <= onset_ms < math.inf:
        raise ValueError(f"onset_ms is {onset_ms:g}; give milliseconds, 0 or more")
    whole = sum(lengths) + sum(pauses)
    first = (seq_len - whole) // 2 if onset_ms is None else round(onset_ms * rate / 1000)
    if not 0 <= first <= seq_len - whole:
        lasts, long = f"{1000 * whole / rate:g} ms from {1000 * max(first, 0) / rate:g} ms on", f"{1000 * seq_len / rate:g} ms"
        raise ValueError(f"the gesture takes {lasts}, and an action is {long} long; shorten it, or begin it sooner")
    spans = []
    for length, pause in zip(lengths, [*pauses, 0], strict=True):
        spans.append((first, first + length - 1))
        first += length + pause
    return np.array(spans)[None]


def strokes(
    places: np.ndarray, spans: np.ndarray, seq_len: int, *, still: bool = False, start=None, whole: bool = False
) -> Gestures:
    """Return what is known of N actions that press in each of S spans of steps.

    Args:
        places: `(N, P, 2)`, passed at minimum jerk from the first pressed step to the last.
        spans: First and last step of each press, `(N, S, 2)`, or `(1, S, 2)` for all alike.
        still: Whether all steps from the first to the last are at the first of the places.
        start: As in `click`.
        whole: Whether every place must have a step of its own; otherwise, of those that fall on one, the last counts.

    Raises:
        ValueError: that cannot be, or the gesture begins where `start` says that the pointer is.
    """
    step, rows = np.arange(seq_len), np.arange(len(places))[:, None]
    known = np.zeros((len(places), seq_len, NUM_CHANNELS), np.float32)
    mask = np.zeros_like(known, dtype=bool)
    known[..., PRESS] = ((step >= spans[..., :1]) & (step <= spans[..., 1:])).any(axis=1)
    mask[..., PRESS] = True
    first, last = spans[:, 0, :1], spans[:, -1, 1:]  # (N, 1)
    if still:
        inside = np.broadcast_to(((step >= first) & (step <= last))[..., None], mask[..., :PRESS].shape)
        known[..., :PRESS] = np.where(inside, places[:, :1], 0)
        mask[..., :PRESS] = inside
    else:
        way = np.linalg.norm(np.diff(places, axis=1), axis=-1).cumsum(axis=1)
        share = np.pad(way / np.maximum(way[:, -1:], 1e-9), ((0, 0), (1, 0)))
        share[:, -1] = 1
        tau = np.linspace(0, 1, 1001)
        at = first + np.rint(np.interp(share, minimum_jerk_progress(tau), tau) * (last - first)).astype(int)
        if whole and ((np.diff(at) == 0) & (np.diff(places, axis=1) != 0).any(axis=-1)).any():
            steps = int((last - first).max()) + 1
            raise ValueError(f"{places.shape[1]} places do not fit into a stroke of {steps} steps; give it more time")
        known[rows, at, :PRESS] = places
        mask[rows, at, :PRESS] = True
    if start is not None:
        if (first == 0).any():
            raise ValueError("the gesture begins at step 0, where start says that the pointer is; begin it later")
        known[:, 0, :PRESS] = _places(start, 1)[:, 0]
        mask[:, 0, :PRESS] = True
    return Gestures(known, mask)
