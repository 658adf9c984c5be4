"""A data set written to a folder: part files, and a `dataset.json` that says what they hold."""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from action_ddim.errors import UserError

# Of dataset.json: what is documented, and what the generator writes. Others are information of the folder's owner.
KNOWN_KEYS = {
    *("sequence_length", "rate_hz", "source", "seed"),
    *("num_sequences", "action_type", "min_delta_t_pct", "max_delta_t_pct", "idle"),
    *("weights", "human", "screen"),
    "recordings",  # what the import of recordings says of itself
}
PART_NAME = re.compile(r"part_\d{5}_actions\.npy")
PARTIAL = ".partial-"  # begins the name of a folder of what is under way
LEFT_S = 86_400  # one that nothing was written to for so long was left by a process that was killed
MAX_PARTS = 100_000  # with five digits, the order of names is the order of parts


def read_info(path: Path) -> dict:
    """Return what a dataset.json says; nothing where there is none."""
    try:
        return dict(json.loads(path.read_text()).items()) if path.exists() else {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a JSON object ({error}); mend or remove it") from error


def write_dataset(
    output_dir: str | Path,
    blocks: Iterator[np.ndarray],
    num_sequences: int,
    info: dict,
    *,
    sequences_per_file: int = 1000,
    overwrite: bool = False,
    flag: str = "--output_dir",
) -> None:
    """Write `part_00000_actions.npy`, ... (`[N*L, 3]` float32) and `dataset.json` to `output_dir`, made if missing.

    Args:
        blocks: Actions `(B, L, 3)`, `num_sequences` of them in all.
        info: What `dataset.json` says, `sequence_length` among it.
        flag: Names the folder in messages.

    Raises:
        UserError: there is data in the folder and `overwrite` is off, or data that this function did not write.
    """
    if sequences_per_file < 1:
        raise UserError(f"--sequences_per_file is {sequences_per_file}; give at least 1")
    if num_sequences > sequences_per_file * MAX_PARTS:
        raise UserError(f"--sequences_per_file {sequences_per_file} makes more than {MAX_PARTS:,} files; raise it")
    folder = Path(output_dir)
    with _refused(flag, folder, info["sequence_length"]):
        check_replaceable(flag, folder, overwrite)
    with staged_dataset(folder, blocks, num_sequences, info, sequences_per_file=sequences_per_file, flag=flag) as partial:
        replace_dataset(partial, folder, overwrite=overwrite, flag=flag)


@contextmanager
def staged_dataset(
    folder: Path, blocks: Iterator[np.ndarray], num_sequences: int, info: dict, *, sequences_per_file: int = 1000, flag: str
) -> Iterator[Path]:
    """Write a data set to a folder of its own in `folder`, made if missing, for `replace_dataset`; it is removed at the end.

    What is under way is no data to others, and what is there already stays until there is something to take its place.

    Raises:
        UserError: there is no room for it.
    """
    with _refused(flag, folder, info["sequence_length"]):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PARTIAL}*"):
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as name:
            partial = Path(name)
            _write_parts(partial, blocks, num_sequences, info["sequence_length"], sequences_per_file)
            (partial / "dataset.json").write_text(json.dumps(info, indent=2) + "\n")
            yield partial


def replace_dataset(partial: Path, folder: Path, *, overwrite: bool, flag: str) -> None:
    """Give a staged data set the place of the one in a folder.

    Raises:
        UserError: as `check_replaceable`.
    """
    check_replaceable(flag, folder, overwrite)  # once more: another may have been faster
    remove_dataset(folder)
    for path in sorted(partial.glob("*.npy")):
        path.rename(folder / path.name)
    # Last, so that a folder with it is a folder that is whole.
    (partial / "dataset.json").rename(folder / "dataset.json")


@contextmanager
def _refused(flag: str, folder: Path, length: int) -> Iterator[None]:
    """Say in one line what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{flag} {folder}: there is no memory for sequences of {length} steps; make them shorter") from error


def check_replaceable(flag: str, folder: Path, overwrite: bool) -> None:
    """Raise a UserError where a folder holds a data set that may not be replaced, or other people's, which never may be."""
    data = sorted(folder.glob("*_actions.npy"))
    foreign = [path for path in data if not PART_NAME.fullmatch(path.name)]
    if foreign:
        raise UserError(f"{flag} {folder} holds {foreign[0].name}, which is not from here; choose another folder")
    if (data or (folder / "dataset.json").exists()) and not overwrite:
        raise UserError(f"{flag} {folder} holds a data set; choose another folder or add --overwrite")


def remove_dataset(folder: Path) -> None:
    """Remove the data set of a folder that `check_replaceable` allows to be replaced."""
    for path in [folder / "dataset.json", *folder.glob("*_actions.npy")]:
        path.unlink(missing_ok=True)


def _write_parts(
    folder: Path, blocks: Iterator[np.ndarray], num_sequences: int, sequence_length: int, sequences_per_file: int
) -> None:
    """Stream the blocks into the part files, so that memory depends on neither the count nor the size of a file."""
    block = np.empty((0, sequence_length, 3), dtype=np.float32)
    with tqdm(total=num_sequences, unit="seq", desc=str(folder), disable=None) as progress:
        for part, first in enumerate(range(0, num_sequences, sequences_per_file)):
            missing = min(sequences_per_file, num_sequences - first)
            with open(folder / f"part_{part:05d}_actions.npy", "wb") as file:
                shape = (missing * sequence_length, 3)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                while missing:
                    if not len(block):
                        block = next(blocks)
                    taken, block = block[:missing], block[missing:]
                    taken.tofile(file)
                    missing -= len(taken)
                    progress.update(len(taken))
