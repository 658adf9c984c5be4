"""Data sets in the form of the Hugging Face Hub, there or in a folder: read into folders of `*_actions.npy`, and written.

A row is a sequence: `actions`, float32 `(L, 3)` as `actions.py` says, beside an `index`. Splits are `train`, and `validation`
or `test`. The card, `README.md`, has what `dataset.json` says of each split, under `action_ddim` in its metadata.

    data/train-00000-of-00002.parquet, ...
    data/validation-00000-of-00001.parquet
    README.md
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from action_ddim.actions import MIN_SEQ_LEN, NUM_CHANNELS, find_invalid
from action_ddim.atomic import put_in_place
from action_ddim.data.check_record import fingerprint
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import UserError, is_first_process
from action_ddim.pretrained import HUB_ID

if TYPE_CHECKING:
    from datasets import IterableDataset

# datasets and the Hub's client take seconds to import, and the former is an extra: they are imported where they are used.

COLUMN = "actions"
VALIDATION_SPLITS = ("validation", "val", "test")  # the first that there is
FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}  # of a split that is written
CARD_NAME = "README.md"
CARD_KEY = "action_ddim"
SEQUENCES_PER_FILE = 1000
SHARD_BYTES = 64 << 20


def fetch_dataset(name: str, config_name: str | None = None) -> Path:
    """Return a folder with `train/` and, where there is such a split, `val/`, each as `ActionDataset` reads it.

    It lies in `$XDG_CACHE_HOME/action_ddim/datasets`, by default in `~/.cache`, under the revision: what is there already is
    not fetched again, and it is there whole or not at all. Processes that ask at once wait for the one that writes it. Where
    the Hub cannot be reached, the revision that was fetched last is taken, and a line says so.

    Args:
        name: A folder, or ORG/NAME on the Hub.
        config_name: Which configuration, where there are several.

    Raises:
        UserError: there is no such data set, the Hub cannot be reached, or it does not hold valid actions.
    """
    from filelock import FileLock

    _datasets("--dataset_name")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "action_ddim" / "datasets"
    place = cache / Path(name).resolve().name if Path(name).is_dir() else cache / name.replace("/", "--")
    place /= (config_name or "default").replace("/", "--")
    revision = _folder_revision(Path(name)) if Path(name).is_dir() else _hub_revision(name, place)
    folder, partial = place / revision, place / f".{revision}.partial"
    with _written(f"--dataset_name {name}", place):
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / f".{revision}.lock"):
            if not folder.is_dir():
                try:
                    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                    _fetch(name, config_name, revision, partial)
                    put_in_place(partial, folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextmanager
def _written(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{what} cannot be kept in {folder} ({reason}); make room, or set XDG_CACHE_HOME") from error


def _datasets(flag: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f'{flag} needs the package datasets; pip install "action-ddim[hub]"') from error
    return datasets


def _folder_revision(folder: Path) -> str:
    """Return what changes when a file in a folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [str(folder.resolve()), *((path.relative_to(folder).as_posix(), fingerprint(path)) for path in files)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:40]


