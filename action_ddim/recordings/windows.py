"""Steps cut to sequences of one length."""

import numpy as np

from action_ddim.recordings.trace import Counts

WINDOWS = ("moving", "press", "all")
# Reasons, as they are counted in the summary and in dataset.json.
LEFT_OUT = {
    "at_rest": "neither place nor press changes (--windows moving)",
    "no_press": "stretches of a window's length away from presses (--windows press)",
    "too_short": "the end of a piece, of less than half a window",
}
MIN_SHARE = 0.5  # of a window at the end of a piece that must have been recorded; the rest of it is held


def cut(steps: np.ndarray, seq_len: int, which: str, counts: Counts, seed: tuple[int, ...] = (0,)) -> np.ndarray:
    """Return windows `(m, seq_len, 3)` that do not overlap.

    `all` and `moving` lie end to end, and `moving` leaves out those in which nothing changes. `press` lays
    a window around each press, or around several where they are near, at a place drawn by the seed. A piece that ends
    within a window is held at its last place, without a press; where less than half of a window was recorded, it is
    dropped, unless it is the only one of its piece.

    Args:
        steps: `(n, 3)`, the steps of one piece.
        seed: Of the places of windows around presses.
    """
    if not len(steps):
        return np.empty((0, seq_len, 3), np.float32)
    starts = _around_presses(steps[:, 2] > 0, seq_len, seed) if which == "press" else np.arange(0, len(steps), seq_len)
    if which == "press":
        counts.drop_windows("no_press", -(-len(steps) // seq_len) - len(starts))
    elif len(starts) > 1 and len(steps) - starts[-1] < MIN_SHARE * seq_len:
        starts = starts[:-1]
        counts.drop_windows("too_short", 1)
    held = np.repeat(steps[-1:], seq_len, axis=0)
    held[:, 2] = 0
    padded = np.concatenate([steps, held])
    windows = padded[starts[:, None] + np.arange(seq_len)]
    if which == "moving":
        still = (windows[:, :1] == windows).all((1, 2))
        counts.drop_windows("at_rest", still.sum())
        windows = windows[~still]
    return windows


def _around_presses(press: np.ndarray, seq_len: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return where windows begin that hold each press whole, where it is no longer than a window."""
    edges = np.flatnonzero(np.diff(press.astype(np.int8), prepend=0, append=0))
    draw = np.random.default_rng(seed)
    starts, free = [], 0  # the first step that is in no window yet
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        while (begin := max(begin, free)) < end:
            # A step before the press and one after it tell that it is whole.
            latest = max(begin - 1, free)
            earliest = max(min(end + 1 - seq_len, latest), free)
            starts.append(int(draw.integers(earliest, latest + 1)))
            free = starts[-1] + seq_len
    return np.array(starts, int)


def let_idle(windows: np.ndarray, idle: str) -> np.ndarray:
    """Return windows whose place between presses is as `IDLE_MODES` says; it is held in those that are given."""
    return windows * windows[..., 2:] if idle == "zero" else windows
