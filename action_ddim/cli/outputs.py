"""What verbs write: files, looked at before any work and never left half written, and lines that nobody may hear."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from action_ddim.atomic import written_whole
from action_ddim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Unbroken:
    """A stream of text that may come to an end: `head` has read enough, a terminal is closed, the disk of a log is full.

    What is said then, nobody hears, and nothing fails: a training is worth more than its lines.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            mute(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            mute(self._stream)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextmanager
def unbroken_streams() -> Iterator[None]:
    """Let what is printed within fail nowhere, whatever becomes of where it goes."""
    out, err = (stream and Unbroken(stream) for stream in (sys.stdout, sys.stderr))  # a daemon has none
    with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
        yield
        for stream in filter(None, (out, err)):
            stream.flush()


def mute(stream: TextIO) -> None:
    """Let a stream lead nowhere, with what it still holds: Python would fail to write that at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def check_output(flag: str, path: Path, overwrite: bool) -> None:
    """Raise a UserError where a file is in the way, or its folder could not be made, before any work."""
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{flag} {path} exists; name another, or add --overwrite")
    check_writable(flag, path)


def check_new_folder(flag: str, path: Path) -> None:
    """Raise a UserError where a folder that is to be written is there and not empty, or cannot be made."""
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{flag} {path} is not empty; name a new folder")
    if path.exists() and not path.is_dir():
        raise UserError(f"{flag} {path} is a file; name a folder")
    check_writable(flag, path)


def check_writable(flag: str, path: Path) -> None:
    """Raise a UserError where the place does not exist and cannot be made, or must not be written to."""
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written in {existing}; name another place")


def write_actions(path: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray], *, keep: int) -> list[np.ndarray]:
    """Write batches `(B, L, 3)` as they come to one file of this shape; return the first `keep` sequences `(L, 3)`.

    They are written, not put into a memory map: where the disk is full, a write says so, and a map kills with SIGBUS.
    """
    kept: list[np.ndarray] = []
    with written_whole("--out", path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").data)
            kept += [sequence.copy() for sequence in batch[: keep - len(kept)]]
    return kept


def write_plot(path: Path | None, draw: Callable[[], "Figure"]) -> None:
    """Draw a figure and write it as PNG, and say so; nothing without a path."""
    if path is None:
        return
    from action_ddim.evaluation import plots

    png = plots.image_to_png(plots.figure_to_image(draw()))
    with written_whole("--plot", path) as file:
        file.write(png)
    print(f"picture: {path}")
