"""How a run goes on from a checkpoint: which one, whether the settings allow it, and the state it had.

The order of the data is a function of (seed, epoch) and the noise one of (seed, rank, batch), so that the number of
batches behind says where to go on; what else draws numbers, dropout, draws from states that are in the checkpoint.
"""

import csv
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import load
from safetensors.torch import load_file

from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import UserError, first_line
from action_ddim.training.checkpoint import find_damage, list_checkpoints, update_of
from action_ddim.training.config import TrainConfig
from action_ddim.training.progress import Progress
from action_ddim.training.run import Run, early_stopping
from action_ddim.training.run_folder import read_metrics

LATEST = "latest"
# Of runs from before there was the flag, where that is not its default.
BEFORE = {"rest_weight": 0.0, "optimizer": "adamw", "loss_balance": 0.0, "mlp_ratio": 4, "logit_mean": 0.0}
SAMPLED_BLOCKS, BLOCK_BYTES = 16, 1 << 16  # of each data file: 1 MB, the whole of a small one


@dataclass(frozen=True)
class Origin:
    """A checkpoint that verifies, read as far as text goes: what a run goes on from."""

    path: Path
    progress: Progress
    rows: list[dict[str, float]]  # of metrics.csv, with one of the next epoch where --max_train_steps ended the run in it

    @classmethod
    def read(cls, path: Path) -> "Origin":
        """Read a checkpoint's progress.json and metrics.csv.

        Raises:
            UserError: they are not what a run writes.
        """
        try:
            progress = Progress.from_json((path / "progress.json").read_text())
            rows = read_metrics(path / "metrics.csv")
            if len(rows) - progress.epoch not in (0, int(progress.batch > 0)):
                raise ValueError("progress.json and metrics.csv do not fit each other")
            return cls(path, progress, rows)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); give another checkpoint") from error

    @property
    def is_newest(self) -> bool:
        """Whether no checkpoint of its folder is a later one."""
        return all(update_of(path) <= self.progress.update for path in list_checkpoints(self.path.parent))

    def is_finished(self, config: TrainConfig) -> bool:
        """Say whether there is nothing left to do."""
        progress, stopping = self.progress, early_stopping(config)
        stopping.load_state(progress.early_stopping, progress.epoch)
        if config.max_train_steps is None:
            return progress.epoch >= config.num_epochs or stopping.exhausted(progress.epoch)
        # One that was stopped right after its last update has yet to be measured.
        measured = not progress.batch or len(self.rows) > progress.epoch
        return progress.update >= config.max_train_steps + (not measured) or stopping.exhausted(progress.epoch)


def is_own(run: Run, checkpoint: Path) -> bool:
    """Say whether a checkpoint of the run folder is this run's: whole by names and sizes, of the same settings and data.

    Its sums are left out: they would read all of it, at each save.
    """
    if checkpoint.is_symlink() or find_damage(checkpoint, sums=False):
        return False
    try:
        check_identity(run.identity, Origin.read(checkpoint).progress.identity, run.config, checkpoint)
    except UserError:
        return False
    return True


def find_origin(config: TrainConfig, identity: dict[str, Any], say: Callable[[str], None]) -> Origin | None:
    """Return what to go on from, None to start anew.

    Raises:
        UserError: there is no such checkpoint, or this run's settings are not those of the one that wrote it.
    """
    checkpoint = find_checkpoint(config, say)
    if checkpoint is None:
        return None
    origin = Origin.read(checkpoint)
    check_identity(identity, origin.progress.identity, config, checkpoint)
    return origin


