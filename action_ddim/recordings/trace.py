"""What a recording is, whatever wrote it: rows in time, read in blocks, and what became of each row."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import SupportsInt

import numpy as np

# What a device that sends only changes leaves between two rows where nothing tells otherwise; most send at 60 Hz.
DEFAULT_INTERVAL_S = 1 / 60
FRACTIONS = (1.0, 1.0)  # the screen of places that are fractions of it, whatever its size
MAX_INTERVAL_S = 0.5  # rows further apart tell of a rest, not of how often the device sends


@dataclass(frozen=True)
class Box:
    """Where a screen lies, in the unit of x and y."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Recording:
    """Where rows come from: what all rows of one sitting of one person share."""

    file: str
    device: str  # mouse, pen or touch
    user: str | None = None
    session: str | None = None
    part: str | None = None  # of a file that holds several
    screen: tuple[float, float] | None = None  # width and height in the unit of x and y, where the file tells
    canvas: bool = False  # x and y are of a canvas whose edges nothing tells, not of a page that begins at (0, 0)
    upwards: bool = False  # y grew upwards, from the lower edge; it is given negated
    strokes: bool = False  # only what was drawn is there: nothing tells where the pointer was between strokes


@dataclass(frozen=True)
class Trace:
    """Rows of a recording, in the order of the file.

    Args:
        recording: Where they come from.
        time: Seconds, float64 `(n,)`, from any start.
        x: From the left edge of the screen, float64 `(n,)`, in the recording's unit.
        y: From its upper edge, downwards.
        press: Whether the button, finger or pen is down, bool `(n,)`.
        unseen: Whether the way from the row before was not recorded: first rows of strokes, bool `(n,)`.
        lost: Whether the row says that a press ended of which no row told the end, bool `(n,)`.
    """

    recording: Recording
    time: np.ndarray
    x: np.ndarray
    y: np.ndarray
    press: np.ndarray
    unseen: np.ndarray
    lost: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, rows: slice | np.ndarray) -> "Trace":
        return Trace(self.recording, *(column[rows] for column in self.columns))

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """All columns, in the order in which they are declared."""
        return self.time, self.x, self.y, self.press, self.unseen, self.lost

    def scaled(self, screen: Box) -> "Trace":
        """Return the trace with x and y in fractions of the screen."""
        return replace(self, x=(self.x - screen.left) / screen.width, y=(self.y - screen.top) / screen.height)

    def typical_interval(self) -> float:
        """Return the seconds between two rows while the pointer moves: the median."""
        moved = ((np.diff(self.x) != 0) | (np.diff(self.y) != 0)) & ~self.unseen[1:]
        intervals = np.diff(self.time)[moved]
        intervals = intervals[intervals > 0]
        in_motion = intervals[intervals < MAX_INTERVAL_S]
        if not len(in_motion) and not self.recording.strokes and 2 * len(intervals) > len(moved):
            in_motion = intervals  # most rows are at another place than the one before: it is the device that is slow
        return float(np.median(in_motion)) if len(in_motion) else DEFAULT_INTERVAL_S


@dataclass
class Counts:
    """What became of the rows that were read: used as they are, changed, or dropped, by reason."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    windows_dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, count: SupportsInt) -> None:
        _add(self.dropped, reason, count)

    def change(self, reason: str, count: SupportsInt) -> None:
        _add(self.changed, reason, count)

    def drop_windows(self, reason: str, count: SupportsInt) -> None:
        _add(self.windows_dropped, reason, count)

    def add(self, other: "Counts") -> None:
        self.rows += other.rows
        self.dropped += other.dropped
        self.changed += other.changed
        self.windows_dropped += other.windows_dropped


def _add(counted: Counter[str], reason: str, count: SupportsInt) -> None:
    if int(count) > 0:  # a reason that nothing fell under is not told
        counted[reason] += int(count)


def make_trace(recording: Recording, time, x, y, press, *, unseen=None, lost=None) -> Trace:
    """Build a trace from columns of any number type."""
    time, x, y = (np.asarray(column, np.float64) for column in (time, x, y))
    unseen, lost = (np.zeros(len(time), bool) if flag is None else flag for flag in (unseen, lost))
    return Trace(recording, time, x, y, np.asarray(press, bool), unseen, lost)


def trace_of_strokes(recording: Recording, strokes: list[np.ndarray], per_second: float = 1.0) -> Trace:
    """Join strokes, rows `(n, 3)` of time, x and y, of one drawing; the pen is down in all of them.

    Args:
        per_second: Units of time in a second.
    """
    strokes = [stroke for stroke in strokes if len(stroke)]
    rows = np.concatenate([*strokes, np.empty((0, 3))])
    unseen = np.zeros(len(rows), bool)
    unseen[np.cumsum([0, *map(len, strokes)])[:-1]] = True
    time, x, y = rows.T
    # From the first row on before anything is rounded: seconds since 1970 leave a millisecond three digits.
    return make_trace(recording, (time - time[:1]) / per_second, x, y, np.ones(len(rows), bool), unseen=unseen)


def join(traces: list[Trace]) -> Trace:
    """Join blocks of one recording."""
    if len(traces) == 1:
        return traces[0]
    return Trace(traces[0].recording, *map(np.concatenate, zip(*(trace.columns for trace in traces), strict=True)))


def runs(*columns: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return first row and end of each run of rows in which no column changes."""
    count = len(columns[0])
    changes = np.zeros(max(count - 1, 0), bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    yield from pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), count])
