"""What is recorded, on disk as it comes: a file a session, which only ever grows by whole rows."""

import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from action_ddim.recordings.formats.studio import check_header, check_row

SESSION_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")  # of the page's making: when it began, and a random number
SUFFIX = ".jsonl"
MAX_ROWS = 20_000  # of one message


class GapError(Exception):
    """Rows do not follow those on disk, of which there are `count`."""

    def __init__(self, count: int):
        super().__init__(f"{count} rows are on disk")
        self.count = count


class Said(NamedTuple):
    """What a session came to: rows, those of them that begin a press, and seconds from the first to the last."""

    name: str
    rows: int
    presses: int
    seconds: float


class Sessions:
    """The sessions in a folder.

    A page sends rows with the number of the first, and sends them again until it hears that they are on disk: what comes twice
    is written once, so that pages may be reloaded and the server killed at any time.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}  # rows on disk of the sessions that were written to
        self._tallies: dict[str, _Tally] = {}

    def append(self, name: Any, header: Any, first: Any, rows: Any) -> int:
        """Write the rows that are not there yet; return how many there are.

        Args:
            name: Of the session.
            header: `person`, `device`, `width` and `height`, as the format's `check_header` has them.
            first: The number of the first of these rows in the session.
            rows: As the format's `check_row` has them.

        Raises:
            ValueError: something is not what it should be, in one line.
            GapError: rows before the first are missing.
            OSError: the disk does not take them; none of them is there then.
        """
        if not isinstance(name, str) or not SESSION_NAME.fullmatch(name):
            raise ValueError("session is no name of a session")
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ValueError("first is not a whole number, 0 or more")
        if not isinstance(rows, list) or len(rows) > MAX_ROWS:
            raise ValueError(f"rows is not a list of at most {MAX_ROWS}")
        header = check_header(header)
        lines = [json.dumps(check_row(row), allow_nan=False) + "\n" for row in rows]
        path = self.folder / f"{name}{SUFFIX}"
        with self._lock:
            if name not in self._counts or not path.exists():  # it may be deleted at any time
                self._counts[name] = self._begun(path)
                self._tallies.pop(name, None)
            there = self._counts[name]
            if first > max(there, 0):
                raise GapError(max(there, 0))
            new = lines[max(there, 0) - first :]
            if there < 0:
                new.insert(0, json.dumps(header) + "\n")
            if new:
                try:
                    _append(path, "".join(new).encode())
                except OSError:
                    del self._counts[name]  # what is there is read anew
                    raise
                self._counts[name] = there + len(new)
            return max(self._counts[name], 0)

    def _begun(self, path: Path) -> int:
        """Return the rows on disk, -1 where not even the header is, after cutting off what a killed server half wrote."""
        if not path.exists():
            return -1
        with open(path, "r+b") as file:
            whole = lines = 0
            for line in file:
                if line.endswith(b"\n"):
                    whole, lines = whole + len(line), lines + 1
            file.truncate(whole)
        return lines - 1

    def paths(self) -> list[Path]:
        """Return the files of all sessions, the oldest first."""
        return sorted(path for path in self.folder.glob(f"*{SUFFIX}") if SESSION_NAME.fullmatch(path.stem))

    def said(self) -> list[Said]:
        """Return what each session came to. Only what is new since the last time is read: the page asks while it records."""
        with self._lock:
            return [self._tallies.setdefault(path.stem, _Tally(path)).said() for path in self.paths()]


def _append(path: Path, content: bytes) -> None:
    """Append to a file, and let it be on disk; where the disk does not take all of it, the file is as it was."""
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


class _Tally:
    """Counts the rows of a file that only grows."""

    def __init__(self, path: Path):
        self.path, self._offset, self._down = path, 0, 0  # a byte, and whether the last row is of a press
        self._rows = self._presses = 0
        self._first = self._last = 0.0  # ms

    def said(self) -> Said:
        """Return what there is, up to a row that is none: what is wrong with that, the import says."""
        with open(self.path, "rb") as file, suppress(ValueError, TypeError, RecursionError):
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if self._offset:  # past the header
                    self._count(*check_row(json.loads(line)))
                self._offset += len(line)
        return Said(self.path.stem, self._rows, self._presses, (self._last - self._first) / 1000)

    def _count(self, time: float, x: float, y: float, down: int, *rest: float) -> None:
        self._first, self._last = self._first if self._rows else time, time
        self._rows, self._presses, self._down = self._rows + 1, self._presses + (down > self._down), down
