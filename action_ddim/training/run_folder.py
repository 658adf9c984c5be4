"""The run folder: what a training run leaves on disk, and the lock by which no two runs share one.

    checkpoints/                     --save_dir
      config.json                    every setting, number of processes, versions
      metrics.csv                    a row an epoch, columns named as the tracked keys
      plots/                         PNG
      checkpoint-000790/             full training state after 790 updates, for resuming; see `checkpoint.py`
      pipeline/                      for others: save_pretrained, the averaged weights
      pipeline-best/                 the same after the best epoch, with --early_stopping_patience
      .lock                          held by the run that is at work here, whose process id it holds

Files and folders are replaced whole; see `atomic.py`.
"""

import csv
import errno
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from diffusers import DiffusionPipeline

from action_ddim import atomic
from action_ddim.errors import UserError, is_first_process
from action_ddim.training.checkpoint import PARTIAL, checkpoint_name, list_checkpoints, update_of

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
# What a run would write over, beside checkpoints: where any of it lies there is an earlier run, whoever put it there.
WRITTEN_OVER = ("config.json", "metrics.csv", "plots", "pipeline", "pipeline-best")
CONFIG_MARK = "action_ddim"  # the key of our version in config.json, which says that a run of ours wrote it
# What may lie beside it and moves with it. A folder that holds anything else beside an earlier run is not moved aside.
MOVES_ALONG = (
    *("aside-*", "wandb", "tensorboard", LOCK, PARTIAL, f".*{atomic.OLD}", ".config.json.partial", ".metrics.csv.partial"),
    ".partial",  # of a run that an earlier version was killed in
)
PROBE = bytes(1 << 16)  # config.json and the first rows of metrics.csv are smaller


