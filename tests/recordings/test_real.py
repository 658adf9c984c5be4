"""Real recordings: their rows, parsed by hand, beside what is made of them."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from action_ddim.recordings.cleaning import clean, pieces
from action_ddim.recordings.formats.columns import Columns
from action_ddim.recordings.formats.detect import read
from action_ddim.recordings.resample import resample
from action_ddim.recordings.trace import Box, Counts
from tests.conftest import REAL

RAW = REAL / "raw"
FILES = {
    "sapimouse": "sapimouse/*/*.csv",
    "omniglot": "omniglot/*/*/*.txt",
    "futo": "futo_swipe/*.jsonl",
    "strokes-json": "writemath_json/*.json",
    "svc": "wacom_svc/*.svc",
}
MILLISECONDS = 1000.0  # a rate at which every row of a log in milliseconds has a step of its own
NUM_ROWS = 400

pytestmark = pytest.mark.skipif(not RAW.exists(), reason="../shared/real is not there")


def parse(path: Path, name: str) -> list[list[tuple[float, float, float, bool]]]:
    """Return the drawings or sessions of a file: rows of milliseconds, x, y downwards, and whether it is pressed."""
    text = path.read_text()
    if name == "sapimouse":
        rows = csv.DictReader(text.splitlines())
        return [[(float(row["client timestamp"]), float(row["x"]), float(row["y"]), row["state"] in ("Drag", "Pressed"))
                 for row in rows]]  # fmt: skip
    if name == "omniglot":
        values = [line.split(",") for line in text.split() if line not in ("START", "BREAK")]
        return [[(float(t), float(x), -float(y), True) for x, y, t in values]]
    if name == "futo":
        words = [json.loads(line)["data"] for line in text.splitlines()]
        return [[(point["t"], point["x"], point["y"], True) for point in word] for word in words]
    if name == "svc":
        unit = 1e3 if "float" in path.name else 1
        values = [line.split() for line in text.splitlines()[1:]]
        return [[(unit * float(t), float(x), -float(y), pen == "1") for x, y, t, pen, *_ in values]]
    content = json.loads("\n".join(line for line in text.splitlines() if not line.startswith("//")))
    drawings = [row["doc"]["data"] for row in content["rows"]] if isinstance(content, dict) else [content]
    return [[(point.get("time", point.get("t")), point["x"], point["y"], True) for stroke in strokes for point in stroke]
            for strokes in drawings]  # fmt: skip


def compared(path: Path, name: str, rate: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the x, y and press of each row that tells the state at its time, and what the steps of its piece say then."""
    sessions = parse(path, name)
    low = np.min([row[1:3] for session in sessions for row in session], axis=0)
    size = np.ptp([row[1:3] for session in sessions for row in session], axis=0)
    counts = Counts()
    made: dict = {}
    for piece, interval in pieces(read(path, name, Columns(), counts), 2.0, counts):
        for part in clean(piece.scaled(Box(*low, *size)), 2.0, counts):
            steps = resample(part, rate, interval, counts)
            if len(part):
                made.setdefault(part.recording, []).append((part.time[0], part.time[-1], steps))
    assert len(made) == len(sessions)
    for session, of_it in zip(sessions, made.values(), strict=True):
        time = (np.array([row[0] for row in session]) - session[0][0]) / 1000
        latest = np.maximum.accumulate(time) == time
        latest[:-1] &= time[:-1] != time[1:]
        for row, at in zip(np.array(session, float)[latest], time[latest], strict=True):
            for first, last, steps in of_it:
                if first - 1e-6 <= at <= last + 1e-6:
                    place = (at - first) * rate
                    before = min(int(place + 1e-4), len(steps) - 1)
                    after, share = min(before + 1, len(steps) - 1), max(place - before, 0.0)
                    found = steps[before] + (steps[after] - steps[before]) * [share, share, 0]
                    yield np.append((row[1:3] - low) / size, row[3]), found


@pytest.mark.parametrize("name", FILES)
def test_rows_are_in_the_steps_at_their_own_time(name):
    pairs = np.array([pair for path in sorted(RAW.glob(FILES[name])) for pair in compared(path, name, MILLISECONDS)])
    chosen = np.random.default_rng(0).permutation(pairs)[:NUM_ROWS]
    assert len(chosen) == min(NUM_ROWS, len(pairs))
    np.testing.assert_allclose(chosen[:, 1], chosen[:, 0], atol=1e-6)
