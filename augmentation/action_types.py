"""Action types beyond clicks and swipes: where each presses, and with which strokes.

All times are whole steps: on the first step of a press its stroke has not begun, on the last it has ended.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from augmentation.strokes import Strokes, make_strokes

MIN_PLACE, MAX_PLACE = 0.05, 0.95
WAYPOINTS = 3  # of a drag, at most
RADII = (0.05, 0.25)  # of circles, in the shorter side of the screen
FLICKS = (0.15, 0.6)  # how far a flick goes, in screens
RELEASES = (0.5, 0.65)  # the share of its time after which a flick lets go: near the highest speed, which is at 0.5


class Plan(NamedTuple):
    """N gestures: the first step and the number of steps of each of P presses, integers `(N, P)`, and their strokes."""

    onset: np.ndarray
    duration: np.ndarray
    strokes: Strokes


@dataclass(frozen=True)
class Canvas:
    """What gestures are drawn on: how many at once, over how many steps, which sides the screen has over its shorter side."""

    count: int
    length: int
    sides: tuple[float, float]

    def places(self, rng: np.random.Generator, *shape: int, margin: float = 0.0) -> np.ndarray:
        """Draw places, complex `(count, *shape)` in units of the shorter side; the margin is in the same unit."""
        x, y = (
            side * rng.uniform(MIN_PLACE + margin / side, MAX_PLACE - margin / side, (self.count, *shape))
            for side in self.sides
        )
        return x + 1j * y

    def times(self, rng: np.random.Generator, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw when gestures begin, and how many steps they last, both ends included; `(count,)` each."""
        duration = rng.integers(shortest, longest, size=self.count, endpoint=True)
        return rng.integers(0, self.length - duration, endpoint=True), duration


def long_press(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """One press at one place, in the longer half of the durations."""
    onset, duration = canvas.times(rng, (shortest + longest + 1) // 2, longest)
    return Plan(onset[:, None], duration[:, None], make_strokes(canvas.places(rng), *np.zeros((3, canvas.count, 1))))


def double_click(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """Two presses at one place, about as long as each other, and between them a gap of a fifth to a half of the whole."""
    onset, duration = canvas.times(rng, shortest, longest)
    gap = np.clip(np.round(rng.uniform(0.2, 0.5, canvas.count) * duration), 1, duration - 2).astype(int)
    first = np.clip(np.round(rng.uniform(0.4, 0.6, canvas.count) * (duration - gap)).astype(int), 1, duration - gap - 1)
    presses = np.stack([onset, onset + first + gap], axis=1), np.stack([first, duration - gap - first], axis=1)
    return Plan(*presses, make_strokes(canvas.places(rng), *np.zeros((3, canvas.count, 1))))


def drag(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """One press that holds, goes from place to place along one to three waypoints, stopping at each, and holds again."""
    onset, duration = canvas.times(rng, shortest, longest)
    places = canvas.places(rng, WAYPOINTS + 2)
    legs = rng.integers(2, WAYPOINTS + 1, size=canvas.count, endpoint=True)
    way = np.diff(places, axis=1) * (np.arange(WAYPOINTS + 1) < legs[:, None])
    # Time goes by the root of the distance, and a tenth or two of it to each hold; every one of them has a step.
    held = rng.uniform(0.1, 0.2, (canvas.count, 2))
    share = np.sqrt(np.abs(way))
    share = np.concatenate([held[:, :1], share / share.sum(axis=1, keepdims=True), held[:, 1:]], axis=1)
    share = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
    spare = duration - 1 - share.shape[1]
    knots = onset[:, None] + 1 + np.arange(share.shape[1]) + np.floor(share * spare[:, None] + 1e-9)
    return Plan(onset[:, None], duration[:, None], make_strokes(places[:, 0], way, knots[:, :-2], knots[:, 1:-1]))


def circle(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """One press along a whole circle, either way round; it is round in pixels."""
    onset, duration = canvas.times(rng, shortest, longest)
    radius, start = rng.uniform(*RADII, canvas.count), rng.uniform(0, 2 * np.pi, canvas.count)
    unit = canvas.places(rng, margin=RADII[1])
    turn = 2 * np.pi * rng.choice([-1, 1], canvas.count)
    radial = radius * np.exp(1j * start)
    way = radial * turn * 1j  # the tangent, as long as the circumference
    begin, end = onset[:, None], (onset + duration - 1)[:, None]
    strokes = make_strokes(unit + radial, way[:, None], begin, end, turn=turn[:, None])
    return Plan(begin, duration[:, None], strokes)


def scroll_flick(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """One press straight up or down, in the shorter half of the durations, released in motion."""
    onset, duration = canvas.times(rng, shortest, max(shortest, (shortest + longest) // 2))
    distance, down = rng.uniform(*FLICKS, canvas.count), rng.random(canvas.count) < 0.5
    width, height = canvas.sides
    top = rng.uniform(MIN_PLACE, MAX_PLACE - distance)
    origin = width * rng.uniform(MIN_PLACE, MAX_PLACE, canvas.count) + 1j * height * np.where(down, top, top + distance)
    way = 1j * height * np.where(down, distance, -distance)
    cut = rng.uniform(*RELEASES, canvas.count)[:, None]
    begin, end = onset[:, None], (onset + duration - 1)[:, None]
    return Plan(begin, duration[:, None], make_strokes(origin, way[:, None], begin, end, cut=cut))


def two_stroke(canvas: Canvas, rng: np.random.Generator, shortest: int, longest: int) -> Plan:
    """Two presses, a straight stroke each, and between them the way from the one to the other, without a press."""
    onset, duration = canvas.times(rng, shortest, longest)
    spare = duration - 5  # two steps a stroke, one between
    gap = np.floor(rng.uniform(0.15, 0.35, canvas.count) * spare).astype(int)
    first = 2 + np.floor(rng.uniform(0.35, 0.65, canvas.count) * (spare - gap)).astype(int)
    second = onset + first + 1 + gap
    onsets, durations = np.stack([onset, second], axis=1), np.stack([first, onset + duration - second], axis=1)
    begin = np.stack([onset, onset + first - 1, second], axis=1)
    end = np.stack([onset + first - 1, second, onset + duration - 1], axis=1)
    places = canvas.places(rng, 4)
    return Plan(onsets, durations, make_strokes(places[:, 0], np.diff(places, axis=1), begin, end))


# What draws each, and the steps that it takes at least, from the first press to the last.
PLANS = {
    "long_press": (long_press, 1),
    "double_click": (double_click, 3),
    "drag": (drag, WAYPOINTS + 4),
    "circle": (circle, 9),
    "scroll_flick": (scroll_flick, 3),
    "two_stroke": (two_stroke, 5),
}
