"""`train(config)`: the stages of a run, in order; the same on one process and on many.

Per process and batch: fetch, noise, loss, backward; per update: clip, step, learning rate, moving average. Data order
is a function of (seed, epoch), augmentation of (seed, epoch, sequence), training noise of (seed, rank, batch); see
`randomness.py`.
"""

import dataclasses
import math
import time
from collections.abc import Iterator

import diffusers
import torch
from accelerate import __version__ as accelerate_version
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm

import action_ddim
from action_ddim.actions import to_model_space
from action_ddim.errors import RunError, RunStopped
from action_ddim.evaluation.model_card import updates_of
from action_ddim.randomness import Stream, draw_noise, seeded_generator
from action_ddim.training import resume, tracking
from action_ddim.training.config import LR_BASE_WIDTH, TrainConfig
from action_ddim.training.ending import data_failures_rescued, end, failures_explained, last_checkpoint, stop, threads_settled
from action_ddim.training.interruption import Interrupted, Interruption
from action_ddim.training.loader import open_data, validate_once
from action_ddim.training.loss import diffusion_loss, draw_timesteps
from action_ddim.training.monitoring import has_final_plots, log_epoch, plot_epoch, show_realism, show_targets
from action_ddim.training.resume import Origin
from action_ddim.training.run import Run, build, check_device, initial_weights, make_accelerator
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.saving import check_upload, save, save_pipeline, upload, write_failures_said
from action_ddim.training.validation import measure_realism, trivial_loss, validate, validation_indices

REFRESH_UPDATES = 10  # between looks at the loss, each of which waits for the device
NAN_ADVICE = "reduce --lr to 1e-5 or lower --max_grad_norm, and check that the data is what it should be"


def train(config: TrainConfig) -> dict[str, float]:
    """Train a model, leave it in the run folder, and return the metrics of the last epoch.

    Raises:
        UserError: the data, the folder, the device or the checkpoint is not as it should be; nothing was trained or written.
        RunError: the run cannot go on: out of memory or disk, data that is gone, a loss that stays not finite.
        RunStopped: SIGTERM or SIGINT arrived; the run is saved, unless it had trained nothing yet.
    """
    folder = RunFolder(config.save_dir)
    check_device(config)
    tracking.check_trackers(config.report_to)
    check_upload(config)
    folder.check(in_place=config.resume_from_checkpoint is not None)
    train_data, val_data = open_data(config)
    with folder.locked(), Interruption(config.max_train_time) as interruption, threads_settled(), failures_explained(folder):
        accelerator = make_accelerator(config)
        identity = resume.identity(config, accelerator, train_data, val_data)
        origin = resume.find_origin(config, identity, accelerator.print)
        done = origin is not None and origin.is_finished(config)
        if origin and done and not (config.plot_epochs and origin.is_newest and not has_final_plots(folder)):
            accelerator.print(f"the run in {folder.path} is finished: {origin.path} is after its last epoch")
            folder.rows = origin.rows
            upload(config, folder)
            return folder.last_metrics()
        # A run that goes on has its weights in the checkpoint, and no need of those that it once began with.
        weights = None if origin else initial_weights(config)
        try:
            for dataset in (train_data, val_data):
                validate_once(accelerator, dataset, interruption)
            run = build(config, accelerator, folder, train_data, val_data, weights)
            run.identity = identity
            start(run, len(train_data), origin)
            try:
                if done:  # but for its last figures, at which it was ended
                    draw_run(run)
                    finish(run, saved=True)
                    return folder.last_metrics()
                return train_epochs(run, interruption)
            except Interrupted as wish:
                stop(run, wish.reason)
        except RunStopped as stopped:
            if stopped.exit_code:
                raise
            accelerator.print(stopped)
            return folder.last_metrics()


