"""Recordings of any format to `OUT/train` and `OUT/val`: files found, read, cleaned, resampled, cut and shared out."""

import hashlib
import math
import tempfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO

import numpy as np
from tqdm.auto import tqdm

from action_ddim.actions import DEFAULT_SEQ_LEN, IDLE_MODES, MAX_RATE, MAX_SEQ_LEN, MIN_SEQ_LEN, NUM_CHANNELS
from action_ddim.data.writer import check_replaceable, remove_dataset, replace_dataset, staged_dataset
from action_ddim.errors import UserError
from action_ddim.recordings.cleaning import clean, pieces
from action_ddim.recordings.formats.columns import PLACE_UNITS, TIME_UNITS, Columns
from action_ddim.recordings.formats.detect import FORMATS, TABLES, detect, read
from action_ddim.recordings.resample import resample
from action_ddim.recordings.split import SPLITS_BY, group_of, held_out_groups
from action_ddim.recordings.trace import FRACTIONS, Box, Counts, Recording
from action_ddim.recordings.windows import WINDOWS, cut, let_idle

SPLITS = ("val", "train")
READ_SEQUENCES = 256  # at once, where windows are shared out
MOST_TOLD = 5  # files that cannot be read, where none can
TIME_IN_DOUBT = "is the time column in the unit that --time_unit says?"


