"""How good the weights are after an epoch: metrics and the loss of held-out actions, each sequence's noise its own."""

import time

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from action_ddim.actions import PRESS, to_model_space
from action_ddim.evaluation.evaluate import NUM_ERROR_SEQUENCES
from action_ddim.evaluation.inference import ReconstructionSettings, reconstruct
from action_ddim.evaluation.metrics import sequence_statistics, summarize
from action_ddim.evaluation.realism import describe, distances
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.randomness import Stream, draw_noise, seeded_generator
from action_ddim.training.config import TrainConfig
from action_ddim.training.interruption import Interruption
from action_ddim.training.loss import diffusion_loss, draw_timesteps
from action_ddim.training.run import Run

NUM_DRAWS, NUM_DRAW_STEPS = 128, 20  # of `measure_realism`: together some 2 % of the documented full training


def validate(run: Run, indices: np.ndarray, interruption: Interruption) -> dict[str, float]:
    """Measure the averaged weights; every rank takes a share, and no sequence counts twice.

    Raises:
        Interrupted: there is a reason to stop before one of the batches.
    """
    config, accelerator, started = run.config, run.accelerator, time.perf_counter()
    share = indices[accelerator.process_index :: accelerator.num_processes]
    parts = []
    largest_share = -(-len(indices) // accelerator.num_processes)  # all ranks look for an interruption equally often
    with run.ema.averaged():
        firsts = range(0, largest_share, config.eval_batch_size)
        for first in tqdm(firsts, "validating", leave=False, disable=None if accelerator.is_main_process else True):
            interruption.check(accelerator)
            batch = share[first : first + config.eval_batch_size]
            if len(batch):
                actions = run.val_data.read(batch).numpy()
                statistics = evaluate_batch(run.pipeline, actions, batch, run.reconstruction, **run.objective)
                parts.append({"index": batch, **statistics})
    parts = gather_object(parts)
    # In order of index, so that sums are the same for any number of processes.
    order = np.argsort(np.concatenate([part["index"] for part in parts]))
    statistics = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    counts = {"num_sequences": len(indices), "seconds": time.perf_counter() - started}
    metrics = {"loss": float(statistics["loss"].mean()), **summarize(statistics), **counts}
    return {f"val/{name}": value for name, value in metrics.items()}


def measure_realism(run: Run, interruption: Interruption) -> tuple[dict[str, float], dict[str, float]]:
    """Draw actions with the averaged weights, from the same noise every time, and set them beside those of the validation.

    Returns the figures of `realism.describe` and `realism.distances` by key, and what the real actions are like. Every rank
    draws a share. A model that has diverged, and draws what is not finite, has no figures.

    Raises:
        Interrupted: there is a reason to stop before one of the batches.
    """
    config, accelerator, started = run.config, run.accelerator, time.perf_counter()
    steps, parts = min(NUM_DRAW_STEPS, config.num_train_timesteps), []
    share = range(accelerator.process_index, NUM_DRAWS, accelerator.num_processes)
    largest_share = -(-NUM_DRAWS // accelerator.num_processes)
    with run.ema.averaged():
        for first in range(0, largest_share, config.eval_batch_size):
            interruption.check(accelerator)
            batch = share[first : first + config.eval_batch_size]
            if len(batch):
                generators = [seeded_generator(Stream.SAMPLES, config.seed, index) for index in batch]
                parts.append((batch, run.pipeline(len(batch), steps, generator=generators, return_dict=False)[0]))
    parts = gather_object(parts)
    order = np.argsort(np.concatenate([batch for batch, _ in parts]))  # the same sums for any number of processes
    drawn = np.concatenate([actions for _, actions in parts])[order]
    real = run.val_data.read(validation_indices(config, len(run.val_data), everything=False)).numpy()
    finite = np.isfinite(drawn).all()
    measured = {**describe(drawn), **distances(drawn, real)} if finite else {}
    measured["seconds"] = time.perf_counter() - started
    return {f"val/realism/{name}": value for name, value in measured.items()}, describe(real)


def validation_indices(config: TrainConfig, num_sequences: int, *, everything: bool) -> np.ndarray:
    """Return the indices of the sequences to validate on: all, or the same random subset in every epoch."""
    if everything or config.eval_sequences >= num_sequences:
        return np.arange(num_sequences)
    rng = np.random.default_rng(config.seed)
    return np.sort(rng.choice(num_sequences, config.eval_sequences, replace=False))


def evaluate_batch(
    pipeline: ActionDDIMPipeline,
    actions: np.ndarray,
    indices: np.ndarray,
    settings: ReconstructionSettings,
    **loss_settings,
) -> dict[str, np.ndarray]:
    """Return the loss and the reconstruction statistics of each sequence, arrays `(N,)`, for `metrics.summarize`."""
    reconstruction = reconstruct(pipeline, actions, indices, settings)
    loss = validation_loss(pipeline, actions, indices, seed=settings.seed, **loss_settings)
    return {"loss": loss, **sequence_statistics(actions, reconstruction)}


@torch.no_grad()
def validation_loss(
    pipeline: ActionDDIMPipeline,
    actions: np.ndarray,
    indices: np.ndarray,
    *,
    seed: int,
    weighting_scheme: str = "none",
    logit_mean: float = 0.0,
    denoiser: torch.nn.Module | None = None,
    **loss_settings,
) -> np.ndarray:
    """Return the training objective of each sequence, `(N,)`.

    Noise and timestep are functions of (seed, index of the sequence): the same in every epoch and in any batch.

    Args:
        actions: `(N, L, 3)` in [0, 1].
        indices: `(N,)`, of each sequence in its data set.
        weighting_scheme, logit_mean: Of `draw_timesteps`.
        denoiser: By default that of the pipeline; `Untrained` for what there is to learn.
        loss_settings: `snr_gamma`, `loss_balance`, `velocity_weight` and `rest_weight` of `diffusion_loss`.
    """
    num_train_timesteps = pipeline.scheduler.config.num_train_timesteps
    noise, timesteps = [], []
    for index in indices.tolist():
        generator = seeded_generator(Stream.VALIDATION_LOSS, seed, index)
        timesteps.append(draw_timesteps(1, num_train_timesteps, generator, weighting_scheme, logit_mean))
        noise.append(draw_noise((1, *actions.shape[1:]), generator))
    device = pipeline.device
    sample = to_model_space(torch.as_tensor(actions, device=device))
    loss = diffusion_loss(
        denoiser or pipeline.denoiser,
        pipeline.scheduler,
        sample,
        torch.cat(noise).to(device),
        torch.cat(timesteps).to(device),
        **loss_settings,
    )
    return loss.cpu().double().numpy()


def trivial_loss(run: Run) -> float:
    """Return the val/loss of a model that answers 0, on sequences that stand for those of each epoch."""
    indices = validation_indices(run.config, len(run.val_data), everything=False)
    rows = indices[:: -(-len(indices) // NUM_ERROR_SEQUENCES)]
    actions, seed, denoiser = run.val_data.read(rows).numpy(), run.config.seed, Untrained()
    return float(validation_loss(run.pipeline, actions, rows, seed=seed, denoiser=denoiser, **run.objective).mean())


class Untrained(torch.nn.Module):
    """Answers 0, and that whatever can move may as well rest, as a denoiser does that has learned nothing yet."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor, ...]:
        return torch.zeros_like(sample), torch.zeros_like(sample[:, 1:, :PRESS])
