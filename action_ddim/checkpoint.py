"""The run folder: what a training run leaves on disk, and how it gets there whole.

    checkpoints/                     --save_dir
      config.json                    every setting, number of processes, versions
      metrics.csv                    a row an epoch, columns named as the tracked keys
      plots/                         PNG
      checkpoint-000790/             full training state after 790 updates, for resuming
        model.safetensors            the weights as trained
        ema.safetensors              their moving average
        optimizer.bin, scheduler.bin, random_states_0.pkl, ...   Accelerate's save_state
        progress.json                epoch and update
      pipeline/                      for others: save_pretrained, the averaged weights, and README.md, the model card

A folder is written under a temporary name and renamed, so that one which has its final name is whole.
"""

import csv
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import nn

from action_ddim.errors import UserError

# What a run writes. A folder that holds anything else beside an earlier run is not moved aside.
RUN_ENTRIES = ("config.json", "metrics.csv", "plots", "pipeline", "checkpoint-*", ".*.partial", "wandb", "tensorboard")
CONFIG_MARK = "action_ddim"  # the key of our version in config.json, by which an earlier run is recognised


class RunFolder:
    """The folder of one run; written to by the main process only, but for `save_checkpoint`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last_checkpoint: Path | None = None  # that this run wrote
        self._columns: list[str] | None = None

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def pipeline(self) -> Path:
        return self.path / "pipeline"

    def check(self) -> None:
        """Raise a UserError where the folder could not be made, written to or moved aside; change nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--save_dir {self.path} is a file; name a folder")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            raise UserError(f"--save_dir {self.path} cannot be written ({error.strerror}); name another folder") from error
        if self._holds_run():
            known = {entry for pattern in RUN_ENTRIES for entry in self.path.glob(pattern)}
            others = sorted(entry.name for entry in self.path.iterdir() if entry not in known)
            if others:
                raise UserError(
                    f"--save_dir {self.path} holds an earlier run and other files ({others[0]}); name another folder"
                )

    def create(self) -> Path | None:
        """Make the folder; return where an earlier run in it was moved, if there was one."""
        moved = None
        if self._holds_run():
            names = (self.path.with_name(f"{self.path.name}.{number}") for number in itertools.count(1))
            moved = self.path.rename(next(name for name in names if not name.exists()))
        self.path.mkdir(parents=True, exist_ok=True)
        return moved

    def _holds_run(self) -> bool:
        try:
            return CONFIG_MARK in json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError, TypeError):
            return False

    def write_config(self, config: dict) -> None:
        (self.path / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add a row to metrics.csv; the first row names the columns."""
        with open(self.path / "metrics.csv", "a", newline="") as file:
            writer = csv.DictWriter(file, self._columns or list(row))
            if self._columns is None:
                self._columns = list(row)
                writer.writeheader()
            writer.writerow(row)

    def save_checkpoint(self, accelerator: Accelerator, ema_state: dict, *, epoch: int, update: int) -> None:
        """Write `checkpoint-<update>` with the full training state. MUST be called on every rank."""
        final = self.path / f"checkpoint-{update:06d}"
        partial = partial_name(final)
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            save_file(ema_state, partial / "ema.safetensors")
            (partial / "progress.json").write_text(json.dumps({"epoch": epoch, "update": update}, indent=2) + "\n")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            replace_folder(partial, final)
        accelerator.wait_for_everyone()
        self.last_checkpoint = final

    def save_pipeline(self, pipeline: DiffusionPipeline, files: Mapping[str, bytes]) -> None:
        """Rewrite `pipeline/` from the pipeline as it is now, with files beside it, contents by name."""
        partial = partial_name(self.pipeline)
        shutil.rmtree(partial, ignore_errors=True)
        pipeline.save_pretrained(partial)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        replace_folder(partial, self.pipeline)


def partial_name(final: Path) -> Path:
    """Return the name under which a folder is written; no pattern for checkpoints matches it."""
    return final.with_name(f".{final.name}.partial")


def replace_folder(partial: Path, final: Path) -> None:
    """Put a finished folder in the place of its final name."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)


def ema_state_dict(ema: EMAModel, denoiser: nn.Module) -> dict:
    """Return the averaged weights under the names of the denoiser's parameters, for `save_file`."""
    names = (name for name, _ in denoiser.named_parameters())
    return {name: value.detach().cpu().contiguous() for name, value in zip(names, ema.shadow_params, strict=True)}


@contextmanager
def averaged_weights(ema: EMAModel, denoiser: nn.Module) -> Iterator[None]:
    """Give the denoiser its averaged weights, and evaluation mode, within the context."""
    training = denoiser.training
    parameters = list(denoiser.parameters())
    ema.store(parameters)
    ema.copy_to(parameters)
    denoiser.eval()
    try:
        yield
    finally:
        ema.restore(parameters)
        denoiser.train(training)
