"""Data sets on disk: a folder of `*_actions.npy` and, where it says more, a `dataset.json`.

Files are flattened, `[N*L, 3]`, or `[N, L, 3]`, of any real type; they are memory-mapped and read a batch at a time.
Nothing in them is ever unpickled. `actions.py` says what the numbers mean.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from action_ddim.actions import DEFAULT_SEQ_LEN, MIN_SEQ_LEN, NUM_CHANNELS, find_invalid
from action_ddim.errors import RunError, UserError

MAX_OPEN_FILES = 64  # each map holds a file descriptor; many systems allow a process 256
VALIDATION_CHUNK = 1 << 18  # rows checked at once, 3 MB of float32


class ActionDataset(Dataset):
    """Sequences `(L, 3)` of a folder, float32 in [0, 1], by their place in the folder's files in order of name.

    Opening reads the headers only. `validate` reads every value. A pickled data set (a loader's worker) holds paths,
    and opens the files for itself.

    Args:
        folder: Holds `*_actions.npy`.
        seq_len: L; by default what `dataset.json` says, else 250.

    Raises:
        UserError: the folder or a file in it is not what it should be, in one line that names it.
    """

    def __init__(self, folder: str | Path, seq_len: int | None = None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder; generate data there, or name the folder that holds it")
        self.paths = sorted(self.folder.glob("*_actions.npy"))
        if not self.paths:
            raise UserError(
                f"{self.folder} holds no *_actions.npy; python -m augmentation.generate_click_dataset"
                f" --output_dir {self.folder} writes some"
            )
        self.seq_len = self._resolve_seq_len(seq_len)
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        self._sizes = [path.stat().st_size for path in self.paths]
        counts = [len(self._file(index)) for index in range(len(self.paths))]
        self._ends = np.cumsum(counts)  # of each file, in sequences
        if not len(self):
            raise UserError(f"the files of {self.folder} hold no sequences; generate or import some")

    def _resolve_seq_len(self, seq_len: int | None) -> int:
        path = self.folder / "dataset.json"
        if not path.exists():
            return seq_len or DEFAULT_SEQ_LEN
        try:
            stated = json.loads(path.read_text()).get("sequence_length")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path} cannot be read as a JSON object ({error}); mend or remove it") from error
        if stated is None:
            return seq_len or DEFAULT_SEQ_LEN
        if not isinstance(stated, int) or isinstance(stated, bool) or stated < MIN_SEQ_LEN:
            raise UserError(f"{path} says sequence_length {stated!r}, not a whole number of at least {MIN_SEQ_LEN}; mend it")
        if seq_len is not None and seq_len != stated:
            raise UserError(f"--seq_len is {seq_len}, but {path} says {stated}; leave --seq_len out or mend the file")
        return stated

    def _file(self, index: int) -> np.ndarray:
        """Return the sequences `(N, L, 3)` of a file, from the open maps or mapped now."""
        if index in self._maps:
            self._maps.move_to_end(index)
        else:
            self._maps[index] = map_actions(self.paths[index], self.seq_len)
            if len(self._maps) > MAX_OPEN_FILES:
                self._maps.popitem(last=False)
        check_not_shrunk(self.paths[index], self._sizes[index])
        return self._maps[index]

    def __getstate__(self):
        return {**self.__dict__, "_maps": OrderedDict()}  # a pickled map would be a copy of the whole file

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one sequence `(L, 3)`."""
        return self.read([index])[0]

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        """Return a whole batch; a loader calls this once a batch, and its `collate_fn` has nothing left to do."""
        return self.read(indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return the sequences at these places, `(B, L, 3)`."""
        index = np.asarray(indices, dtype=np.int64)
        index = np.where(index < 0, index + len(self), index)
        if ((index < 0) | (index >= len(self))).any():
            raise IndexError(f"an index lies outside the {len(self)} sequences of {self.folder}")
        batch = np.empty((len(index), self.seq_len, NUM_CHANNELS), dtype=np.float32)
        file_of = np.searchsorted(self._ends, index, side="right")
        for file in np.unique(file_of).tolist():
            rows = file_of == file
            first = self._ends[file - 1] if file else 0
            batch[rows] = self._file(file)[index[rows] - first]
        return torch.from_numpy(batch)

    def validate(self) -> None:
        """Read every value once, with progress, and hold it against the contract of `actions.py`.

        Raises:
            UserError: a value breaks it, in one line that names the file and the row.
        """
        total = len(self) * self.seq_len
        with tqdm(total=total, unit="row", unit_scale=True, desc=f"checking {self.folder}", disable=None, leave=False) as bar:
            for index, path in enumerate(self.paths):
                rows = self._file(index).reshape(-1, NUM_CHANNELS)
                for first in range(0, len(rows), VALIDATION_CHUNK):
                    chunk = np.asarray(rows[first : first + VALIDATION_CHUNK])
                    invalid = find_invalid(chunk)
                    if invalid is not None:
                        row, fault = invalid
                        raise UserError(f"{path}, row {first + row}: {fault}; mend or remove the file")
                    bar.update(len(chunk))


def check_not_shrunk(path: Path, size: int) -> None:
    """Raise a RunError where a file has become smaller: reading its map would end the process with SIGBUS.

    One that was removed lives on in its map.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size < size:
            raise RunError(f"{path} has shrunk while it was read; restore the file, and leave it alone during a run")


def map_actions(path: Path, seq_len: int, remedy: str = "give its length as --seq_len") -> np.ndarray:
    """Map a file of actions as `(N, seq_len, 3)`, without reading its values; `remedy` ends the error of another length.

    Raises:
        UserError: it is not an .npy file of numbers of that shape, in one line that names it.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header lets errors of zipfile, tokenize and int through too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as an .npy file of numbers ({reason}); mend or remove it") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive of arrays, not one array; save each with numpy.save")
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {array.dtype}, not real numbers; save it as float32")
    if array.ndim not in (2, 3) or array.shape[-1] != NUM_CHANNELS:
        raise UserError(f"{path} has the shape {array.shape}, not (rows, 3) of x, y and press; mend or remove it")
    if array.ndim == 3 and array.shape[1] != seq_len:
        raise UserError(f"{path} holds sequences of {array.shape[1]} steps, not {seq_len}; {remedy}")
    if array.ndim == 2 and len(array) % seq_len:
        raise UserError(f"{path} has {len(array)} rows, not a multiple of the {seq_len} steps a sequence; {remedy}")
    return array.reshape(-1, seq_len, NUM_CHANNELS)
