"""`train(config)`: the stages of a run, in order; the same on one process and on many.

Per process and batch: fetch, noise, loss, backward; per update: clip, step, learning rate, moving average. Data order
is a function of (seed, epoch), training noise of (seed, rank, batch); see `randomness.py`.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import torch
from accelerate import __version__ as accelerate_version
from tqdm.auto import tqdm

import action_ddim
from action_ddim import tracking
from action_ddim.actions import to_model_space
from action_ddim.checkpoint import RunFolder, averaged_weights, ema_state_dict
from action_ddim.config import LR_BASE_WIDTH, TrainConfig
from action_ddim.errors import RunError
from action_ddim.loading import open_data
from action_ddim.loss import diffusion_loss, draw_noise, draw_timesteps
from action_ddim.monitoring import log_epoch, plot_epoch, validate, validation_indices
from action_ddim.randomness import Stream, seeded_generator
from action_ddim.run import Run, build, check_device, make_accelerator

REFRESH_UPDATES = 10  # between looks at the loss, each of which waits for the device
NAN_ADVICE = "reduce --lr to 1e-5 or lower --max_grad_norm, and check that the data is what it should be"
MEMORY_ADVICE = "reduce --batch_size (32, 16, 8, 4), --d_model (64, 32) or --data_memory_gb, or use --device cpu"


def train(config: TrainConfig) -> dict[str, float]:
    """Train a model, leave it in the run folder, and return the metrics of the last epoch.

    Raises:
        UserError: the data, the folder or the device is not as it should be; nothing was trained or written.
        RunError: the run cannot go on: out of memory, or the loss is not finite.
    """
    folder = RunFolder(config.save_dir)
    check_device(config)
    tracking.check_trackers(config.report_to)
    folder.check()
    train_data, val_data = open_data(config)
    accelerator = make_accelerator(config)
    with failures_explained(folder):
        run = build(config, accelerator, folder, train_data, val_data)
        start(run, len(train_data))
        for epoch in range(1, config.num_epochs + 1):
            last = epoch == config.num_epochs
            metrics = train_epoch(run, epoch)
            metrics |= validate(run, validation_indices(config, len(val_data), everything=last))
            log_epoch(run, epoch, metrics)
            if last or is_due(epoch, config.plot_epochs):
                plot_epoch(run, epoch, last)
            if last or is_due(epoch, config.checkpointing_epochs):
                save(run, epoch)
        finish(run)
    return metrics


def start(run: Run, num_train_sequences: int) -> None:
    """Make the run folder, start the trackers, and say what will be trained."""
    config, accelerator = run.config, run.accelerator
    facts = {
        "peak_lr": config.peak_lr,
        "num_parameters": run.pipeline.denoiser.num_parameters(),
        "num_processes": accelerator.num_processes,
        "global_batch_size": config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes,
        "num_updates": run.updates_per_epoch * config.num_epochs,
        "num_train_sequences": num_train_sequences,
        "num_val_sequences": len(run.val_data),
        "seq_len": run.val_data.seq_len,
        "device": str(accelerator.device),
        "mixed_precision": accelerator.mixed_precision,
    }
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "accelerate": accelerate_version}
    settings = dataclasses.asdict(config)
    if accelerator.is_main_process:
        moved = run.folder.create()
        if moved:
            print(f"{run.folder.path} held an earlier run, which is now {moved}")
        run.folder.write_config(
            {"action_ddim": action_ddim.__version__, "settings": settings, "run": facts, "versions": versions}
        )
    accelerator.wait_for_everyone()
    tracking.start_trackers(accelerator, config.wandb_project, settings | facts, str(run.folder.path))
    accelerator.print(
        f"{num_train_sequences} training ({run.data_place}) and {len(run.val_data)} validation sequences of"
        f" {run.val_data.seq_len} steps;"
        f" {facts['num_parameters']:,} parameters on {accelerator.device}"
    )
    accelerator.print(
        f"{facts['num_updates']} updates of {facts['global_batch_size']} sequences (batch {config.batch_size}"
        f" x {config.gradient_accumulation_steps} accumulated x {accelerator.num_processes} processes);"
        f" lr {config.lr:g} at width {LR_BASE_WIDTH} is {config.peak_lr:g} at {config.d_model}"
    )


def train_epoch(run: Run, epoch: int) -> dict[str, float]:
    """Pass through the training data once."""
    config, accelerator = run.config, run.accelerator
    run.denoiser.train()
    run.loader.set_epoch(epoch)
    losses, grad_norms, num_sequences, started = [], [], 0, time.perf_counter()
    description, silent = f"epoch {epoch}/{config.num_epochs}", not accelerator.is_main_process
    bar = tqdm(total=run.updates_per_epoch, desc=description, leave=False, disable=silent)
    for index, actions in enumerate(run.loader):
        # Batches are counted from the run's start, so that each has noise of its own.
        loss, grad_norm = training_step(run, actions, batch=(epoch - 1) * len(run.loader) + index)
        losses.append(loss)
        num_sequences += len(actions)
        if grad_norm is not None:
            grad_norms.append(grad_norm)
            bar.update()
            if run.update % REFRESH_UPDATES == 0:
                lr = run.lr_scheduler.get_last_lr()[0]
                bar.set_postfix(loss=f"{finite_mean(run, losses[-REFRESH_UPDATES:]):.4f}", lr=f"{lr:.2e}")
    bar.close()
    mean_loss = torch.tensor([finite_mean(run, losses)], device=accelerator.device)
    return {
        "train/loss": accelerator.gather(mean_loss).mean().item(),
        "train/lr": run.lr_scheduler.get_last_lr()[0],
        "train/grad_norm": torch.stack(grad_norms).mean().item(),
        "train/sequences_per_second": num_sequences * accelerator.num_processes / (time.perf_counter() - started),
    }


def training_step(run: Run, actions: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Learn from one batch `(B, L, 3)`, and update where it completes an accumulation.

    Returns the loss, detached, and the norm of the gradient before clipping, None where there was no update.
    """
    accelerator, grad_norm = run.accelerator, None
    with accelerator.accumulate(run.denoiser):
        loss = batch_loss(run, actions, batch)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            grad_norm = accelerator.clip_grad_norm_(run.denoiser.parameters(), run.config.max_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.lr_scheduler.step()
            run.average()
            run.update += 1
    return loss.detach(), grad_norm


def batch_loss(run: Run, actions: torch.Tensor, batch: int) -> torch.Tensor:
    """Noise a batch `(B, L, 3)` of actions and return its mean loss."""
    key = (Stream.TRAINING, run.config.seed, run.accelerator.process_index, batch)
    generator = seeded_generator(*key, device=actions.device)
    sample = to_model_space(actions)
    timesteps = draw_timesteps(len(sample), run.config.num_train_timesteps, generator)
    noise = draw_noise(tuple(sample.shape), generator)
    return diffusion_loss(run.denoiser, run.pipeline.scheduler, sample, noise, timesteps, **run.loss_settings).mean()


def finite_mean(run: Run, losses: list[torch.Tensor]) -> float:
    """Return the mean loss; end the run where it is not finite, since the weights are then lost."""
    mean = torch.stack(losses).mean().item()
    if not math.isfinite(mean):
        checkpoint = run.folder.last_checkpoint
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise RunError(f"the loss is {mean} after {run.update} updates; {NAN_ADVICE}; {good}")
    return mean


def is_due(epoch: int, every: int) -> bool:
    """Say whether something done every so many epochs, 0 for never, is due after this one."""
    return every > 0 and epoch % every == 0


def save(run: Run, epoch: int) -> None:
    """Write a checkpoint, and `pipeline/` anew."""
    ema_state = ema_state_dict(run.ema, run.pipeline.denoiser)
    run.folder.save_checkpoint(run.accelerator, ema_state, epoch=epoch, update=run.update)
    if run.accelerator.is_main_process:
        with averaged_weights(run.ema, run.pipeline.denoiser):
            run.folder.save_pipeline(run.pipeline)
    run.accelerator.wait_for_everyone()


def finish(run: Run) -> None:
    """Close the trackers, and say where everything lies."""
    run.accelerator.end_training()
    folder = run.folder
    run.accelerator.print(
        f"model: {folder.pipeline}   metrics: {folder.path / 'metrics.csv'}   plots: {folder.plots}"
        f"   checkpoint: {folder.last_checkpoint}"
    )


@contextmanager
def failures_explained(folder: RunFolder) -> Iterator[None]:
    """Turn running out of memory into a RunError that names the flags that help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not out_of_memory and not re.search("out of memory|can't allocate memory|not enough memory", str(error)):
            raise
        kept = f"; the last checkpoint is {folder.last_checkpoint}" if folder.last_checkpoint else ""
        raise RunError(f"out of memory; {MEMORY_ADVICE}{kept}") from error