def start(run: Run, num_train_sequences: int, origin: Origin | None) -> None:
    """Make the run folder or go on in it, start the trackers, and say what will be trained."""
    config, accelerator = run.config, run.accelerator
    facts = {
        "peak_lr": config.peak_lr,
        "num_parameters": run.pipeline.denoiser.num_parameters(),
        "num_processes": accelerator.num_processes,
        "global_batch_size": config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes,
        "num_updates": run.num_updates,
        "num_train_sequences": num_train_sequences,
        "num_val_sequences": len(run.val_data),
        "seq_len": run.val_data.seq_len,
        "device": str(accelerator.device),
        "mixed_precision": accelerator.mixed_precision,
    }
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "accelerate": accelerate_version}
    settings = dataclasses.asdict(config)
    settings["resume_from_checkpoint"] = None  # is of this start: who repeats the run by its config.json begins anew
    run.trivial_loss = trivial_loss(run)
    if origin:
        resume.restore(run, origin)
    if accelerator.is_main_process:
        prepare_folder(run, origin)
        run.folder.write_config(
            {"action_ddim": action_ddim.__version__, "settings": settings, "run": facts, "versions": versions}
        )
    accelerator.wait_for_everyone()
    wandb_run = origin.progress.wandb_run if origin else None
    tracking.start_trackers(
        accelerator, config.wandb_project, settings | facts, str(run.folder.path), step=run.update, wandb_run=wandb_run
    )
    accelerator.print(
        f"{num_train_sequences} training ({run.loader.dataset.location}) and {len(run.val_data)} validation sequences of"
        f" {run.val_data.seq_len} steps;"
        f" {facts['num_parameters']:,} parameters on {accelerator.device}"
    )
    accelerator.print(
        f"{facts['num_updates']} updates of {facts['global_batch_size']} sequences (batch {config.batch_size}"
        f" x {config.gradient_accumulation_steps} accumulated x {accelerator.num_processes} processes);"
        f" lr {config.lr:g} at width {LR_BASE_WIDTH} is {config.peak_lr:g} at {config.d_model}"
    )
    if config.init_from and not origin:
        accelerator.print(f"the weights start from those of {config.init_from}")


def prepare_folder(run: Run, origin: Origin | None) -> None:
    """Make room for a run from the start, or go back to where one goes on from; say what was moved."""
    folder, stopping = run.folder, run.early_stopping
    if origin is None:
        moved, models = folder.begin(in_place=run.config.resume_from_checkpoint is not None)
        if moved:
            print(f"{folder.path} held an earlier run, which is now {moved}")
        for model in models:
            print(f"a model of the run that got to no checkpoint is set aside as {model}")
        return
    for aside in folder.continue_from(origin.path):
        print(f"a later checkpoint is set aside as {aside}")
    if updates_of(folder.best_pipeline) > origin.progress.update:
        # It is not the best of this run, which will come to it again, or with other settings to another.
        print(f"the best pipeline is a later one and set aside as {folder.set_aside(folder.best_pipeline)}")
        if stopping.best is not None:
            print(f"the best epoch so far is {stopping.best_epoch}, whose weights are kept no more; a better one's will be")
    print(f"the run goes on from {origin.path}")


def train_epochs(run: Run, interruption: Interruption) -> dict[str, float]:
    """Train, measure, log and save, epoch by epoch, until the last one or until nothing improves any more.

    Raises:
        Interrupted: there is a reason to stop; the run can be saved as it is, also between the batches of a validation: on
            going on, an epoch whose batches are all behind is only measured.
    """
    config, accelerator, metrics = run.config, run.accelerator, {}
    for epoch in range(run.epoch + 1, run.num_epochs + 1):
        metrics = train_epoch(run, epoch, interruption)
        with data_failures_rescued(run):
            last = measure(run, epoch, metrics, interruption)
        log_epoch(run, epoch, metrics)
        if run.batch == len(run.loader):  # --max_train_steps may end a run within an epoch, from where another may go on
            run.epoch, run.batch = epoch, 0
            run.tally.clear()
        if config.plot_epochs and (last or is_due(epoch, config.plot_epochs)):
            with data_failures_rescued(run), write_failures_said(f"the plots of epoch {epoch}"):
                plot_epoch(run, epoch, final=False)
        if last or is_due(epoch, config.checkpointing_epochs) or is_due(run.update, config.checkpointing_steps or 0):
            saved = save(run)
        if last:
            draw_run(run)
            show_targets(run, metrics)
            finish(run, saved)
            break
        interruption.check(accelerator)
    return metrics


def draw_run(run: Run) -> None:
    """Draw what is final in a run, where figures are asked for."""
    if run.config.plot_epochs:
        with data_failures_rescued(run), write_failures_said("the plots of the run"):
            plot_epoch(run, run.num_epochs, final=True)
    run.accelerator.wait_for_everyone()  # the first process draws


