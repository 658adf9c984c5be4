"""The run folder: what a training run leaves on disk, and the lock by which no two runs share one.

    checkpoints/                     --save_dir
      config.json                    every setting, number of processes, versions
      metrics.csv                    a row an epoch, columns named as the tracked keys
      plots/                         PNG
      checkpoint-000790/             full training state after 790 updates, for resuming; see `checkpoint.py`
      pipeline/                      for others: save_pretrained, the averaged weights
      pipeline-best/                 the same after the best epoch, with --early_stopping_patience
      .lock                          held by the run that is at work here, whose process id it holds

Files and folders are replaced whole; see `durable.py`.
"""

import csv
import io
import itertools
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

from action_ddim import durable
from action_ddim.checkpoint import PARTIAL, checkpoint_name, list_checkpoints, update_of
from action_ddim.errors import UserError, is_first_process

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
# What a run writes. A folder that holds anything else beside an earlier run is not moved aside.
RUN_ENTRIES = (
    *("config.json", "metrics.csv", "plots", "pipeline", "pipeline-best", "checkpoint-*", "aside-*"),
    *(PARTIAL, ".*.partial", ".*.old", LOCK, "wandb", "tensorboard"),
)
CONFIG_MARK = "action_ddim"  # the key of our version in config.json, by which an earlier run is recognised


class RunFolder:
    """The folder of one run; written to by the main process only, but for checkpoints."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last_checkpoint: Path | None = None  # that this run wrote, or began from
        self.rows: list[dict] = []  # of metrics.csv
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

    def check(self, *, in_place: bool) -> None:
        """Raise a UserError where the folder could not be made, written to or moved aside; change nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--save_dir {self.path} is a file; name a folder")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            raise UserError(f"--save_dir {self.path} cannot be written ({error.strerror}); name another folder") from error
        if self._holds_run() and not in_place:
            known = {entry for pattern in RUN_ENTRIES for entry in self.path.glob(pattern)}
            others = sorted(entry.name for entry in self.path.iterdir() if entry not in known)
            if others:
                raise UserError(
                    f"--save_dir {self.path} holds an earlier run and other files ({others[0]}); name another folder"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold its lock on the main process; the system releases it when the process dies.

        Raises:
            UserError: another run holds it, in one line that names its process.
        """
        if is_first_process():
            self._take_lock()
            durable.recover(self.path)
            shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        try:
            yield
        finally:
            if self._lock is not None:
                if self._made and [path.name for path in self.path.iterdir()] == [LOCK]:  # it ended before it began
                    shutil.rmtree(self.path)
                self._lock.close()

    def _take_lock(self) -> None:
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
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
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        if self._lock is not None:
            self._lock.close()
        self._lock = lock

    def begin(self, *, in_place: bool) -> Path | None:
        """Make room for a new run; return where an earlier one was moved, if there was one.

        One that got to no checkpoint need not be moved: nothing is lost by starting it again in its place.
        """
        moved = None
        if self._holds_run() and not (in_place and not list_checkpoints(self.path)):
            names = (self.path.with_name(f"{self.path.name}.{number}") for number in itertools.count(1))
            moved = self.path.rename(next(name for name in names if not name.exists()))
            self._take_lock()  # the other one went with the folder
        self.write_metrics()
        return moved

    def continue_from(self, checkpoint: Path) -> list[Path]:
        """Go on from a checkpoint; set later ones aside, and return their new names."""
        self.last_checkpoint = checkpoint
        # Where they are, they would be taken for newer than what this run is about to write.
        later = [other for other in list_checkpoints(self.path) if update_of(other) > update_of(checkpoint)]
        moved = [self.set_aside(other) for other in later]
        self.write_metrics()
        return moved

    def set_aside(self, entry: Path) -> Path:
        """Rename what this run does not go on from, and keep it; return its new name."""
        names = (self.path / f"aside-{entry.name}{suffix}" for suffix in ("", *map(".{}".format, range(1, 1000))))
        return entry.rename(next(name for name in names if not name.exists()))

    def delete(self, checkpoints: list[Path]) -> None:
        for checkpoint in checkpoints:
            # Under its own name, one that is half deleted would be taken for a damaged one.
            shutil.rmtree(checkpoint.rename(self.path / PARTIAL))

    def _holds_run(self) -> bool:
        try:
            return CONFIG_MARK in json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError, TypeError):
            return False

    def write_config(self, config: dict) -> None:
        durable.write_text(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add a row to metrics.csv; where it cannot be written, the row is written with the next."""
        self.rows.append(row)
        self.write_metrics()

    def write_metrics(self) -> None:
        path = self.metrics
        try:
            if self.rows:
                durable.write_text(path, self.metrics_text())
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            print(f"{path} cannot be written ({error.strerror}); its rows are kept", file=sys.stderr)

    def last_metrics(self) -> dict[str, float]:
        """Return the metrics of the last row."""
        row = self.rows[-1] if self.rows else {}
        return {name: float(value) for name, value in row.items() if name not in ("epoch", "update") and value != ""}

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
            durable.put_in_place(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
