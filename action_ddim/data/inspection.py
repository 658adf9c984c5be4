"""What a data set holds, and what in it would make a model worse: figures over all windows, and those that look wrong.

A *window* is a sequence of L steps. Each file is read once, in pieces; what stays in memory of a window is a digest of
eight bytes. Windows that break the contract of `actions.py` are named and compared, and left out of the figures.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from action_ddim.actions import CHANNELS, PRESS, PRESS_THRESHOLD, STILL, find_invalid, moves
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.features import GESTURE_TYPES, REST, gesture_types
from action_ddim.errors import UserError

JUMP, ALONE = 0.1, 4  # screens in a step, and how many times the steps beside it that is: a fast stroke has more of them
GRID = 1 / 400  # of the screen: a coarser grid shows in a stroke as stairs
MIN_VALUES = 16  # that an axis takes, before they are judged to lie on a grid
MIN_CLIPPED = 3  # steps along an edge of the screen
MAX_NAMED = 1000  # windows of a kind, and of faults
PERCENTILES = (5, 50, 95)
SPEED_EDGES = np.geomspace(STILL, 1.5, 2901)  # screens a step; a bin is half a per cent wide, the diagonal is 1.41
# What is suspicious in a window, and why it is.
SUSPICIONS = {
    "invalid": "a value that is not finite or out of its range: the trainer refuses the file",
    "constant": "neither place nor press ever changes",
    "jump": f"a step of more than {JUMP:g} screens, {ALONE} times those beside it, or there and back: samples lost, or misread",
    "never still": "no step repeats its place: one long motion, or else noise on it, or rests that were interpolated",
    "coarse grid": f"places on a grid coarser than 1/{1 / GRID:.0f} of the screen: stairs in the place of strokes",
    "press flicker": "a press or a gap between presses of a single step: a bouncing contact, or a rate that is too low",
    "clipped": f"{MIN_CLIPPED} steps or more along an edge of the screen: places outside of it, cut off",
}


@dataclass(frozen=True)
class Inspection:
    """What was found in a data set; windows are given by their index in it, which `ActionDataset.locate` knows the file of.

    - `faults`: what is wrong with files and rows, a line each.
    - `figures`: of the windows that are valid; empty where none is. The share of steps that press; changes of the press; of
      the presses, the share that a window's end cuts, and percentiles of the length of the others; percentiles of the speed,
      in screens, of the steps that move; the shares of steps that move less than `REST`, and not at all; the variance of x
      and y over time, its mean over windows, beside that of the windows' means.
    - `gesture_shares`: by type (`features.GESTURE_TYPES`).
    - `suspicious`: how many windows, by `SUSPICIONS`; `named`: the first of each.
    - `repeats`: windows that are equal to an earlier one, bit for bit, and that one; `(R, 2)`.
    - `digests`: of each window; equal windows have equal ones.
    """

    data: ActionDataset
    rate_hz: float | None
    faults: list[str]
    figures: dict[str, float]
    gesture_shares: dict[str, float]
    suspicious: dict[str, int]
    named: dict[str, np.ndarray]
    repeats: np.ndarray
    digests: np.ndarray


def find_suspicious(actions: np.ndarray) -> dict[str, np.ndarray]:
    """Say of each of the valid windows `(N, L, 3)` whether it is what each of `SUSPICIONS` but `invalid` says; `(N,)` bool."""
    xy, pressed = actions[..., :PRESS], actions[..., PRESS] > PRESS_THRESHOLD
    moved = moves(actions)  # (N, L - 1, 2)
    changes = pressed[:, 1:] != pressed[:, :-1]
    at_edge = ((xy == 0) | (xy == 1))[:, 1:] & (xy[:, 1:] == xy[:, :-1])
    along_edge = (at_edge & moved[..., ::-1]).any(axis=-1)
    return {
        "constant": ~moved.any(axis=(1, 2)) & ~changes.any(axis=1),
        "jump": (_jumps(actions) & ~changes).any(axis=1),  # a finger comes down anywhere
        "never still": moved.any(axis=-1).all(axis=1),
        "coarse grid": _on_coarse_grid(xy, moved),
        "press flicker": (changes[:, 1:] & changes[:, :-1]).any(axis=1),
        "clipped": along_edge.sum(axis=1) >= MIN_CLIPPED,
    }


def _step_lengths(actions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(actions[..., :PRESS].astype(np.float64), axis=1), axis=-1)


def _jumps(actions: np.ndarray) -> np.ndarray:
    """Say of each step whether it is long and the steps beside it are not, or leads to a place that the next leaves again."""
    lengths = np.pad(_step_lengths(actions), ((0, 0), (1, 1)))  # (N, L + 1)
    alone = lengths[:, 1:-1] > np.maximum(JUMP, ALONE * np.maximum(lengths[:, 2:], lengths[:, :-2]))
    there, back = lengths[:, 1:-2], lengths[:, 2:-1]
    shorter, onwards = np.minimum(there, back), np.linalg.norm(actions[:, 2:, :PRESS] - actions[:, :-2, :PRESS], axis=-1)
    alone[:, :-1] |= (shorter > JUMP) & (shorter > ALONE * onwards)
    return alone


def _on_coarse_grid(xy: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Say whether x or y of each window takes values at whole multiples of one distance of more than `GRID`.

    A motion at constant speed takes such values too, and is none: on a grid, some steps of a motion are longer than others.
    """
    gaps = np.diff(np.sort(xy.astype(np.float64), axis=1), axis=1)  # (N, L - 1, 2)
    apart = gaps > STILL
    finest = np.where(apart, gaps, np.inf).min(axis=1, keepdims=True)  # inf where an axis rests throughout
    multiples = np.where(apart, gaps, 0) / finest
    on_grid = (abs(multiples - multiples.round()) < 0.05).all(axis=1)
    steps = (abs(np.diff(xy, axis=1)) / finest).round()
    under_way = np.maximum.accumulate(moved, axis=1) & np.maximum.accumulate(moved[:, ::-1], axis=1)[:, ::-1]
    longest, shortest = (reduce(np.where(under_way, steps, other), axis=1) for reduce, other in ((np.max, 0), (np.min, np.inf)))
    return (on_grid & (finest[:, 0] > GRID) & (apart.sum(axis=1) >= MIN_VALUES - 1) & (longest > shortest)).any(axis=-1)