def train_epoch(run: Run, epoch: int, interruption: Interruption) -> dict[str, float]:
    """Pass through the training data once, from the batch on that the run is at."""
    accelerator, tally = run.accelerator, run.tally
    run.denoiser.train()
    num_sequences, started = 0, time.perf_counter()
    bar = tqdm(
        total=min(run.updates_per_epoch, run.num_updates - (epoch - 1) * run.updates_per_epoch),
        initial=tally.num_updates,
        desc=f"epoch {epoch}/{run.num_epochs}",
        leave=False,
        disable=not accelerator.is_main_process,
    )
    with bar:
        for actions in batches(run, epoch):
            # Batches are counted from the run's start, so that each has noise of its own.
            loss, grad_norm = training_step(run, actions, batch=(epoch - 1) * len(run.loader) + run.batch)
            run.batch += 1
            tally.add(loss, grad_norm)
            num_sequences += len(actions)
            if grad_norm is not None:
                bar.update()
                if run.update % REFRESH_UPDATES == 0:
                    lr = run.lr_scheduler.get_last_lr()[0]
                    bar.set_postfix(loss=f"{tally.mean_loss(last=REFRESH_UPDATES):.4f}", lr=f"{lr:.2e}")
                after_update(run, interruption)
    end_if_bad(run)
    device = "cpu" if accelerator.num_processes == 1 else accelerator.device  # MPS, of one process, has no float64
    mean_loss = torch.tensor([tally.mean_loss()], dtype=torch.float64, device=device)
    if tally.skipped:
        accelerator.print(f"{tally.skipped} updates of epoch {epoch} were skipped: loss or gradient was not finite")
    seconds = time.perf_counter() - started
    return {
        "train/loss": accelerator.gather(mean_loss).mean().item(),
        "train/lr": run.lr_scheduler.get_last_lr()[0],
        "train/grad_norm": tally.mean_grad_norm(),
        "train/skipped_updates": tally.skipped,
        "train/sequences_per_second": num_sequences * accelerator.num_processes / seconds,
        "train/seconds": seconds,
    }


def batches(run: Run, epoch: int) -> Iterator[torch.Tensor]:
    """Yield the epoch's batches `(B, L, 3)` from the one on that the run is at, as far as the run goes."""
    run.loader.set_epoch(epoch)
    loader = run.loader
    if run.batch:
        loader = run.accelerator.skip_first_batches(loader, run.batch)
        loader._non_blocking = run.loader._non_blocking  # which Accelerate 1.15 leaves behind
    # A loader draws from the global generator when it begins; dropout draws from it too, and must not depend on how
    # often an epoch was begun.
    with torch.random.fork_rng(devices=[]):
        iterator = iter(loader)
    while True:
        with data_failures_rescued(run), torch.random.fork_rng(devices=[]):
            actions = next(iterator, None)
        if actions is None or run.update == run.num_updates:
            return
        yield actions


def after_update(run: Run, interruption: Interruption) -> None:
    """Look at the state of things, and save where that is due."""
    config, accelerator = run.config, run.accelerator
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu or run.update % REFRESH_UPDATES == 0:  # looking waits for a GPU
        end_if_bad(run)
    if on_cpu or accelerator.num_processes == 1 or run.update % REFRESH_UPDATES == 0:
        interruption.check(accelerator)
    # After the last batch, the end of the epoch sees to it.
    at_end = run.batch == len(run.loader) or run.update == run.num_updates
    if is_due(run.update, config.checkpointing_steps or 0) and not at_end:
        save(run)


def end_if_bad(run: Run) -> None:
    """End the run after too many skipped updates in a row, or an epoch of nothing else."""
    tally = run.tally
    tally.look()
    if tally.longest_row >= run.config.max_bad_steps or tally.skipped == min(run.updates_per_epoch, run.num_updates):
        raise RunError(
            f"the loss or its gradient was not finite in {tally.longest_row} updates in a row, up to update {run.update},"
            f" which were skipped; {NAN_ADVICE}; {last_checkpoint(run.folder)}"
        )


