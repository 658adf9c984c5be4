"""CSV and Parquet files of any columns: which of them hold what, in which units."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from action_ddim.errors import UserError
from action_ddim.recordings.formats.tables import read_csv, read_parquet
from action_ddim.recordings.trace import FRACTIONS, Counts, Recording, Trace, make_trace, runs

TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
LEAST_STEP, ROWS_TO_TELL = 5e-5, 20  # seconds between rows, of devices of up to 8,000 Hz; and how many tell it
PLACE_UNITS = ("pixels", "fraction")
DOWN = {"true", "down", "pressed", "drag", "yes"}
UP = {"false", "up", "released", "move", "no", ""}


@dataclass(frozen=True)
class Columns:
    """What holds what in a table, as the flags of the same names say."""

    time_column: str = "time"
    x_column: str = "x"
    y_column: str = "y"
    press_column: str = "press"
    user_column: str | None = None
    session_column: str | None = None
    time_unit: str = "ms"
    place_unit: str = "pixels"
    delimiter: str = ","

    @property
    def numbers(self) -> list[str]:
        return [self.time_column, self.x_column, self.y_column]

    @property
    def words(self) -> list[str]:
        return [name for name in (self.press_column, self.user_column, self.session_column) if name]


def read_table(path: Path, counts: Counts, columns: Columns, *, is_parquet: bool) -> Iterator[Trace]:
    """Read a file whose rows are in the order of time, all rows of a session of a person one after the other.

    Raises:
        UserError: a column is missing, a value is not what its column holds, or a session comes back after another.
    """
    if is_parquet:
        batches = read_parquet(path, columns.numbers, columns.words)
    else:
        batches = read_csv(path, columns.numbers, columns.words, counts, columns.delimiter)
    start, last, done = 0.0, None, set()
    for batch in batches:
        time, x, y = (batch.column(name).to_numpy(zero_copy_only=False) for name in columns.numbers)
        press = _pressed(path, columns.press_column, batch.column(columns.press_column))
        names = [_codes(batch.column(name)) for name in (columns.user_column, columns.session_column) if name]
        for first, end in runs(*(codes for codes, _ in names)) if names else [(0, len(time))]:
            if first == end:
                continue
            user, session = _names(columns, [words[codes[first]] for codes, words in names])
            if (user, session) != last:
                if (user, session) in done:
                    what = " ".join(name for name in (user, session) if name)
                    raise UserError(f"{path}: rows of {what} come back after others; sort the file by session and time")
                done.add((user, session))
                last, start = (user, session), time[first]
            screen = FRACTIONS if columns.place_unit == "fraction" else None
            recording = Recording(str(path), "pointer", user, session, screen=screen)
            seconds = (time[first:end] - start) / TIME_UNITS[columns.time_unit]
            _check_unit(path, seconds, columns)
            yield make_trace(recording, seconds, x[first:end], y[first:end], press[first:end])


def _check_unit(path: Path, seconds: np.ndarray, columns: Columns) -> None:
    """Refuse rows nearer than any device sends them, which tells that time is in another unit."""
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    # Not the median: a device may send a row for x and one for y, and then nothing for a while.
    if len(steps) >= ROWS_TO_TELL and (apart := np.quantile(steps, 0.9)) < LEAST_STEP:
        raise UserError(
            f"{path}: its rows lie {apart:.2g} s apart where column {columns.time_column!r} is in"
            f" {columns.time_unit}; name its unit by --time_unit, one of {', '.join(TIME_UNITS)}"
        )


def _codes(column) -> tuple[np.ndarray, list]:
    """Return the number of the word in each row, and the words."""
    encoded = column.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), [*encoded.dictionary.to_pylist(), None]


def _names(columns: Columns, words: list[str | None]) -> tuple[str | None, str | None]:
    named = iter(words)
    user = next(named) if columns.user_column else None
    return user, next(named) if columns.session_column else None


def _pressed(path: Path, name: str, column) -> np.ndarray:
    """Say in which rows the pointer is down: a number above 0, such as a pressure, or a word for it."""
    codes, words = _codes(column)
    known = []
    for word in words:
        pressed = _is_pressed(word or "")
        if pressed is None:
            raise UserError(f"{path}: column {name!r} holds {word!r}; give numbers, 0 for up, or words such as down and up")
        known.append(pressed)
    return np.array(known, bool)[codes]


@lru_cache(maxsize=1 << 16)
def _is_pressed(word: str) -> bool | None:
    try:
        return float(word) > 0
    except ValueError:
        lower = word.strip().lower()
        return True if lower in DOWN else False if lower in UP else None
