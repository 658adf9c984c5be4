"""Sessions that the studio recorded: a JSON object that says of whom and on what, then a row a line, in the order of time.

A row is `[ms, x, y, down, pressure, seen]`: milliseconds, pixels of the canvas, 1 where the button, finger or pen is down, its
pressure from 0 to 1, and 0 where the way from the row before was not seen: where a finger comes down, or a mouse comes in.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np

from action_ddim.errors import UserError, first_line
from action_ddim.recordings.trace import Counts, Recording, Trace, make_trace

FORMAT = "action-ddim studio 1"
DEVICES = ("mouse", "touch", "pen")
MAX_PIXELS = 100_000
MAX_NAME = 64
BLOCK_ROWS = 1 << 14


def check_header(header: Any) -> dict:
    """Return the first line of a session as it is to be written.

    Raises:
        ValueError: it is not what it should be, in one line.
    """
    if not isinstance(header, dict):
        raise ValueError("it is not an object")
    if header.get("device") not in DEVICES:
        raise ValueError(f"device is {header.get('device')!r}; known are {', '.join(DEVICES)}")
    person = header.get("person")
    # Controls, and halves of letters that no file can hold; joiners are part of some scripts, and of emoji.
    if not isinstance(person, str) or not 0 < len(person) <= MAX_NAME or {"Cc", "Cs"} & {*map(category, person)}:
        raise ValueError(f"person is no name of 1 to {MAX_NAME} letters")
    for name in ("width", "height"):
        if not is_number(header.get(name), 1, MAX_PIXELS):
            raise ValueError(f"{name} is not a number from 1 to {MAX_PIXELS}")
    return {"format": FORMAT, **{name: header[name] for name in ("person", "device", "width", "height")}}


def check_row(row: Any) -> list:
    """Return a row as it is to be written.

    Raises:
        ValueError: it is not what it should be, in one line.
    """
    if not isinstance(row, list) or len(row) != 6:
        raise ValueError("it is not [ms, x, y, down, pressure, seen]")
    limits = ((0, 1e12), (-MAX_PIXELS, MAX_PIXELS), (-MAX_PIXELS, MAX_PIXELS), (0, 1), (0, 1), (0, 1))
    for value, (least, most) in zip(row, limits, strict=True):
        if not is_number(value, least, most):
            raise ValueError(f"{str(value)[:40]} is not a number from {least:g} to {most:g}")
    if not {row[3], row[5]} <= {0, 1}:
        raise ValueError("down and seen are 0 or 1")
    return row


def is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def read_studio(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read a session. What follows the last end of a line was being written when the studio was killed, and is counted.

    Raises:
        UserError: a line is not what it should be; it names file, line and reason.
    """
    with open(path, encoding="utf-8") as lines:
        header = _parsed(path, 1, lines.readline(), check_header)
        screen = (float(header["width"]), float(header["height"]))
        recording = Recording(str(path), header["device"], header["person"], path.stem, screen=screen)
        number = 1
        while block := list(islice(lines, BLOCK_ROWS)):
            if not block[-1].endswith("\n"):
                block.pop()
                counts.rows += 1
                counts.drop("malformed", 1)
            rows = [_parsed(path, number + at, line, check_row) for at, line in enumerate(block, 1)]
            number += len(block)
            time, x, y, down, _, seen = np.array(rows, np.float64).reshape(-1, 6).T
            yield make_trace(recording, time / 1e3, x, y, down > 0, unseen=seen == 0)


def _parsed(path: Path, number: int, line: str, check) -> Any:
    try:
        return check(json.loads(line))
    except (ValueError, RecursionError) as error:  # of JSON too
        raise UserError(f"{path}, line {number}: {first_line(error)}; it is no session of the studio") from error