@dataclass(frozen=True)
class ImportConfig:
    """What is imported, and how; the flags of `action-ddim import`.

    Args:
        sources: Files, and folders that are searched for them.
        format: One of `FORMATS`; auto finds that of each file.
        rate: Steps a second; near what devices deliver, since beyond that steps lie on straight lines.
        seq_len: Steps a window.
        windows: One of `WINDOWS`.
        val_fraction: Share of the windows that is held out.
        split_by: What has all its windows on one side.
        screen: Width and height in the unit of x and y, from (0, 0). By default what the file says, else as far as the places
            of each person reach, or the square around a drawing on a canvas of no known size.
        idle: Outside a press: hold the place, or x = y = 0.
        seed: Of the split, and of the places of windows around presses.
        max_gap: Seconds without a row at which a window cannot go on.
        min_rate: Rows a second of motion, below which a recording is left out.
        strict: Whether a file that cannot be read ends the import.
        columns: Of CSV and Parquet.

    Raises:
        UserError: a value is out of its range, in one line that names the flag.
    """

    sources: tuple[Path, ...]
    format: str = "auto"
    rate: float = 125.0
    seq_len: int = DEFAULT_SEQ_LEN
    windows: str = "moving"
    val_fraction: float = 0.1
    split_by: str = "user"
    screen: tuple[float, float] | None = None
    idle: str = "hold"
    seed: int = 0
    max_gap: float = 2.0
    min_rate: float = 20.0
    strict: bool = False
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self):
        choices: dict[str, Collection[str]] = {"format": FORMATS, "windows": WINDOWS, "split_by": SPLITS_BY, "idle": IDLE_MODES}
        choices |= {"time_unit": TIME_UNITS, "place_unit": PLACE_UNITS}
        for name, known in choices.items():
            value = getattr(self if hasattr(self, name) else self.columns, name)
            if value not in known:
                raise UserError(f"--{name} is {value}; choose from {', '.join(known)}")
        if len(self.columns.delimiter) != 1:
            raise UserError(f"--delimiter is {self.columns.delimiter!r}; give one character")
        for name, most in (("rate", MAX_RATE), ("max_gap", math.inf), ("min_rate", math.inf)):
            value = getattr(self, name)
            if not 0 < value < math.inf or value > most:
                upper = "" if most == math.inf else f", up to {most:g}"
                raise UserError(f"--{name} is {value:g}; give a number above 0{upper}")
        if self.seq_len > MAX_SEQ_LEN:
            raise UserError(f"--seq_len is {self.seq_len}; give at most {MAX_SEQ_LEN}")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val_fraction is {self.val_fraction:g}; give a share from 0 to below 1")
        for name, least in (("seq_len", MIN_SEQ_LEN), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; give at least {least}")
        if self.screen is not None and min(self.screen) <= 0:
            raise UserError(f"--screen is {self.screen[0]:g}x{self.screen[1]:g}; give a width and a height above 0")


@dataclass
class ImportSummary:
    """What an import came to."""

    counts: Counts = field(default_factory=Counts)
    files: list[dict] = field(default_factory=list)  # of each file read: path, sha256, format, rows, windows
    unread: list[str] = field(default_factory=list)  # what is wrong with each file that was not
    skipped: list[Path] = field(default_factory=list)  # found in folders, and no recordings
    screens: dict[str, Box] = field(default_factory=dict)  # of each person, or file that names nobody
    windows: Counter[str] = field(default_factory=Counter)  # of each group that stays on one side
    held_out: set[str] = field(default_factory=set)

    @property
    def num_groups(self) -> dict[str, int]:
        """Groups in train and in val."""
        return {"train": len(self.windows) - len(self.held_out), "val": len(self.held_out)}

    @property
    def has_tables(self) -> bool:
        """Whether some file is a table, whose columns and units were named."""
        return any(file["format"] in TABLES for file in self.files)

    @property
    def time_in_doubt(self) -> bool:
        """Whether most rows of tables lie too far from each other, or move too fast, for the unit of time that was named."""
        far = sum(self.counts.dropped[reason] for reason in ("alone", "too_sparse", "too_fast"))
        return self.has_tables and 2 * far > self.counts.rows

    def count(self, split: str) -> int:
        """Return the windows of train or val."""
        return sum(count for group, count in self.windows.items() if (group in self.held_out) == (split == "val"))


def import_recordings(
    config: ImportConfig, out: Path, *, overwrite: bool = False, lone_to_train: bool = False
) -> ImportSummary:
    """Write `out/train` and, unless nothing is held out, `out/val`, each with a `dataset.json` that says where it is from.

    Files are read in pieces, and may be larger than memory. A file that cannot be read leaves nothing behind, and is named in
    the summary.

    Args:
        lone_to_train: Whether a single group is all train, where some share of the windows was to be held out.

    Raises:
        UserError: nothing can be imported, the folder is in use, or, where that is strict, a file cannot be read.
    """
    summary = ImportSummary()
    try:
        for split in SPLITS:
            check_replaceable("--out", out / split, overwrite)
        found = _find(config, summary)
        screens = _screens(config, found) if config.screen is None else {}
        out.mkdir(parents=True, exist_ok=True)
        # Beside what is written: there is room for it there, where anywhere.
        with tempfile.TemporaryFile(dir=out, prefix=".windows-") as spool:
            groups = _read_all(config, found, screens, summary, spool)
            if not summary.windows.total():
                if summary.unread and not summary.files:
                    raise UserError("; ".join(summary.unread[:MOST_TOLD]))
                dropped = {**summary.counts.dropped, **summary.counts.windows_dropped}
                why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there are no rows"
                remedy = TIME_IN_DOUBT if summary.time_in_doubt else "see --help"
                raise UserError(f"{config.sources[0]}: {summary.counts.rows} rows give no window ({why}); {remedy}")
            if lone_to_train and len(summary.windows) == 1:  # of what there is one of, nothing can be held out
                config = replace(config, val_fraction=0.0)
            summary.held_out = held_out_groups(summary.windows, config.val_fraction, config.seed, config.split_by)
            _share_out(config, groups, spool, out, summary, overwrite)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing was written to it
    return summary


def _find(config: ImportConfig, summary: ImportSummary) -> list[tuple[Path, str]]:
    """Return the files to read and their formats. A folder may hold others, which are told; a file that is named may not."""
    found: dict[Path, tuple[Path, str]] = {}  # once, however often and by whichever way a file is named
    for source in config.sources:
        if not source.exists():
            raise UserError(f"{source} does not exist; name files or folders of recordings")
        for path in sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]:
            # A dataset.json of an earlier import speaks of x and y too.
            name = None if path.name == "dataset.json" else detect(path, config.columns)
            if config.format not in ("auto", name) and not source.is_dir():
                name = config.format  # whose reader says what is wrong
            if name is not None and config.format in ("auto", name):
                found.setdefault(path.resolve(), (path, name))
            elif source.is_dir():
                summary.skipped.append(path)
            else:
                raise UserError(
                    f"{path} is of no format that is known; name it with --format, or its columns with --x_column and its like,"
                    " and what is between them with --delimiter"
                )
    if not found:
        ready = any(path.name.endswith("_actions.npy") for path in summary.skipped)
        remedy = "*_actions.npy train as they are, by --data_dir" if ready else "see --format"
        raise UserError(f"{config.sources[0]} holds no recordings ({len(summary.skipped)} other files); {remedy}")
    return list(found.values())