class _Tally:
    """Sums over windows, from which the figures follow."""

    def __init__(self, seq_len: int):
        self.seq_len = seq_len
        self.num_windows = self.pressed = self.transitions = self.cut_runs = self.resting = self.still = 0
        self.within, self.means, self.squared_means = np.zeros((3, PRESS))
        self.runs = np.zeros(seq_len + 1, np.int64)  # complete presses, by their steps
        self.speeds = np.zeros(len(SPEED_EDGES) - 1, np.int64)
        self.types = np.zeros(len(GESTURE_TYPES), np.int64)
        self.fastest = 0.0

    def add(self, actions: np.ndarray) -> None:
        """Count valid windows `(N, L, 3)`."""
        pressed = actions[..., PRESS] > PRESS_THRESHOLD
        xy = actions[..., :PRESS].astype(np.float64)
        self.num_windows += len(actions)
        self.pressed += int(pressed.sum())
        self.transitions += int((pressed[:, 1:] != pressed[:, :-1]).sum())
        edges = np.diff(np.pad(pressed, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        first, end = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]  # of the same runs, in the same order
        complete = (first > 0) & (end < self.seq_len)
        self.runs += np.bincount((end - first)[complete], minlength=self.seq_len + 1)
        self.cut_runs += int((~complete).sum())
        means = xy.mean(axis=1)
        self.within += xy.var(axis=1).sum(axis=0)
        self.means += means.sum(axis=0)
        self.squared_means += (means**2).sum(axis=0)
        lengths, moved = _step_lengths(actions), moves(actions).any(axis=-1)
        self.resting += int((lengths < REST).sum())
        self.still += int((~moved).sum())
        self.speeds += np.histogram(lengths[moved], SPEED_EDGES)[0]
        self.fastest = max(self.fastest, lengths.max(initial=0))
        self.types += np.bincount(gesture_types(actions), minlength=len(GESTURE_TYPES))

    def figures(self, rate_hz: float | None) -> dict[str, float]:
        """Return the figures by name; times and speeds are in ms and screens/s where the rate is known, else by the step."""
        if not self.num_windows:
            return {}
        steps, intervals = self.num_windows * self.seq_len, self.num_windows * (self.seq_len - 1)
        time_unit, times, speed_unit, speeds = ("ms", 1000 / rate_hz, "s", rate_hz) if rate_hz else ("steps", 1, "step", 1)
        figures = {
            "press_share": self.pressed / steps,
            "transitions_per_window": self.transitions / self.num_windows,
            "cut_press_share": self.cut_runs / max(1, self.cut_runs + self.runs.sum()),
        }
        if self.runs.any():
            durations = _percentiles(self.runs, np.arange(self.seq_len + 1))
            figures |= {f"press_{time_unit}_p{p}": value * times for p, value in durations.items()}
        if self.speeds.any():
            middles = _percentiles(self.speeds, np.sqrt(SPEED_EDGES[1:] * SPEED_EDGES[:-1]))
            figures |= {f"speed_per_{speed_unit}_p{p}": value * speeds for p, value in middles.items()}
        figures |= {
            f"speed_per_{speed_unit}_max": self.fastest * speeds,
            "rest_share": self.resting / intervals,
            "exact_rest_share": self.still / intervals,
        }
        within, means = self.within / self.num_windows, self.means / self.num_windows
        between = np.maximum(self.squared_means / self.num_windows - means**2, 0)
        for axis, name in enumerate(CHANNELS[:PRESS]):
            figures |= {
                f"{name}_variance_within": within[axis],
                f"{name}_variance_between": between[axis],
                f"{name}_variance_between_share": between[axis] / max(within[axis] + between[axis], np.finfo(float).tiny),
            }
        return {name: float(value) for name, value in figures.items()}


def _percentiles(counts: np.ndarray, values: np.ndarray) -> dict[int, float]:
    """Return percentiles of values that occur so often: the smallest value that the share of them does not exceed."""
    totals = counts.cumsum()
    return {p: float(values[np.searchsorted(totals, p / 100 * totals[-1])]) for p in PERCENTILES}


def open_to_inspect(folder: str, seq_len: int | None) -> tuple[ActionDataset, list[str]]:
    """Open what can be opened of a folder; return it with what is wrong with the rest, a line a file.

    Raises:
        UserError: nothing in it can be opened.
    """
    faults: list[str] = []
    try:
        return ActionDataset(folder, seq_len, faults=faults), faults
    except UserError as error:
        if not faults:
            raise
        more = f", and so {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}") from error


