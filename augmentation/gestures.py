"""Synthetic pointer gestures: what is drawn, how it is rendered, and a data set of it.

A *click* holds one place for the duration of its press. A *swipe* moves between two places along a straight line with
the minimum-jerk profile of human reaching (Flash and Hogan 1985, J. Neurosci. 5(7), equation 5). Further types are in
`action_types.py`; `strokes.py` makes any of them as a hand does. Needs numpy only.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from action_ddim.actions import IDLE_MODES, MAX_SEQ_LEN, MIN_SEQ_LEN
from action_ddim.data.writer import write_dataset
from action_ddim.errors import UserError
from augmentation.action_types import MAX_PLACE, MIN_PLACE, PLANS, Canvas, Plan
from augmentation.strokes import RATE_HZ, humanize, make_strokes, minimum_jerk_progress, trace, tremor

STRAIGHT = ("mixed", "click", "swipe")
ACTION_TYPES = (*STRAIGHT, *PLANS)
CLICK_SHARE = 0.27  # of `mixed`; the rest is horizontal, vertical and diagonal swipes in equal parts
MAX_SCREEN = 1 << 16  # pixels a side
# Sequences are drawn in blocks of this many, each from its own generator: sequence i depends on (seed, i) alone, and
# memory on the block alone. A change of it changes every data set.
BLOCK = 1024
CHOICE, HAND = 1, 2  # of the generators that choose among types, and that move the hand


@dataclass(frozen=True)
class GestureConfig:
    """What a synthetic data set holds; written to its `dataset.json`.

    The press, or all of it from a first press to a second, lasts between `min_delta_t_pct` and `max_delta_t_pct` of the
    `sequence_length` steps; `idle` says where the pointer is outside it: where the gesture brings it (`hold`), or at 0, 0 as a
    touch screen may say (`zero`). Of several action types each has a share by the `weights`, or all the same. A `human` hand
    bends strokes, corrects them and trembles. On a `screen` of so many pixels, width and height, places are those of pixels.
    """

    num_sequences: int = 5000
    action_type: str | tuple[str, ...] = "mixed"
    min_delta_t_pct: float = 0.02
    max_delta_t_pct: float = 0.3
    sequence_length: int = 250
    seed: int = 0
    idle: str = "hold"
    weights: tuple[float, ...] | None = None
    human: bool = False
    screen: tuple[int, int] | None = None

    def __post_init__(self):
        if not isinstance(self.action_type, str):
            types = tuple(self.action_type)
            object.__setattr__(self, "action_type", types[0] if len(types) == 1 else types)
        self._check_types()
        if self.screen is not None and not all(2 <= side <= MAX_SCREEN for side in self.screen):
            raise UserError(
                f"--screen is {self.screen[0]}x{self.screen[1]}; give 2 to {MAX_SCREEN} pixels a side, as 1920x1080"
            )
        if self.num_sequences < 1:
            raise UserError(f"--num_sequences is {self.num_sequences}; give at least 1")
        if not MIN_SEQ_LEN <= self.sequence_length <= MAX_SEQ_LEN:
            raise UserError(f"--sequence_length is {self.sequence_length}; give {MIN_SEQ_LEN} to {MAX_SEQ_LEN} steps")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}; give 0 to 4294967295")
        if self.idle not in IDLE_MODES:
            raise UserError(f"--idle is {self.idle!r}; choose from {', '.join(IDLE_MODES)}")
        if not 0 < self.min_delta_t_pct <= self.max_delta_t_pct <= 1:
            raise UserError(
                f"--min_delta_t_pct {self.min_delta_t_pct:g} and --max_delta_t_pct {self.max_delta_t_pct:g} must be"
                " fractions of the length with 0 < min <= max <= 1"
            )
        shortest, longest = self.durations
        if shortest > longest:
            raise UserError(
                f"no whole number of steps lies between {self.min_delta_t_pct:g} and {self.max_delta_t_pct:g} of"
                f" {self.sequence_length} steps; raise --max_delta_t_pct or --sequence_length"
            )
        for name in set(self.types) & set(PLANS):
            needed = PLANS[name][1]
            if needed > longest:
                raise UserError(
                    f"--action_type {name} takes at least {needed} steps, and --max_delta_t_pct {self.max_delta_t_pct:g} of"
                    f" {self.sequence_length} is {longest}; raise --max_delta_t_pct or --sequence_length"
                )

    def _check_types(self) -> None:
        for name, count in Counter(self.types).items():
            if name not in ACTION_TYPES:
                raise UserError(f"--action_type is {name!r}; choose from {', '.join(ACTION_TYPES)}")
            if count > 1:
                raise UserError(f"--action_type names {name} twice; give its share by --weights")
        if not self.types:
            raise UserError(f"--action_type names none; choose from {', '.join(ACTION_TYPES)}")
        if self.weights is None:
            return
        object.__setattr__(self, "weights", tuple(self.weights))
        said = " ".join(f"{weight:g}" for weight in self.weights)
        if len(self.weights) != len(self.types):
            raise UserError(
                f"--weights {said} are {len(self.weights)}, of {len(self.types)} types; give one for each --action_type"
            )
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError(f"--weights are {said}; give numbers above 0")

    @property
    def types(self) -> tuple[str, ...]:
        """The action types, one or several."""
        return (self.action_type,) if isinstance(self.action_type, str) else self.action_type

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height of the screen over the shorter of them; a screen that is not known is square."""
        width, height = self.screen or (1, 1)
        return width / min(width, height), height / min(width, height)

    @property
    def durations(self) -> tuple[int, int]:
        """The shortest and the longest press, in steps, both included."""
        # The margin keeps 0.3 * 250 at 75 where floating point says 75.00000000000001 or 74.99999999999999.
        shortest = math.ceil(self.min_delta_t_pct * self.sequence_length - 1e-9)
        return max(1, shortest), math.floor(self.max_delta_t_pct * self.sequence_length + 1e-9)


