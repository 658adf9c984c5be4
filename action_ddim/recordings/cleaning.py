"""Rows that cannot be what happened are dropped or mended, and counted by reason; rows far apart in time are parted."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby, pairwise
from operator import attrgetter

import numpy as np

from action_ddim.recordings.trace import Counts, Trace, join

# Reasons, as they are counted in the summary and in dataset.json.
DROPPED = {
    "malformed": "too few or too many values",
    "not_a_number": "time or place is missing or not a number",
    "off_screen_mark": "the log says that the pointer left the screen (65535, 65535)",
    "scroll": "of the wheel, without a place",
    "outside_screen": "further than a tenth of the screen outside it",
    "backward_time": "out of the order of time: earlier than the row before, or one that is later than the next two",
    "equal_time": "at the time of the next row, which is the later state",
    "too_fast": "reached and left at more than 30 screens a second",
    "too_sparse": "of a recording that has too few rows a second of motion (--min_rate)",
    "alone": "no other row of it within --max_gap, and no press or stroke of its own",
}
CHANGED = {
    "clipped": "less than a tenth of the screen outside it, and put on its edge",
    "lost_release": "no row tells the end of the press, which lasts a click longer than its last row, or to the next one",
    "one_point_stroke": "a stroke of one row, which becomes a press of one interval",
    "short_press": "a press between two steps, which takes the second",
}
MARGIN = 0.1  # of the screen: sensors and rounding overshoot by a little, what is further off is another place
MAX_SPEED = 30.0  # screens a second; a flick of the wrist makes ten
TELLING_ROWS = 1000  # of a recording tell how often its device sends
MAX_PIECE_ROWS = 1 << 17  # what is taken into memory at once, of a recording without a gap


def pieces(blocks: Iterable[Trace], max_gap: float, counts: Counts) -> Iterator[tuple[Trace, float]]:
    """Join blocks, and part them where recording, person or session changes or time makes a leap.

    Args:
        blocks: In the order of the file.
        max_gap: Seconds; rows further apart, forwards or back, are of two pieces.

    Returns:
        Pieces, in which time grows from row to row, and the typical interval of their recording in seconds.
    """
    pending: list[Trace] = []
    interval = 0.0

    def part(goes_on: bool) -> Iterator[tuple[Trace, float]]:
        """Hand out what is pending; a lone row whose stroke went on elsewhere in time is no point that somebody made."""
        piece = _in_order(join(pending), counts)
        pending.clear()
        if len(piece) == 1 and goes_on:
            counts.drop("alone", 1)
        else:
            yield piece, interval

    for block, of_recording in _with_intervals(_numbers(blocks, counts)):
        same = bool(pending) and pending[-1].recording == block.recording
        if not same:
            if pending:
                yield from part(False)
            interval = of_recording
        strokes = block.recording.strokes
        if same and abs(block.time[0] - pending[-1].time[-1]) > max_gap:
            yield from part(strokes and not block.unseen[0])
        for first, end in _stretches(block.time, max_gap):
            pending.append(block[first:end])
            if end < len(block):
                yield from part(strokes and not block.unseen[end])
            elif sum(map(len, pending)) >= MAX_PIECE_ROWS:
                yield from part(False)
    if pending:
        yield from part(False)


def _stretches(time: np.ndarray, max_gap: float) -> Iterator[tuple[int, int]]:
    """Return first row and end of each run of rows between which time makes no leap."""
    leaps = np.flatnonzero(np.abs(np.diff(time)) > max_gap) + 1
    return pairwise([0, *leaps.tolist(), len(time)])


def _numbers(blocks: Iterable[Trace], counts: Counts) -> Iterator[Trace]:
    """Count the rows, and drop those whose time or place is no number."""
    for block in blocks:
        counts.rows += len(block)
        block = _drop(block, ~(np.isfinite(block.time) & np.isfinite(block.x) & np.isfinite(block.y)), "not_a_number", counts)
        if len(block):
            yield block


def _with_intervals(blocks: Iterable[Trace]) -> Iterator[tuple[Trace, float]]:
    """Return blocks with the typical interval of their recording; the first are held back until there are rows to tell it."""
    for _, of_recording in groupby(blocks, attrgetter("recording")):
        first: list[Trace] = []
        for block in of_recording:
            first.append(block)
            if sum(map(len, first)) >= TELLING_ROWS:
                break
        interval = join(first).typical_interval()
        for block in chain(first, of_recording):
            yield block, interval


def _in_order(piece: Trace, counts: Counts) -> Trace:
    """Drop rows until time grows from row to row."""
    # One row whose clock is ahead would take along all that are earlier.
    around = np.concatenate([[-np.inf], piece.time, [np.inf] * 2])
    before, after, second = around[:-3], around[2:-1], around[3:]
    piece = _drop(piece, (piece.time > after) & (piece.time > second) & (after >= before), "backward_time", counts)
    piece = _drop(piece, piece.time < np.maximum.accumulate(piece.time), "backward_time", counts)
    return _drop(piece, np.diff(piece.time, append=np.inf) == 0, "equal_time", counts)


def clean(piece: Trace, max_gap: float, counts: Counts) -> Iterator[Trace]:
    """Drop and mend the rows of a piece whose x and y are fractions of the screen, and part it where too many went."""
    reach = np.maximum(np.abs(piece.x - 0.5), np.abs(piece.y - 0.5)) - 0.5
    piece = _drop_places(piece, reach > MARGIN, "outside_screen", counts)
    counts.change("clipped", np.count_nonzero(reach[reach <= MARGIN] > 0))
    piece = replace(piece, x=piece.x.clip(0, 1), y=piece.y.clip(0, 1))
    piece = _drop_places(piece, _spikes(piece), "too_fast", counts)
    ends = np.append(piece.unseen, True)  # of strokes, and of the piece
    for first, end in _stretches(piece.time, max_gap):
        whole = not piece.recording.strokes or ((not first or ends[first]) and ends[end])
        yield _mend(piece[first:end], whole, counts)


def _mend(piece: Trace, whole: bool, counts: Counts) -> Trace:
    """Drop a lone row that is no press, or of a stroke that is not whole, and count what `resample` mends."""
    if len(piece) == 1 and not (whole and piece.press[0]):
        piece = _drop(piece, np.ones(1, bool), "alone", counts)
    counts.change("lost_release", np.count_nonzero(piece.lost[1:] & piece.press[:-1]))
    ends = np.append(piece.unseen[1:], piece.recording.strokes)
    counts.change("one_point_stroke", np.count_nonzero(piece.unseen & ends[: len(piece)]))
    return piece


def _drop(piece: Trace, wrong: np.ndarray, reason: str, counts: Counts) -> Trace:
    """Drop rows. What a dropped row said of the way to it, the next one says."""
    if not wrong.any():
        return piece
    counts.drop(reason, np.count_nonzero(wrong))
    kept = np.flatnonzero(~wrong)
    groups = np.searchsorted(kept, np.arange(len(piece)))  # the row that is kept next
    unseen, lost = (np.bincount(groups[mark], minlength=len(kept) + 1)[: len(kept)] > 0 for mark in (piece.unseen, piece.lost))
    return replace(piece[kept], unseen=unseen, lost=lost)


def _drop_places(piece: Trace, wrong: np.ndarray, reason: str, counts: Counts) -> Trace:
    """Drop rows whose place is wrong. Their press is right: one that ended in them has ended."""
    return _drop(replace(piece, lost=piece.lost | (wrong & ~piece.press)), wrong, reason, counts)


def _spikes(piece: Trace) -> np.ndarray:
    """Say which rows lie far from both neighbours, which lie near to each other: a place that was never there."""
    wrong = np.zeros(len(piece), bool)
    if len(piece) < 3:
        return wrong
    way = np.hypot(np.diff(piece.x), np.diff(piece.y))
    fast = (way > MAX_SPEED * np.diff(piece.time)) & ~piece.unseen[1:]
    past = np.hypot(piece.x[2:] - piece.x[:-2], piece.y[2:] - piece.y[:-2])  # from neighbour to neighbour
    wrong[1:-1] = fast[:-1] & fast[1:] & (past < np.minimum(way[:-1], way[1:]) / 2)
    # The first and the last row have one neighbour: the two rows on that side tell how fast the pointer was.
    wrong[0] = fast[0] and 4 * way[1] < way[0] and not wrong[1]
    wrong[-1] = fast[-1] and 4 * way[-2] < way[-1] and not wrong[-2]
    return wrong