def find_rate(data: ActionDataset, rate_hz: float | None) -> float | None:
    """Return the rate of a data set, what its dataset.json says or what is given, None where neither does.

    Raises:
        UserError: they contradict each other, or the file says what is no rate.
    """
    info, stated = data.folder / "dataset.json", data.info.get("rate_hz")
    if stated is None:
        return rate_hz
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated < float("inf"):
        raise UserError(f"{info} says rate_hz {stated!r}, not a number of steps a second above 0; mend it")
    if rate_hz is not None and rate_hz != stated:
        raise UserError(f"--rate is {rate_hz:g}, but {info} says {stated:g}; leave --rate out or mend the file")
    return float(stated)


def inspect(data: ActionDataset, rate_hz: float | None = None, faults: list[str] | None = None) -> Inspection:
    """Read every window of a data set once, with progress on a terminal.

    Args:
        rate_hz: Steps a second, which gives times in ms and speeds in screens/s.
        faults: Of files that could not be opened.

    Raises:
        RunError: a file can no longer be read.
    """
    tally, digests = _Tally(data.seq_len), np.empty(len(data), np.uint64)
    suspicious, faults = dict.fromkeys(SUSPICIONS, 0), list(faults or ())
    found: dict[str, list[int]] = {name: [] for name in SUSPICIONS}
    for path, in_file, first, chunk in data.chunks("inspecting"):
        valid = _are_valid(chunk)  # in the file's own type, as the trainer has it
        with np.errstate(over="ignore"):
            windows = chunk.astype(np.float32) + 0.0  # -0 and 0 are the same place
        digests[first : first + len(windows)] = [_digest(window) for window in windows]
        for index in np.flatnonzero(~valid)[: MAX_NAMED - len(faults)].tolist():
            row, fault = find_invalid(chunk[index]) or (0, "")
            faults.append(f"{path.name}, row {(in_file + index) * data.seq_len + row} (window {in_file + index}): {fault}")
        tally.add(windows[valid])
        marks = {"invalid": np.flatnonzero(~valid)}
        for name, mark in find_suspicious(windows[valid]).items():
            marks[name] = np.flatnonzero(valid)[mark]
        for name, indices in marks.items():
            suspicious[name] += len(indices)
            found[name] += (first + indices[: MAX_NAMED - len(found[name])]).tolist()
    return Inspection(
        data=data,
        rate_hz=rate_hz,
        faults=faults,
        figures=tally.figures(rate_hz),
        gesture_shares=dict(zip(GESTURE_TYPES, (tally.types / max(1, tally.num_windows)).tolist(), strict=True)),
        suspicious=suspicious,
        named={name: np.array(indices, np.int64) for name, indices in found.items()},
        repeats=_find_repeats(digests),
        digests=digests,
    )


def _are_valid(windows: np.ndarray) -> np.ndarray:
    """Say of each window `(N, L, 3)` whether it keeps the contract of `actions.py`; NaN fails every comparison."""
    xy, press = windows[..., :PRESS], windows[..., PRESS]
    return ((xy >= 0) & (xy <= 1)).all(axis=(1, 2)) & ((press == 0) | (press == 1)).all(axis=1)


def _digest(window: np.ndarray) -> int:
    """Return 64 bits of a window: among ten million windows, two that differ share them once in 400,000 data sets."""
    return int.from_bytes(hashlib.blake2b(window.tobytes(), digest_size=8).digest(), "little")


def _find_repeats(digests: np.ndarray) -> np.ndarray:
    order = np.argsort(digests, kind="stable")
    same = digests[order][1:] == digests[order][:-1]
    repeats = np.stack([order[1:], order[:-1]], axis=1)[same]
    return repeats[np.argsort(repeats[:, 0])]


def find_shared(first: Inspection, second: Inspection) -> np.ndarray:
    """Return the indices of the windows of the second data set that are in the first one too, bit for bit."""
    return np.flatnonzero(np.isin(second.digests, first.digests))
