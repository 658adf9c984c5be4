"""Data sets on disk: a folder of `*_actions.npy` and, where it says more, a `dataset.json`.

Files are flattened, `[N*L, 3]`, or `[N, L, 3]`, of any real type. They stay on disk and are read a batch at a time, or are
loaded whole. `action_file.py` reads them, `actions.py` says what the numbers mean.
"""

import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from action_ddim.actions import DEFAULT_SEQ_LEN, MIN_SEQ_LEN, NUM_CHANNELS, find_invalid
from action_ddim.data.action_file import open_action_file
from action_ddim.data.check_record import CheckRecord, fingerprint
from action_ddim.data.writer import KNOWN_KEYS, read_info
from action_ddim.errors import UserError, is_first_process

LENGTH_NAMES = ("sequencelength", "seqlength", "seqlen")  # what a key that means the length comes near to
MAX_OPEN_FILES = 64  # many systems allow a process 256
CHUNK_BYTES = 3 << 20  # read at once where everything is read


class ActionDataset(Dataset):
    """Sequences `(L, 3)` of a folder, float32 in [0, 1], by index, in the order of the files' names.

    Opening reads the headers only. `validate` reads every value, `load` keeps every value. A pickled data set (a loader's
    worker) holds paths, and opens the files for itself.

    Args:
        folder: Holds `*_actions.npy`.
        seq_len: L; by default what `dataset.json` says, else `default_seq_len`.
        default_seq_len: By default 250.
        flag: The flag that named the folder, for messages.
        faults: Takes what is wrong with files that cannot be opened, which are then left out.

    Raises:
        UserError: the folder or a file in it is not what it should be, in one line that names it.
    """

    def __init__(
        self,
        folder: str | Path,
        seq_len: int | None = None,
        *,
        default_seq_len: int | None = None,
        flag: str = "",
        faults: list[str] | None = None,
    ):
        self.folder = Path(folder)
        try:
            paths = sorted(self.folder.glob("*_actions.npy"))
            fault = None if paths else self._what_is_there_instead()
        except OSError as error:
            fault = f"{self.folder} cannot be read ({error.strerror}); name another folder, or mend that"
        if fault:
            raise UserError(f"{flag} {fault}".strip())
        info = self.folder / "dataset.json"
        self.info = read_info(info)
        stated = self._stated_seq_len(info)
        if stated and seq_len and stated != seq_len:
            raise UserError(f"--seq_len is {seq_len}, but {info} says {stated}; leave --seq_len out or mend the file")
        self.seq_len = stated or seq_len or default_seq_len or DEFAULT_SEQ_LEN
        remedy = f"correct what {info} says" if stated else f"give their length as sequence_length in {info}"
        if not stated and not default_seq_len:
            remedy += ", or as --seq_len"
        self.files = []
        for path in paths:
            try:
                self.files.append(open_action_file(path, self.seq_len, remedy))
            except UserError as error:
                if faults is None:
                    raise
                faults.append(str(error))
        self._ends = np.cumsum([file.num_sequences for file in self.files])  # of each file, in sequences
        self._starts = self._ends - [file.num_sequences for file in self.files]
        self._open: OrderedDict[int, FileIO] = OrderedDict()
        self._values: torch.Tensor | None = None
        if not (self.files and len(self)):
            raise UserError(f"the files of {self.folder} hold no sequences; generate or import some")

    def _what_is_there_instead(self) -> str:
        """Say what a folder without data is or holds, and the remedy; data is generated only where nothing else lies."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            return f"{folder} is a file; name the folder that holds it"
        generate = f"python -m augmentation.generate_click_dataset --output_dir {folder} writes synthetic data there"
        if not folder.exists():
            return f"{folder} is not a folder; name the one that holds your recordings, or {generate}"
        inside = min(folder.glob("*/*_actions.npy"), default=None)
        if inside:
            return f"{folder} holds no *_actions.npy, but {inside.parent} does; name that one"
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if not entries:
            return f"{folder} holds no *_actions.npy; put your recordings there, or {generate}"
        kinds = Counter("folders" if path.is_dir() else path.suffix or "nameless" for path in entries)
        return (
            f"{folder} holds no *_actions.npy, but {', '.join(f'{count} {kind}' for kind, count in kinds.most_common(3))}"
            f" ({entries[0].name}); save recordings with numpy.save as NAME_actions.npy, rows of x, y, press: x and y in"
            " [0, 1] of the screen, press 0 or 1 (README.md, Your own recordings)"
        )

    def _stated_seq_len(self, path: Path) -> int | None:
        """Return the length that dataset.json says, None where it says none, and name the keys that mean nothing here."""
        stated, keys = self.info.get("sequence_length"), sorted(self.info.keys() - KNOWN_KEYS)
        meant = [key for key in keys if get_close_matches(re.sub("[^a-z]", "", key.lower()), LENGTH_NAMES, cutoff=0.85)]
        if stated is None and meant:
            raise UserError(f"{path} says {meant[0]!r}; did you mean sequence_length? Rename it")
        if keys and is_first_process():
            names = ", ".join(map(repr, keys))
            print(f"{path}: {names[:200]} mean nothing here, and are taken for information", file=sys.stderr)
        if stated is None:
            return None
        if not isinstance(stated, int) or isinstance(stated, bool) or stated < MIN_SEQ_LEN:
            raise UserError(f"{path} says sequence_length {stated!r}, not a whole number of at least {MIN_SEQ_LEN}; mend it")
        return stated

    def __getstate__(self):
        return {**self.__dict__, "_open": OrderedDict(), "_values": None}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all values as float32: what `load` takes."""
        return len(self) * self.seq_len * NUM_CHANNELS * 4

    @property
    def location(self) -> str:
        """Where the values lie, in words."""
        if self._values is None:
            return "on disk"
        return "in the device's memory" if self.on_device else "in memory"

    @property
    def on_device(self) -> bool:
        """Whether `load` brought the values to another device than the CPU."""
        return self._values is not None and self._values.device.type != "cpu"

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one sequence `(L, 3)`."""
        return self.read([index])[0]

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        """Return a whole batch; a loader calls this once a batch, and its `collate_fn` has nothing left to do."""
        return self.read(indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return the sequences of these indices, `(B, L, 3)`, on the device of `load`, else on the CPU.

        Raises:
            RunError: a file can no longer be read.
        """
        index = np.asarray(indices, dtype=np.int64)
        index = np.where(index < 0, index + len(self), index)
        if ((index < 0) | (index >= len(self))).any():
            raise IndexError(f"an index lies outside the {len(self)} sequences of {self.folder}")
        if self._values is not None:
            chosen = torch.from_numpy(index)
            if self.on_device:  # a copy from memory that is not pinned waits for all that the device is at
                chosen = chosen.pin_memory().to(self._values.device, non_blocking=True)
            return self._values[chosen]
        batch = np.empty((len(index), self.seq_len, NUM_CHANNELS), dtype=np.float32)
        order = np.argsort(index)  # by file, and by index in it
        file_of = np.searchsorted(self._ends, index[order], side="right")
        index_in_file = index[order] - self._starts[file_of]
        # In turns of as many files as stay open, so that each is opened once.
        turns = np.unique(file_of, return_inverse=True)[1] // MAX_OPEN_FILES
        for turn in range(turns.max(initial=-1) + 1):
            now = turns == turn
            rows = list(zip(order[now].tolist(), file_of[now].tolist(), index_in_file[now].tolist(), strict=True))
            for _, number, first in rows:
                self.files[number].announce(self._opened(number), first, 1)
            for row, number, first in rows:
                batch[row] = self._read(number, first, 1)
        return torch.from_numpy(batch)

    def locate(self, indices: Sequence[int] | np.ndarray) -> list[tuple[str, int]]:
        """Return the name of the file and the index in it of the sequences of these indices."""
        index = np.asarray(indices, dtype=np.int64)
        file_of = np.searchsorted(self._ends, index, side="right")
        names = (self.files[number].path.name for number in file_of.tolist())
        return list(zip(names, (index - self._starts[file_of]).tolist(), strict=True))

    def _opened(self, number: int) -> FileIO:
        """Return a file, open; those that were used last stay so."""
        if number in self._open:
            self._open.move_to_end(number)
        else:
            self._open[number] = self.files[number].open()
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[number]

    def _read(self, number: int, first: int, count: int) -> np.ndarray:
        """Return sequences of a file in its own type, `(count, L, 3)`."""
        return self.files[number].read(self._opened(number), first, count)

    def _chunks(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the sequences of a file in pieces, each with the index of its first."""
        file = self.files[number]
        at_once = max(1, CHUNK_BYTES // (self.seq_len * NUM_CHANNELS * file.dtype.itemsize))
        for first in range(0, file.num_sequences, at_once):
            yield first, self._read(number, first, min(at_once, file.num_sequences - first))

    def chunks(self, doing: str) -> Iterator[tuple[Path, int, int, np.ndarray]]:
        """Yield all sequences in pieces, with progress: file, the first one's index in it and in the data set, values."""
        with self._bar(doing, len(self)) as bar:
            for number, file in enumerate(self.files):
                for first, chunk in self._chunks(number):
                    yield file.path, first, int(self._starts[number]) + first, chunk
                    bar.update(len(chunk))

    def _bar(self, doing: str, num_sequences: int) -> tqdm:
        disable = None if is_first_process() else True  # None: where there is no terminal
        return tqdm(
            total=num_sequences, unit="seq", unit_scale=True, desc=f"{doing} {self.folder}", disable=disable, leave=False
        )

    def load(self, device: torch.device | str = "cpu") -> None:
        """Read every value into the device's memory, `nbytes` of it; the files are not needed after that."""
        values = torch.empty((len(self), self.seq_len, NUM_CHANNELS), dtype=torch.float32, device=device)
        for _, _, start, chunk in self.chunks("loading"):
            values[start : start + len(chunk)] = torch.from_numpy(chunk.astype(np.float32, copy=False))
        self._values = values
        self._open.clear()

    def validate(self) -> None:
        """Hold every value against the contract of `actions.py`, in one pass with progress.

        Files that were found valid before, and have not changed since, are not read again; see `check_record.py`.

        Raises:
            UserError: a value breaks it, in one line that names the file and the row.
        """
        for _ in self.validation():
            pass

    def validation(self) -> Iterator[None]:
        """Do what `validate` does, and yield after every few megabytes."""
        record = CheckRecord(self.folder)
        unknown = [number for number, file in enumerate(self.files) if not record.holds(file.path)]
        bar = self._bar("checking", sum(self.files[number].num_sequences for number in unknown))
        try:
            for number in unknown:
                path = self.files[number].path
                before = fingerprint(path)
                for first, chunk in self._chunks(number):
                    rows = chunk.reshape(-1, NUM_CHANNELS)
                    invalid = find_invalid(rows)
                    if invalid is not None:
                        row, fault = invalid
                        raise UserError(f"{path}, row {first * self.seq_len + row}: {fault}; mend or remove the file")
                    bar.update(len(chunk))
                    yield
                record.add(path, before)
        finally:  # what was found valid up to a fault or an interruption stays so
            bar.close()
            if unknown:
                record.save()


def open_for_model(flag: str, folder: str, seq_len: int, model: str) -> ActionDataset:
    """Open a folder of sequences as long as a model's, which they are where no dataset.json says otherwise.

    Raises:
        UserError: they are of another length, in one line that names both flags; or as `ActionDataset`.
    """
    data = ActionDataset(folder, default_seq_len=seq_len, flag=flag)
    if data.seq_len != seq_len:
        raise UserError(f"{flag} {folder} holds sequences of {data.seq_len} steps; {model} takes {seq_len}")
    return data