def find_checkpoint(config: TrainConfig, say: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to go on from, None to start anew; name those that are damaged.

    Raises:
        UserError: the one that is asked for is not there, is damaged, or is that of another run folder.
    """
    asked, folder = config.resume_from_checkpoint, Path(config.save_dir)
    if asked is None:
        return None
    if asked == LATEST:
        for checkpoint in reversed(list_checkpoints(folder)):
            damage = find_damage(checkpoint)
            if damage is None:
                return checkpoint
            say(f"{checkpoint} is damaged and passed over: {damage}")
        say(f"{folder} holds no checkpoint to go on from; the run starts anew")
        return None
    checkpoint = next((path for path in (folder / asked, Path(asked)) if path.is_dir()), Path(asked))
    if update_of(checkpoint) < 0 or not checkpoint.is_dir():
        have = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
        raise UserError(f"--resume_from_checkpoint {asked} is no checkpoint; --save_dir {folder} holds {have}")
    if checkpoint.resolve().parent != folder.resolve():
        raise UserError(
            f"--resume_from_checkpoint {asked} lies in another folder than --save_dir {folder};"
            f" give --save_dir {checkpoint.parent}, or copy that folder first"
        )
    damage = find_damage(checkpoint)
    if damage is not None:
        raise UserError(f"--resume_from_checkpoint {asked} is damaged: {damage}; give another, or {LATEST}")
    return checkpoint


def identity(
    config: TrainConfig, accelerator: Accelerator, train_data: ActionDataset, val_data: ActionDataset
) -> dict[str, Any]:
    """Return what must be the same when a run goes on, by the name of the flag; the data by a digest."""
    fields = [item for item in dataclasses.fields(config) if not item.metadata["may_change"]]
    return {
        **{item.name: getattr(config, item.name) for item in fields},
        "seq_len": train_data.seq_len,
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "data_dir": data_digest(train_data.folder),
        "val_data_dir": data_digest(val_data.folder),
    }


def data_digest(folder: Path) -> str:
    """Return a digest of the data in a folder, in the order of its files: their sizes and, of each, 1 MB spread over it."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*_actions.npy")):
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with open(path, "rb") as file:
            last = max(0, size - BLOCK_BYTES)
            for block in range(SAMPLED_BLOCKS):
                # Blocks follow each other in a small file, and are spread evenly over a large one.
                file.seek(max(min(block * BLOCK_BYTES, last), last * block // (SAMPLED_BLOCKS - 1)))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def check_identity(now: dict[str, Any], then: dict[str, Any], config: TrainConfig, checkpoint: Path) -> None:
    """Raise a UserError where a setting is not what the checkpoint was trained with: the setting, both values, the remedy."""
    anew = "or leave --resume_from_checkpoint out to start anew"
    defaults = {item.name: item.default for item in dataclasses.fields(config)} | BEFORE
    for name, value in now.items():
        value, was = _worded(value), _worded(then.get(name, defaults.get(name)))
        if value == was:
            continue
        if name in ("data_dir", "val_data_dir"):
            given = getattr(config, name)
            source = f"--dataset_name {config.dataset_name}, for --{name}," if given is None else f"--{name} {given}"
            raise UserError(
                f"{source} is not the data that {checkpoint} was trained with"
                f" (digest {value[:8]}, not {str(was)[:8]}); give the same data, {anew}"
            )
        flag = f"accelerate launch --{name}" if name == "num_processes" else f"--{name}"
        remedy = f"leave {flag} out" if was is None else f"give {flag} {was}"
        raise UserError(f"{flag} is {value}, but {checkpoint} was trained with {was}; {remedy}, {anew}")


def _worded(value: Any) -> Any:
    """Return several words, which JSON has as a list, as they are given to their flag."""
    return " ".join(value) if isinstance(value, list | tuple) else value


def restore(run: Run, origin: Origin) -> None:
    """Give a run that is built and prepared the state it goes on from. MUST be called on every rank.

    Raises:
        UserError: a file in the checkpoint cannot be loaded, though it is what the manifest says.
    """
    accelerator, rank, path, progress = run.accelerator, run.accelerator.process_index, origin.path, origin.progress
    run.epoch, run.batch, run.update = progress.epoch, progress.batch, progress.update
    run.folder.rows = origin.rows[: progress.epoch]
    try:
        if progress.batch > len(run.loader):
            raise ValueError(f"it is at batch {progress.batch} of {len(run.loader)}")
        accelerator.load_state(str(path))
        run.ema.load_state_dict(load_file(path / "ema.safetensors"), progress.update)
        epoch_state = load_file(path / "epoch.safetensors")
        run.tally.load_state(epoch_state, rank, progress.skipped_in_a_row)
        run.early_stopping.load_state(progress.early_stopping, progress.epoch)
        # Accelerate only logs where it cannot load the random states.
        states = load(path / f"random_states_{rank}.pkl")
        if not torch.equal(torch.get_rng_state(), states["torch_manual_seed"]):
            raise ValueError("the random states were not restored")
    except Exception as error:  # whatever a forged file leads to
        raise UserError(f"{path} cannot be loaded ({first_line(error)}); give another checkpoint") from error
    if run.num_updates != (progress.max_train_steps or progress.num_epochs * run.updates_per_epoch):
        follow_new_cosine(run.lr_scheduler)
        lengths = {name: (getattr(run.config, name), getattr(progress, name)) for name in ("num_epochs", "max_train_steps")}
        changes = " and ".join(f"--{name} is {now} and was {was}" for name, (now, was) in lengths.items() if now != was)
        accelerator.print(f"{changes}: from here the learning rate follows the cosine of {run.num_updates} updates")


def follow_new_cosine(lr_scheduler: Any) -> None:
    """Set the learning rate to what the schedule says now; the loaded one is that of the schedule it was saved with."""
    schedule = lr_scheduler.scheduler
    rates = [base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
