"""Drawings: strokes of a pen or finger, of which nothing tells where it was between them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from action_ddim.errors import UserError, first_line
from action_ddim.recordings.trace import FRACTIONS, Counts, Recording, Trace, make_trace, trace_of_strokes

OMNIGLOT_SCREEN = (105.0, 105.0)  # of the drawing area; strokes run over its edge by a few


def read_omniglot(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read strokes of Omniglot (Lake et al., 2015): `START`, rows `x,y,t`, y upwards, t in ms, `BREAK` after each stroke.

    The person is the number after the underscore of `NNNN_DD.txt`, twenty for each alphabet, the folder above the character's.
    """
    lines = path.read_text().splitlines()
    strokes: list[list[list[float]]] = [[]]
    for number, line in enumerate(lines, 1):
        if line.strip() == "BREAK":
            strokes.append([])
        elif line.strip() not in ("", "START"):
            strokes[-1].append(_numbers(path, number, line.split(","), 3))
    alphabet, drawer = path.resolve().parent.parent.name, path.stem.rpartition("_")[2]
    recording = Recording(str(path), "pen", f"{alphabet}/{drawer}", screen=OMNIGLOT_SCREEN, strokes=True)
    # Down is negative: the upper edge is 0.
    yield trace_of_strokes(recording, [_rows(stroke)[:, [2, 0, 1]] * [1, 1, -1] for stroke in strokes], 1e3)


def read_strokes_json(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read a list of strokes, each a list of `{"x", "y", "time"}` (or `"t"`), times in ms, or a CouchDB view of such documents.

    Lines that begin with `//` are comments.
    """
    text = "\n".join("" if line.lstrip().startswith("//") else line for line in path.read_text().splitlines())
    try:
        content = json.loads(text)
        # detexify: {"rows": [{"id": ..., "doc": {"data": [strokes]}}]}
        drawings = (
            [(row["id"], row["doc"]["data"]) for row in content["rows"]] if isinstance(content, dict) else [(None, content)]
        )
        for name, strokes in drawings:
            recording = Recording(str(path), "pen", part=name, canvas=True, strokes=True)
            yield trace_of_strokes(recording, [_points(stroke) for stroke in strokes], 1e3)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: it is not JSON ({error.msg})") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no strokes of points with x, y and time: {type(error).__name__} {error}") from error


def read_futo(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read swiped words of the FUTO keyboard: a JSON object a line, `data` of `{"t", "x", "y"}`, fractions of the keyboard.

    The volunteer is known by the sitting, `session`.
    """
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                word = json.loads(line)
                sitting = word["session"]
                if not isinstance(sitting, str):
                    raise TypeError(f"session {sitting!r}")
                recording = Recording(str(path), "touch", sitting, sitting, f"line {number}", FRACTIONS, strokes=True)
                yield trace_of_strokes(recording, [_points(word["data"])], 1e3)
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: {first_line(error)} is wrong; it is no swiped word") from error


def read_svc(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read a tablet's `.svc`: the number of rows, then `x y t pen azimuth altitude pressure`.

    Whole numbers are device units and ms, decimals mm and seconds. Pen 0 is in the air, where the tablet sees it too. y grows
    upwards.
    """
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    stated = lines[0][0] if lines else "no"
    rows = [_numbers(path, number, line, 7) for number, line in enumerate(lines[1:], 2)]
    if not rows or not stated.isdecimal() or int(stated) > len(rows):  # some tell one less than there are
        raise UserError(f"{path}, line 1: it says {stated} rows, and {len(rows)} follow; restore the file, or remove it")
    x, y, time, pen = np.array(rows, np.float64).reshape(-1, 7)[:, :4].T
    per_second = 1.0 if any("." in word for word in lines[1][:3]) else 1e3
    recording = Recording(str(path), "pen", canvas=True, upwards=True)
    yield make_trace(recording, (time - time[0]) / per_second, x, -y, pen > 0)


def _points(points: list[dict]) -> np.ndarray:
    times = [point["t"] if "t" in point else point["time"] for point in points]
    return _rows([[time, point["x"], point["y"]] for time, point in zip(times, points, strict=True)])


def _rows(values: list[list[float]]) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 3)


def _numbers(path: Path, number: int, words: list[str], count: int) -> list[float]:
    try:
        if len(words) == count:
            return [float(word) for word in words]
    except ValueError:
        pass
    raise UserError(f"{path}, line {number}: {' '.join(words)[:80]!r} are not {count} numbers")