class RunFolder:
    """The folder of one run; written to by the main process only, but for checkpoints."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last_checkpoint: Path | None = None  # that this run wrote, or began from
        self.config: dict = {}  # of which config.json is a copy
        self.rows: list[dict[str, float]] = []  # of which metrics.csv is a copy
        self._lock: IO | None = None
        self._made = False

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def pipeline(self) -> Path:
        return self.path / "pipeline"

    @property
    def best_pipeline(self) -> Path:
        return self.path / "pipeline-best"

    def checkpoint(self, update: int) -> Path:
        return self.path / checkpoint_name(update)

    @property
    def _real(self) -> Path:
        """The folder itself: where the path is a link, or has no name to move it by, the one that is meant."""
        return Path(os.path.realpath(self.path)) if self.path.is_symlink() or self.path.name in ("", "..") else self.path

    def check(self, *, in_place: bool) -> None:
        """Raise a UserError where the folder could not be made, written to or moved aside; change nothing."""
        if os.path.exists(self.path) and not self.path.is_dir():
            raise UserError(f"--save_dir {self.path} is a file; name a folder")
        with self._failures_refused("cannot be written"):
            if not self._real.exists():
                atomic.free_name(self._real)  # which fails where none can have this name
            _probe(next(folder for folder in (self._real, *self._real.absolute().parents) if folder.exists()))
        if not in_place:
            self._place_aside(in_place=False)

    def _place_aside(self, *, in_place: bool) -> Path | None:
        """Return where to move an earlier run, None where there is none; change nothing.

        One of ours that got to no checkpoint may be started again `in_place`.

        Raises:
            UserError: other files lie beside it, or the folder cannot be moved.
        """
        entries = list(self.path.iterdir()) if self.path.is_dir() else []
        names = sorted(entry.name for entry in entries if entry.name in WRITTEN_OVER or update_of(entry) >= 0)
        if not names or (in_place and self._has_config() and not list_checkpoints(self.path)):
            return None
        moves = {*names, *(entry.name for entry in entries if any(map(entry.match, MOVES_ALONG)))}
        others = sorted({entry.name for entry in entries} - moves)
        if others:
            raise UserError(
                f"--save_dir {self.path} holds an earlier run ({names[0]}) and other files ({others[0]}); name another folder"
            )
        with self._failures_refused("holds an earlier run and cannot be moved aside"):
            if Path.cwd().is_relative_to(self.path.resolve()):
                raise OSError(errno.EBUSY, "the working directory lies there")  # relative paths would lead astray
            if os.path.ismount(self._real):
                raise OSError(errno.EBUSY, "it is a mount point")
            _probe(self._real.parent)
            return atomic.free_name(self._real)

    @contextmanager
    def _failures_refused(self, what: str) -> Iterator[None]:
        """Turn an OSError into a UserError that says of the folder what is the matter, and the remedy."""
        try:
            yield
        except OSError as error:
            room = "make room, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise UserError(f"--save_dir {self.path} {what} ({error.strerror}); {room}name another folder") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold its lock on the main process; the system releases it when the process dies.

        Raises:
            UserError: another run holds it, in one line that names its process.
        """
        try:
            if is_first_process():
                with self._failures_refused("cannot be written"):
                    self._take_lock()
                    atomic.recover(self.path)
                    shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
            yield
        finally:
            if self._lock is not None:
                if self._made and [path.name for path in self.path.iterdir()] == [LOCK]:  # it ended before it began
                    shutil.rmtree(self._real)
                self._lock.close()

    def _take_lock(self) -> None:
        self._made = not self.path.exists()
        self._real.mkdir(parents=True, exist_ok=True)
        path = self.path / LOCK
        lock = open(path, "a+")  # noqa: SIM115  (held until the run ends)
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise UserError(
                    f"--save_dir {self.path} is in use by a run that is at work (process {lock.read().strip()});"
                    " wait for it, or name another folder"
                ) from error
            except OSError as error:
                print(f"{self.path} cannot be locked ({error.strerror}); start no other run there", file=sys.stderr)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            return self._take_lock()  # its run has just removed the folder
        if self._lock is not None:
            self._lock.close()
        self._lock = lock
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())

    def begin(self, *, in_place: bool) -> tuple[Path | None, list[Path]]:
        """Make room for a new run; return where an earlier one was moved, if it was, and its models in this folder.

        One that got to no checkpoint need not be moved: nothing is lost by starting it again in its place, but for a model,
        which may be all that somebody has kept of it.

        Raises:
            UserError: it cannot be moved, and lies where it lay.
        """
        moved = self._place_aside(in_place=in_place)
        with self._failures_refused("holds an earlier run and cannot be moved aside"):
            if moved:
                self._real.rename(moved)
                self._take_lock()  # the other one went with the folder
            models = [self.set_aside(model) for model in (self.pipeline, self.best_pipeline) if model.exists()]
        self.write_metrics()
        return moved, models

    def continue_from(self, checkpoint: Path) -> list[Path]:
        """Go on from a checkpoint; set later ones aside, and return their new names."""
        self.last_checkpoint = checkpoint
        # Where they are, they would be taken for newer than what this run is about to write.
        later = [other for other in list_checkpoints(self.path) if update_of(other) > update_of(checkpoint)]
        with self._failures_refused("cannot be written"):
            moved = [self.set_aside(other) for other in later]
        self.write_metrics()
        return moved

    def set_aside(self, entry: Path) -> Path:
        """Rename what this run does not go on from, and keep it; return its new name."""
        return entry.rename(atomic.free_name(self.path / f"aside-{entry.name}"))

    def delete(self, checkpoints: list[Path]) -> None:
        for checkpoint in checkpoints:
            # Under its own name, one that is half deleted would be taken for a damaged one.
            shutil.rmtree(checkpoint.rename(self.path / PARTIAL))

    def _has_config(self) -> bool:
        try:
            return CONFIG_MARK in json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError, TypeError):
            return False

    def write_config(self, config: dict) -> None:
        """Write config.json.

        Raises:
            UserError: it cannot be written.
        """
        self.config = config
        with self._failures_refused("cannot be written"):
            atomic.write_text(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add a row to metrics.csv; where it cannot be written, the row is written with the next."""
        self.rows.append(row)
        self.write_metrics()

    def write_metrics(self) -> None:
        path = self.metrics
        try:
            if self.rows:
                atomic.write_text(path, self.metrics_text())
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            print(f"{path} cannot be written ({error.strerror}); its rows are kept", file=sys.stderr)

    def last_metrics(self) -> dict[str, float]:
        """Return the metrics of the last row."""
        row = self.rows[-1] if self.rows else {}
        return {name: float(value) for name, value in row.items() if name not in ("epoch", "update")}

    def metrics_text(self) -> str:
        """Return what metrics.csv holds; a column that a row lacks is empty there."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def save_pipeline(self, pipeline: DiffusionPipeline, final: Path, files: Mapping[str, bytes]) -> None:
        """Rewrite `pipeline/` or `pipeline-best/` from the pipeline as it is now, with files beside it, contents by name."""
        partial = self.path / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        try:
            pipeline.save_pretrained(partial)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            atomic.put_in_place(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _probe(folder: Path) -> None:
    """Raise an OSError where a folder cannot be written to, or its disk is full; leave nothing there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(PROBE)
        file.flush()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics.csv, numbers that are written again as they stand there; an empty cell is left out.

    Raises:
        OSError, ValueError, TypeError, AttributeError, csv.Error: it is not what `metrics_text` returns.
    """
    rows = csv.DictReader(path.read_text().splitlines())
    return [{name: int(text) if text.isdecimal() else float(text) for name, text in row.items() if text != ""} for row in rows]