def _hub_revision(name: str, place: Path) -> str:
    """Return the commit that is newest on the Hub, or without a network the one that was fetched last."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if not HUB_ID.fullmatch(name):
        raise UserError(f"--dataset_name {name} is neither a folder nor a name on the Hub; give ORG/NAME")
    try:
        return str(HfApi().dataset_info(name, timeout=30).sha)
    except Exception as error:  # of the Hub's client and of those below it
        fetched = [path for path in place.glob("[!.]*") if path.is_dir()]
        if not fetched or isinstance(error, RepositoryNotFoundError):
            raise UserError(
                f"--dataset_name {name} is no folder here, and the Hub does not give it ({_reason(error)}); check the name and"
                " the network, and `hf auth login` where it is private"
            ) from error
    newest = max(fetched, key=lambda path: path.stat().st_mtime_ns)
    if is_first_process():
        print(f"the Hub cannot be reached: {name} is read as it was fetched before, {newest}", file=sys.stderr)
    return newest.name


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fetch(name: str, config_name: str | None, revision: str, folder: Path) -> None:
    """Stream the splits of a data set to a folder."""
    is_here = Path(name).is_dir()
    try:
        where = {} if is_here else {"revision": revision}
        source = str(Path(name).resolve()) if is_here else name
        splits = _datasets("--dataset_name").load_dataset(source, config_name, streaming=True, **where)
        described = _described(name, revision)
        if "train" not in splits:
            raise UserError(f"--dataset_name {name} has the splits {', '.join(splits)}; it needs one that is called train")
        held_out = next((split for split in VALIDATION_SPLITS if split in splits), None)
        for split, part in (("train", "train"), (held_out, "val")):
            if split is not None:
                info = described.get(split) or ({} if is_here else {"source": f"{name}@{revision}"})
                _write_split(splits[split], folder / part, info, f"--dataset_name {name}, split {split}")
    except UserError:
        raise
    except Exception as error:  # of datasets, of the file format, of the Hub's client and of those below them
        raise UserError(
            f"--dataset_name {name} cannot be read ({_reason(error)}); check that it is a data set of parquet files, and the"
            " network, and --dataset_config_name where it has several configurations"
        ) from error


def _described(name: str, revision: str) -> dict[str, dict]:
    """Return what the card says of each split; nothing where it says nothing, as those of others do not."""
    from huggingface_hub import hf_hub_download, metadata_load
    from huggingface_hub.errors import EntryNotFoundError

    card = Path(name) / CARD_NAME
    if not Path(name).is_dir():
        try:
            card = Path(hf_hub_download(name, CARD_NAME, repo_type="dataset", revision=revision))
        except EntryNotFoundError:
            return {}
    said = (metadata_load(card) or {}).get(CARD_KEY) if card.is_file() else None
    return {split: info for split, info in said.items() if isinstance(info, dict)} if isinstance(said, dict) else {}


def _write_split(rows: "IterableDataset", folder: Path, info: Mapping[str, Any], where: str) -> None:
    """Write the rows of a split as `ActionDataset` reads them, as they come."""
    with _written(where, folder):
        folder.mkdir(parents=True)
    count, seq_len = 0, 0
    with tqdm(unit="seq", unit_scale=True, desc=where.removeprefix("--dataset_name "), disable=None, leave=False) as bar:
        for number, batch in enumerate(rows.with_format("numpy").iter(batch_size=SEQUENCES_PER_FILE)):
            actions = _as_actions(batch, where, count)
            seq_len = seq_len or actions.shape[1]
            if actions.shape[1] != seq_len:
                raise UserError(f"{where}, row {count} has {actions.shape[1]} steps, row 0 {seq_len}; cut all to one length")
            with _written(where, folder):
                np.save(folder / f"part_{number:05d}_actions.npy", actions.reshape(-1, NUM_CHANNELS))
            count += len(actions)
            bar.update(len(actions))
    if not count:
        raise UserError(f"{where} holds no rows")
    described = {**info, "sequence_length": seq_len, "num_sequences": count}
    with _written(where, folder):
        (folder / "dataset.json").write_text(json.dumps(described, indent=2, default=str) + "\n")


def _as_actions(batch: Mapping[str, Any], where: str, first: int) -> np.ndarray:
    """Return the actions `(B, L, 3)` of a batch of rows, valid ones; `first` is the index of its first row."""
    if COLUMN not in batch:
        raise UserError(f"{where} has the columns {', '.join(batch)}; it needs {COLUMN}, L steps of x, y and press a row")
    try:
        actions = np.asarray(batch[COLUMN], np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}, rows from {first}: {COLUMN} are not all numbers of one length; cut all to one") from error
    if actions.ndim != 3 or actions.shape[1] < MIN_SEQ_LEN or actions.shape[2] != NUM_CHANNELS:
        raise UserError(f"{where}: a row of {COLUMN} has the shape {actions.shape[1:]}, not (L, 3) of x, y and press")
    invalid = find_invalid(actions.reshape(-1, NUM_CHANNELS))
    if invalid is not None:
        row, step = divmod(invalid[0], actions.shape[1])
        raise UserError(f"{where}, row {first + row}, step {step}: {invalid[1]}; mend the data set")
    return actions


def open_splits(folder: str, seq_len: int | None) -> dict[str, ActionDataset]:
    """Open what is to be written, and read every value of it once: `train/`, `val/` and `test/` in a folder, or it alone.

    Raises:
        UserError: they are not valid, or not of one length.
    """
    inside = [(split, Path(folder) / name) for split, names in FOLDERS.items() for name in names]
    found = [(split, path) for split, path in inside if any(path.glob("*_actions.npy"))]
    paths = dict(found)
    if len(paths) < len(found):
        names = " and ".join(path.name for split, path in found if [other for other, _ in found].count(split) > 1)
        raise UserError(f"{folder} holds {names}, which are one split; keep one of them")
    if paths and any(Path(folder).glob("*_actions.npy")):
        raise UserError(f"{folder} holds both *_actions.npy and {found[0][1].name}/; name the one, or move the other away")
    paths = paths or {"train": Path(folder)}
    opened = {split: ActionDataset(path, seq_len) for split, path in paths.items()}
    lengths = sorted({str(data.seq_len) for data in opened.values()})
    if len(lengths) > 1:
        raise UserError(f"the folders in {folder} hold sequences of {' and '.join(lengths)} steps; cut all to one length")
    for data in opened.values():
        data.validate()
    return opened


def write_layout(splits: Mapping[str, ActionDataset], card: str, folder: Path) -> None:
    """Write data sets and their card to a folder, whole or not at all, as the Hub has them.

    Raises:
        UserError: the package datasets is missing.
        OSError: it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        for split, data in splits.items():
            _write_shards(data, partial / "data", split)
        (partial / CARD_NAME).write_text(card)
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_shards(data: ActionDataset, folder: Path, split: str) -> None:
    datasets = _datasets("push-data")
    import pyarrow.parquet

    shape = (data.seq_len, NUM_CHANNELS)
    features = datasets.Features({"index": datasets.Value("int64"), COLUMN: datasets.Array2D(shape, "float32")})
    parts = np.array_split(np.arange(len(data)), 1 + data.nbytes // SHARD_BYTES)
    for number, indices in enumerate(tqdm(parts, unit="shard", desc=split, disable=None, leave=False)):
        rows = datasets.Dataset.from_dict({"index": indices, COLUMN: data.read(indices).numpy()}, features=features)
        path = folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
        pyarrow.parquet.write_table(rows.with_format("arrow")[:], path)


def check_upload(name: str) -> None:
    """Raise a UserError where the Hub takes no such name, or there is no key to it."""
    from huggingface_hub import get_token

    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name} is no name that the Hub takes; give ORG/NAME")
    if get_token() is None:
        raise UserError("push-data needs a token of the Hugging Face Hub, and there is none here; `hf auth login` asks for it")


def upload(splits: Mapping[str, ActionDataset], card: str, name: str, *, private: bool) -> str:
    """Upload data sets and their card in the place of what is there under the name; return the address.

    Raises:
        UserError: the Hub does not take them.
        OSError: there is no room to write them first.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "layout"
        write_layout(splits, card, folder)
        try:
            address = HfApi().create_repo(name, repo_type="dataset", private=private, exist_ok=True)
            # Shards of an earlier upload, of which there may have been more, are replaced with it.
            HfApi().upload_folder(folder_path=folder, repo_id=name, repo_type="dataset", delete_patterns=["data/*"])
        except Exception as error:  # no network, no right to it: errors of the Hub's client and of those below it
            raise UserError(
                f"the Hub does not take {name} ({_reason(error)}); check the name and the network, or write it with --out"
            ) from error
    return str(address)
