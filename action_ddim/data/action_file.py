"""One file of a data set: an `.npy` array of actions, read in pieces by their offset.

It is read, not memory-mapped: pages of a map count as resident memory for as long as the system has room for them, and a
mapped file that shrinks kills the process with SIGBUS, where a read says that it found less. Nothing is ever unpickled.
"""

import os
import zipfile
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from action_ddim.actions import NUM_CHANNELS
from action_ddim.errors import RunError, UserError, first_line

COMMON_LENGTHS = (100, 200, 500, 400, 300, 128, 256, 512, 1000, 50, 64, 125)  # of recorded sequences, the commonest first
MAX_HEADER_BYTES = 10_000  # numpy's own bound: parsing a longer one may take very long


@dataclass(frozen=True)
class ActionFile:
    """Where the sequences `(seq_len, 3)` of a file lie in it."""

    path: Path
    num_sequences: int
    seq_len: int
    dtype: np.dtype
    offset: int  # of the first value, in bytes
    by_channel: bool  # Fortran order: all x, then all y, then all press

    def open(self) -> FileIO:
        """Open the file for `read`.

        Raises:
            RunError: it cannot be opened; it could when the data set was opened.
        """
        try:
            return FileIO(self.path)
        except OSError as error:
            raise self._lost(error.strerror) from error

    def announce(self, file: FileIO, first: int, count: int) -> None:
        """Tell the system which sequences `read` will ask for, so that a disk fetches those of a whole batch at once."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            for offset, size in self._spans(first, count):
                os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)

    def read(self, file: FileIO, first: int, count: int) -> np.ndarray:
        """Return sequences `(count, L, 3)` in the file's own type.

        Raises:
            RunError: the file is shorter than it was when the data set was opened, or the disk cannot read it.
        """
        spans = self._spans(first, count)
        values = np.empty((len(spans), spans[0][1] // self.dtype.itemsize), self.dtype)
        for part, (offset, _) in zip(values, spans, strict=True):
            self._fill(part, file, offset)
        if self.by_channel:
            values = values.T
        return values.reshape(count, self.seq_len, NUM_CHANNELS)

    def _spans(self, first: int, count: int) -> list[tuple[int, int]]:
        """Return where the sequences lie, as (offset, size) in bytes: one span, or one a channel."""
        row = self.seq_len * self.dtype.itemsize  # bytes of one channel of one sequence
        if not self.by_channel:
            return [(self.offset + first * NUM_CHANNELS * row, count * NUM_CHANNELS * row)]
        starts = range(first, NUM_CHANNELS * self.num_sequences, self.num_sequences)
        return [(self.offset + start * row, count * row) for start in starts]

    def _fill(self, values: np.ndarray, file: FileIO, offset: int) -> None:
        buffer = values.view(np.uint8).data
        while buffer:
            try:
                # By offset, so that processes which inherit the open file do not move it under one another.
                count = os.preadv(file.fileno(), [buffer], offset)
            except OSError as error:
                raise self._lost(error.strerror) from error
            if not count:
                raise self._lost("it is shorter than it was at the start")
            buffer, offset = buffer[count:], offset + count

    def _lost(self, reason: str | None) -> RunError:
        return RunError(f"{self.path} can no longer be read ({reason}); restore the file, and leave it alone during a run")


def open_action_file(path: Path, seq_len: int, remedy: str) -> ActionFile:
    """Read the header of a file of sequences of this length, and hold it against the file's size; `remedy` ends the error of
    another length.

    Raises:
        UserError: it is not an .npy file of numbers `[N * seq_len, 3]` or `[N, seq_len, 3]`, in one line that names it.
    """
    try:
        shape, fortran_order, dtype, offset = _read_header(path)
    except Exception as error:  # a damaged header lets errors of tokenize, struct and int through too
        if path.is_file() and zipfile.is_zipfile(path):
            raise UserError(f"{path} is an archive of arrays, not one array; save each with numpy.save") from error
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as an .npy file of numbers ({reason}); mend or remove it") from error
    if dtype.kind not in "biuf":
        raise UserError(f"{path} holds {dtype}, not real numbers; save it as float32")
    if len(shape) not in (2, 3) or shape[-1] != NUM_CHANNELS:
        raise UserError(f"{path} has the shape {shape}, not (rows, 3) of x, y and press; mend or remove it")
    if len(shape) == 3 and shape[1] != seq_len:
        raise UserError(f"{path} holds sequences of {shape[1]} steps, not {seq_len}; {remedy}")
    if len(shape) == 2 and shape[0] % seq_len:
        lengths = [str(length) for length in COMMON_LENGTHS if shape[0] % length == 0][:3]
        but = f", but of {', '.join(lengths)}" if lengths else ""
        raise UserError(
            f"{path} has {shape[0]} rows, not a multiple of the {seq_len} steps a sequence{but};"
            f" {remedy}, or restore the file if its end is missing"
        )
    if len(shape) == 3 and fortran_order:
        raise UserError(f"{path} scatters its sequences (3-D in Fortran order); save numpy.ascontiguousarray of it")
    num_sequences = shape[0] if len(shape) == 3 else shape[0] // seq_len
    return ActionFile(path, num_sequences, seq_len, dtype, offset, fortran_order)


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, Fortran order, type, and the offset of the values in bytes."""
    if not path.is_file():  # a pipe would block
        raise OSError("it is not a file")
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is not one of numbers")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        # The stubs of numpy before 2.4 do not know the keyword.
        shape, fortran_order, dtype = read(file, max_header_size=MAX_HEADER_BYTES)  # type: ignore[call-arg]
        if dtype.hasobject:
            raise ValueError("it holds pickled objects, which are never unpickled")
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    needed = dtype.itemsize
    for length in shape:
        needed *= length
    if min(shape, default=0) < 0 or size < offset + needed:
        raise ValueError(f"it is {size} bytes long, and its header says {offset + needed}")
    return shape, fortran_order, dtype, offset