class Gestures(NamedTuple):
    """The parameters of N gestures: first pressed step and number of pressed steps `(N,)`, places `(N, 2)` in [0, 1]."""

    onset: np.ndarray
    duration: np.ndarray
    start: np.ndarray
    end: np.ndarray


def draw_gestures(config: GestureConfig, block: int) -> Gestures:
    """Draw the parameters of one block of `BLOCK` gestures of `STRAIGHT` type, a pure function of (config, block)."""
    rng = np.random.default_rng([config.seed, block])
    shortest, longest = config.durations
    duration = rng.integers(shortest, longest, size=BLOCK, endpoint=True)
    onset = rng.integers(0, config.sequence_length - duration, endpoint=True)
    start = rng.uniform(MIN_PLACE, MAX_PLACE, size=(BLOCK, 2))
    end = rng.uniform(MIN_PLACE, MAX_PLACE, size=(BLOCK, 2))
    kind = rng.random(BLOCK)
    direction = rng.integers(3, size=BLOCK)
    if config.action_type == "mixed":
        click, horizontal, vertical = kind < CLICK_SHARE, direction == 0, direction == 1
    else:
        click = np.full(BLOCK, config.action_type == "click")
        horizontal = vertical = np.zeros(BLOCK, dtype=bool)
    end[:, 0] = np.where(click | vertical, start[:, 0], end[:, 0])
    end[:, 1] = np.where(click | horizontal, start[:, 1], end[:, 1])
    return Gestures(onset, duration, start, end)


def render_gestures(gestures: Gestures, sequence_length: int, idle: str = "hold") -> np.ndarray:
    """Return the actions `(N, sequence_length, 3)` of N gestures, float32; `idle` as in `GestureConfig`."""
    onset, duration = gestures.onset[:, None].astype(np.float32), gestures.duration[:, None].astype(np.float32)
    since_onset = np.arange(sequence_length, dtype=np.float32) - onset  # (N, L)
    press = (since_onset >= 0) & (since_onset < duration)
    tau = np.clip(since_onset / np.maximum(duration - 1, 1), 0, 1)  # 0 on the first pressed step, 1 on the last
    progress = minimum_jerk_progress(tau)
    actions = np.empty((*press.shape, 3), dtype=np.float32)
    for axis in range(2):
        start = gestures.start[:, axis, None].astype(np.float32)
        end = gestures.end[:, axis, None].astype(np.float32)
        actions[..., axis] = start + (end - start) * progress
    if idle == "zero":
        actions[..., :2] *= press[..., None]
    actions[..., 2] = press
    return actions