def _owner(recording: Recording) -> str:
    """Return who shares a screen: a person, or a file that names nobody."""
    return recording.user or recording.file


def _screens(config: ImportConfig, found: list[tuple[Path, str]]) -> dict[str, Box]:
    """Return the screens of which no file tells the size, by who shares them (`_owner`)."""
    reach: dict[str, np.ndarray] = {}  # the least x and y negated, the largest x and y
    canvases = set()
    with _progress(found, "screens") as progress:
        for path, name in found:
            # What cannot be read, the second reading tells.
            with suppress(UserError):
                counts = Counts()
                for piece, _ in pieces(read(path, name, config.columns, counts), config.max_gap, counts):
                    if piece.recording.screen:
                        break  # the file tells that of all in it
                    owner = _owner(piece.recording)
                    edges = np.array([-piece.x.min(), -piece.y.min(), piece.x.max(), piece.y.max()])
                    reach[owner] = np.maximum(reach.get(owner, edges), edges)
                    canvases |= {owner} if piece.recording.canvas else set()
            progress.update(path.stat().st_size)
    return {owner: _box(edges, owner in canvases) for owner, edges in reach.items()}


def _box(reach: np.ndarray, canvas: bool) -> Box:
    """Return the square around what is drawn on a canvas, else a page from (0, 0) as far right and down as places reach."""
    left, top, right, bottom = (reach * [-1, -1, 1, 1]).tolist()
    if canvas:
        size = max(right - left, bottom - top) or 1.0
        return Box(left, top, size, size)
    return Box(0, 0, max(right, 1.0), max(bottom, 1.0))


def _screen(config: ImportConfig, recording: Recording, found: dict[str, Box]) -> Box:
    """Return the screen of a recording: what the flag says, what the file says, what was found."""
    size = recording.screen if recording.screen == FRACTIONS else config.screen or recording.screen
    if size is None:
        return found[_owner(recording)]
    return Box(0, -size[1] if recording.upwards else 0, *size)


def _progress(found: list[tuple[Path, str]], text: str) -> tqdm:
    size = sum(path.stat().st_size for path, _ in found)
    return tqdm(total=size, unit="B", unit_scale=True, desc=text, disable=None)


def _read_all(
    config: ImportConfig, found: list[tuple[Path, str]], screens: dict[str, Box], summary: ImportSummary, spool: IO[bytes]
) -> list[tuple[str, int]]:
    """Append the windows of all files to the spool; return groups and how many windows of each lie there, in order."""
    groups: list[tuple[str, int]] = []
    with _progress(found, "rows") as progress:
        for path, name in found:
            begin, counts, of_file = spool.tell(), Counts(), []
            try:
                for group, windows in _windows(config, path, name, screens, counts, summary):
                    spool.write(windows.tobytes())
                    of_file.append((group, len(windows)))
            except UserError as error:
                if config.strict:
                    raise UserError(f"{error} (--strict)") from error
                spool.seek(begin)
                spool.truncate()
                summary.unread.append(str(error))
            else:
                summary.counts.add(counts)
                groups += of_file
                for group, count in of_file:
                    summary.windows[group] += count
                record = {"path": str(path), "sha256": _sha256(path), "format": name, "rows": counts.rows}
                summary.files.append({**record, "windows": sum(count for _, count in of_file)})
            progress.update(path.stat().st_size)
    return groups


