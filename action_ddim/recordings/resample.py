"""Rows that came when they came, as steps at a fixed rate."""

import numpy as np

from action_ddim.recordings.trace import Counts, Trace

# A device that rests sends nothing. Rows further apart than this many intervals, and than this time, are taken for a rest.
REST_INTERVALS = 4
REST_S = 0.04
CLICK_S = 0.08  # the median press of SapiMouse
TOLERANCE_S = 1e-6  # of times that were rounded: a step at the time of a row has its place, to the last bit


def resample(piece: Trace, rate: float, interval: float, counts: Counts) -> np.ndarray:
    """Return steps `(n, 3)` of x, y and press, float32, the first at the time of the first row.

    Places are linear in time between two rows, press is that of the row before. Where rows lie further apart than a device in
    motion sends them, the pointer rests, and moves in the last interval before the next row: a line in time would be a drift
    that nobody made. Where the way was not seen, between strokes, it rests until the next one begins. A press whose end no row
    tells ends after the time of a click, or with the next row; one that falls between two steps takes the second.

    Args:
        piece: Cleaned: time grows from row to row, x and y are in [0, 1].
        rate: Steps a second.
        interval: Seconds between two rows while the pointer moves.
    """
    if not len(piece):
        return np.empty((0, 3), np.float32)
    time = piece.time - piece.time[0]
    seen_s = time[-1] + (interval if piece.recording.strokes else 0)  # the end of a stroke is there for an interval
    steps = np.arange(int((seen_s + TOLERANCE_S) * rate) + 1) / rate
    row = np.searchsorted(time, steps + TOLERANCE_S, side="right") - 1  # at each step, the last one
    following = np.minimum(row + 1, len(time) - 1)
    gap = np.diff(time, append=np.inf)
    unseen = np.append(piece.unseen[1:], False)  # the way to the following row
    rests = gap > max(REST_INTERVALS * interval, REST_S)
    moving_s = np.select([unseen, rests], [TOLERANCE_S, interval], gap)  # before the following row, the pointer sets out
    share = (1 - (time[following] - steps) / moving_s[row]).clip(0, 1)
    x, y = (column[row] + (column[following] - column[row]) * share for column in (piece.x, piece.y))
    lost = np.append(piece.lost[1:], False)
    until = time + np.select([unseen, lost], [interval, max(interval, CLICK_S)], np.inf)
    press = piece.press[row] & (steps < until[row] - TOLERANCE_S)
    # The step after each press begins, which may end before it.
    begins = time[piece.press & (piece.unseen | ~np.append(False, piece.press[:-1]))]
    after = np.ceil((begins - TOLERANCE_S) * rate).astype(int).clip(0, len(steps) - 1)
    counts.change("short_press", np.count_nonzero(~press[after]))
    press[after] = True
    return np.stack([x, y, press], axis=1).astype(np.float32)