def training_step(run: Run, actions: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Learn from one batch `(B, L, 3)`, and update where it completes an accumulation.

    Returns the loss, detached, and the norm of the gradient before clipping, None where there was no update.
    """
    accelerator, grad_norm = run.accelerator, None
    with accelerator.accumulate(run.denoiser):
        loss = batch_loss(run, actions, batch)
        # A loss that is not finite makes the gradient so, and with it that of every process: all skip the update.
        accelerator.backward(loss * torch.where(loss.isfinite(), 1.0, torch.nan))
        if accelerator.sync_gradients:
            grad_norm = accelerator.clip_grad_norm_(run.denoiser.parameters(), run.config.max_grad_norm)
            if isinstance(grad_norm, DTensor):  # under FSDP, each rank has its share
                grad_norm = grad_norm.full_tensor()
        if grad_norm is None or may_step(run, grad_norm):
            run.optimizer.step()
        run.optimizer.zero_grad()
        if accelerator.sync_gradients:
            # Also after a skipped update, so that both are functions of the number of updates.
            run.lr_scheduler.step()
            run.ema.step()
            run.update += 1
    return loss.detach(), grad_norm


def may_step(run: Run, grad_norm: torch.Tensor) -> bool:
    """Say whether to update, which leaves weights and moments as they are where the gradient is not finite."""
    if run.config.optimizer == "adamw" and run.accelerator.device.type != "mps":
        # Fused AdamW looks at this by itself, as at that of torch's GradScaler; no one waits for the device.
        run.optimizer.optimizer.found_inf = (~grad_norm.isfinite()).float()
        return True
    return run.accelerator.scaler is not None or bool(grad_norm.isfinite())  # the scaler of fp16 sees to it, and counts on it


def batch_loss(run: Run, actions: torch.Tensor, batch: int) -> torch.Tensor:
    """Noise a batch `(B, L, 3)` of actions and return its mean loss."""
    key = (Stream.TRAINING, run.config.seed, run.accelerator.process_index, batch)
    generator = seeded_generator(*key, device=actions.device)
    sample = to_model_space(actions)
    timesteps = draw_timesteps(len(sample), run.config.num_train_timesteps, generator, **run.timestep_settings)
    noise = draw_noise(tuple(sample.shape), generator)
    return diffusion_loss(run.denoiser, run.pipeline.scheduler, sample, noise, timesteps, **run.loss_settings).mean()


def is_due(epoch: int, every: int) -> bool:
    """Say whether something done every so many epochs, 0 for never, is due after this one."""
    return every > 0 and epoch % every == 0


def measure(run: Run, epoch: int, metrics: dict[str, float], interruption: Interruption) -> bool:
    """Add the epoch's validation to its metrics; say whether it is the run's last.

    Early stopping compares the same sequences in every epoch; the metrics of the last epoch are those of all. That may take
    long, and a run that is cut short then needs no more than to measure again: it is saved before.
    """
    config, stopping, best = run.config, run.early_stopping, run.folder.best_pipeline
    last = epoch == run.num_epochs
    if stopping.on or not last:
        metrics |= validate(run, validation_indices(config, len(run.val_data), everything=False), interruption)
    drawn = config.plot_epochs > 0 and (last or is_due(epoch, config.plot_epochs))
    if drawn:
        metrics |= draw(run, epoch, interruption)
    if stopping.on:
        if stopping.improves(epoch, metrics.get(stopping.metric, math.nan)):  # which an epoch without draws may lack
            save_pipeline(run, best, {"epoch": epoch, "update": run.update, **metrics})
        if stopping.exhausted(epoch):
            run.accelerator.print(stopping.verdict() + (f": {best}" if best.exists() else ""))
            last = True
    if last:
        save(run)
        metrics |= validate(run, validation_indices(config, len(run.val_data), everything=True), interruption)
        if config.plot_epochs and not drawn:
            metrics |= draw(run, epoch, interruption)
    return last


def draw(run: Run, epoch: int, interruption: Interruption) -> dict[str, float]:
    """Return how real it looks what the model draws, and say so."""
    figures, real = measure_realism(run, interruption)
    show_realism(run, epoch, figures, real)
    return figures


def finish(run: Run, saved: bool) -> None:
    """Close the trackers, and say where everything lies."""
    end(run.accelerator)
    folder = run.folder
    if not saved:
        raise RunError(
            f"the end of the run could not be saved; {last_checkpoint(folder)};"
            f" make room, and --resume_from_checkpoint {resume.LATEST} goes on from there"
        )
    paths = {"model": folder.pipeline, "metrics": folder.metrics, "plots": folder.plots, "checkpoint": folder.last_checkpoint}
    run.accelerator.print("   ".join(f"{name}: {path}" for name, path in paths.items() if path and path.exists()))
    upload(run.config, folder)
