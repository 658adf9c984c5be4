"""Synthetic pointer gestures: what is drawn, how it is rendered, and a data set of it.

A *click* holds one place for the duration of its press. A *swipe* moves between two places along a straight line with
the minimum-jerk profile of human reaching (Flash and Hogan 1985, J. Neurosci. 5(7), equation 5). Needs numpy only.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from action_ddim.actions import MIN_SEQ_LEN
from action_ddim.data.writer import write_dataset
from action_ddim.errors import UserError

ACTION_TYPES = ("mixed", "click", "swipe")
IDLE_MODES = ("hold", "zero")
CLICK_SHARE = 0.27  # of `mixed`; the rest is horizontal, vertical and diagonal swipes in equal parts
MIN_PLACE, MAX_PLACE = 0.05, 0.95
# Sequences are drawn in blocks of this many, each from its own generator: sequence i depends on (seed, i) alone, and
# memory on the block alone. A change of it changes every data set.
BLOCK = 1024


@dataclass(frozen=True)
class GestureConfig:
    """What a synthetic data set holds; written to its `dataset.json`.

    The press lasts between `min_delta_t_pct` and `max_delta_t_pct` of the `sequence_length` steps; `idle` says where the
    pointer is outside it: at the gesture's start and end (`hold`), or at 0, 0 as a touch screen may say (`zero`).
    """

    num_sequences: int = 5000
    action_type: str = "mixed"
    min_delta_t_pct: float = 0.02
    max_delta_t_pct: float = 0.3
    sequence_length: int = 250
    seed: int = 0
    idle: str = "hold"

    def __post_init__(self):
        if self.num_sequences < 1:
            raise UserError(f"--num_sequences is {self.num_sequences}; give at least 1")
        if self.sequence_length < MIN_SEQ_LEN:
            raise UserError(f"--sequence_length is {self.sequence_length}; give at least {MIN_SEQ_LEN} steps")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed is {self.seed}; give 0 to 4294967295")
        if self.action_type not in ACTION_TYPES:
            raise UserError(f"--action_type is {self.action_type!r}; choose from {', '.join(ACTION_TYPES)}")
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
    """Draw the parameters of one block of `BLOCK` gestures, a pure function of (config, block)."""
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
    progress = tau**3 * (10 + tau * (6 * tau - 15))
    actions = np.empty((*press.shape, 3), dtype=np.float32)
    for axis in range(2):
        start = gestures.start[:, axis, None].astype(np.float32)
        end = gestures.end[:, axis, None].astype(np.float32)
        actions[..., axis] = start + (end - start) * progress
    if idle == "zero":
        actions[..., :2] *= press[..., None]
    actions[..., 2] = press
    return actions


def generate(config: GestureConfig) -> Iterator[np.ndarray]:
    """Yield the data set as blocks of actions, at most `BLOCK` sequences each; `np.concatenate(list(...))` is all of it."""
    for first in range(0, config.num_sequences, BLOCK):
        gestures = draw_gestures(config, first // BLOCK)
        count = min(BLOCK, config.num_sequences - first)
        gestures = Gestures(*(values[:count] for values in gestures))
        yield render_gestures(gestures, config.sequence_length, config.idle)


def write_gestures(
    config: GestureConfig, output_dir: str | Path, *, sequences_per_file: int = 1000, overwrite: bool = False
) -> None:
    """Write the data set as `write_dataset` does, with its settings in `dataset.json`."""
    info = {"source": "augmentation.generate_click_dataset", **asdict(config)}
    blocks, count = generate(config), config.num_sequences
    write_dataset(output_dir, blocks, count, info, sequences_per_file=sequences_per_file, overwrite=overwrite)