def _windows(
    config: ImportConfig, path: Path, name: str, screens: dict[str, Box], counts: Counts, summary: ImportSummary
) -> Iterator[tuple[str, np.ndarray]]:
    """Return the windows of each piece of a file, and their group."""
    blocks = read(path, name, config.columns, counts)
    for number, (piece, interval) in enumerate(pieces(blocks, config.max_gap, counts)):
        if interval > 1 / config.min_rate:
            counts.drop("too_sparse", len(piece))
            continue
        screen = _screen(config, piece.recording, screens)
        summary.screens[_owner(piece.recording)] = screen
        for part, cleaned in enumerate(clean(piece.scaled(screen), config.max_gap, counts)):
            steps = resample(cleaned, config.rate, interval, counts)
            seed = (config.seed, zlib.crc32(path.name.encode()), number, *([part] if part else ()))
            windows = let_idle(cut(steps, config.seq_len, config.windows, counts, seed), config.idle)
            if len(windows):
                yield group_of(piece.recording, config.split_by), windows


def _share_out(
    config: ImportConfig, groups: list[tuple[str, int]], spool: IO[bytes], out: Path, summary: ImportSummary, overwrite: bool
) -> None:
    with ExitStack() as stack:
        staged: dict[str, Path] = {}
        for split in filter(summary.count, SPLITS):
            info = {
                "sequence_length": config.seq_len,
                "rate_hz": config.rate,
                "source": "recordings",
                "seed": config.seed,
                "num_sequences": summary.count(split),
                "idle": config.idle,
                "recordings": _record(config, summary, split),
            }
            on_this_side = [((group in summary.held_out) == (split == "val"), number) for group, number in groups]
            blocks = _blocks(on_this_side, spool, config.seq_len)
            writing = staged_dataset(out / split, blocks, summary.count(split), info, flag="--out")
            staged[split] = stack.enter_context(writing)
        # Those of an earlier import, whose people may be on the other side now. Train goes first, and comes last: a folder with
        # it is an import that is whole.
        for split in reversed(SPLITS):
            check_replaceable("--out", out / split, overwrite)
            remove_dataset(out / split)
        for split, partial in staged.items():
            replace_dataset(partial, out / split, overwrite=overwrite, flag="--out")


def _record(config: ImportConfig, summary: ImportSummary, split: str) -> dict:
    """Return what dataset.json says of the import: its settings, its files, and what became of their rows, of both splits."""
    settings = {
        item.name: getattr(config, item.name) for item in fields(config) if item.name not in ("sources", "columns", "seed")
    }
    screens = {owner: astuple(screen) for owner, screen in summary.screens.items()}
    settings["screen"] = "auto" if config.screen is None else "{:g}x{:g}".format(*config.screen)
    tables = {"columns": asdict(config.columns)} if summary.has_tables else {}
    return {
        "split": split,
        **settings,
        **tables,
        "screens": screens,
        "groups": summary.num_groups,
        "counts": vars(summary.counts),
        "unread": summary.unread,
        "files": summary.files,
    }


def _blocks(runs: list[tuple[bool, int]], spool: IO[bytes], seq_len: int) -> Iterator[np.ndarray]:
    """Return the windows of the spool that are wanted; `runs` says of how many, in order, whether they are."""
    size = seq_len * NUM_CHANNELS * 4
    position = 0
    for wanted, run in groupby(runs, key=itemgetter(0)):
        count = sum(number for _, number in run)
        for first in range(0, count if wanted else 0, READ_SEQUENCES):
            number = min(READ_SEQUENCES, count - first)
            spool.seek((position + first) * size)
            yield np.frombuffer(spool.read(number * size), np.float32).reshape(number, seq_len, NUM_CHANNELS)
        position += count


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