def draw_plan(config: GestureConfig, block: int) -> Plan:
    """Draw one block of `BLOCK` gestures of one type as presses and strokes, a pure function of (config, block)."""
    (name,) = config.types
    if name in STRAIGHT:
        gestures = draw_gestures(config, block)
        start, end = ((places * config.sides) @ (1, 1j) for places in (gestures.start, gestures.end))
        onset, duration = gestures.onset[:, None], gestures.duration[:, None]
        return Plan(onset, duration, make_strokes(start, (end - start)[:, None], onset, onset + duration - 1))
    draw, needed = PLANS[name]
    shortest, longest = config.durations
    canvas = Canvas(BLOCK, config.sequence_length, config.sides)
    return draw(canvas, np.random.default_rng([config.seed, block]), max(shortest, needed), longest)


def render_plan(plan: Plan, config: GestureConfig, block: int, rows: np.ndarray) -> np.ndarray:
    """Return the actions of some gestures of a block, `(len(rows), sequence_length, 3)` float32, by a hand if it is `human`."""
    length, strokes, shaking = config.sequence_length, plan.strokes, np.zeros(1)
    if config.human:
        rng = np.random.default_rng([config.seed, block, HAND])
        shaking = tremor(strokes, length, rng, rows)
        strokes = humanize(strokes, rng)
    places = trace(strokes.of(rows), length) + shaking
    actions = np.empty((*places.shape, 3), dtype=np.float32)
    for axis, along in enumerate((places.real, places.imag)):
        along = along / config.sides[axis]
        if config.human:
            along = on_screen(along)
        if config.screen is not None:
            along = np.round(along * config.screen[axis]) / config.screen[axis]
        actions[..., axis] = along
    since_onset = np.arange(length) - plan.onset[rows, :, None]  # (N, P, L)
    actions[..., 2] = ((since_onset >= 0) & (since_onset < plan.duration[rows, :, None])).any(axis=1)
    if config.idle == "zero":
        actions[..., :2] *= actions[..., 2:]
    return actions


def on_screen(values: np.ndarray) -> np.ndarray:
    """Return one axis of N paths, `(N, L)`, of which those that leave [0, 1] are shifted into it, and made to fit."""
    lowest, highest = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    size = highest - lowest
    fitted = np.clip(lowest, 0, np.maximum(0, 1 - size)) + (values - lowest) / np.maximum(size, 1)
    return np.where((lowest < 0) | (highest > 1), fitted, values).clip(0, 1)


def generate_rows(config: GestureConfig, block: int, rows: np.ndarray) -> np.ndarray:
    """Return some sequences of a block. Of several types, sequence i is sequence i of a data set of its type alone."""
    if len(config.types) > 1:
        weights = np.array(config.weights or np.ones(len(config.types)))
        weights = weights / weights.max()  # whose sum may be more than a number holds
        kind = np.random.default_rng([config.seed, block, CHOICE]).choice(len(weights), BLOCK, p=weights / weights.sum())[rows]
        actions = np.empty((len(rows), config.sequence_length, 3), np.float32)
        for number, name in enumerate(config.types):
            one = replace(config, action_type=name, weights=None)
            actions[kind == number] = generate_rows(one, block, rows[kind == number])
        return actions
    if config.types[0] in STRAIGHT and not config.human and config.screen is None:
        gestures = Gestures(*(values[rows] for values in draw_gestures(config, block)))
        return render_gestures(gestures, config.sequence_length, config.idle)
    return render_plan(draw_plan(config, block), config, block, rows)


def generate(config: GestureConfig) -> Iterator[np.ndarray]:
    """Yield the data set as blocks of actions, at most `BLOCK` sequences each; `np.concatenate(list(...))` is all of it."""
    for first in range(0, config.num_sequences, BLOCK):
        yield generate_rows(config, first // BLOCK, np.arange(min(BLOCK, config.num_sequences - first)))


def write_gestures(
    config: GestureConfig, output_dir: str | Path, *, sequences_per_file: int = 1000, overwrite: bool = False
) -> None:
    """Write the data set as `write_dataset` does, with its settings in `dataset.json`."""
    # What is off is left out: data sets of the settings that there were before say what they said.
    settings = {name: value for name, value in asdict(config).items() if value is not None and value is not False}
    info = {"source": "augmentation.generate_click_dataset", **settings, **({"rate_hz": RATE_HZ} if config.human else {})}
    blocks, count = generate(config), config.num_sequences
    write_dataset(output_dir, blocks, count, info, sequences_per_file=sequences_per_file, overwrite=overwrite)
