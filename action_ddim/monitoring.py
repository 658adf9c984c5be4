"""What a run shows of itself each epoch: metrics of held-out actions, the lines and rows that report them, and figures."""

import numpy as np
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from action_ddim import evaluation, plots, tracking
from action_ddim.config import TrainConfig
from action_ddim.ema import averaged_weights
from action_ddim.metrics import summarize
from action_ddim.randomness import Stream, seeded_generator
from action_ddim.run import Run

NUM_PLOTTED = 6
NUM_SAMPLES = 10


def validation_indices(config: TrainConfig, num_sequences: int, *, everything: bool) -> np.ndarray:
    """Return the places of the sequences to validate on: all, or the same random subset in every epoch."""
    if everything or config.eval_sequences >= num_sequences:
        return np.arange(num_sequences)
    rng = np.random.default_rng(config.seed)
    return np.sort(rng.choice(num_sequences, config.eval_sequences, replace=False))


def validate(run: Run, indices: np.ndarray) -> dict[str, float]:
    """Measure the averaged weights; every rank takes a share, and no sequence counts twice."""
    config, accelerator = run.config, run.accelerator
    share = indices[accelerator.process_index :: accelerator.num_processes]
    parts = []
    with averaged_weights(run.ema, run.pipeline.denoiser):
        for first in range(0, len(share), config.eval_batch_size):
            batch = share[first : first + config.eval_batch_size]
            actions = run.val_data.read(batch).numpy()
            statistics = evaluation.evaluate_batch(run.pipeline, actions, batch, run.reconstruction, **run.loss_settings)
            parts.append({"index": batch, **statistics})
    parts = gather_object(parts)
    # In order of index, so that sums are the same for any number of processes.
    order = np.argsort(np.concatenate([part["index"] for part in parts]))
    statistics = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    metrics = {"loss": float(statistics["loss"].mean()), **summarize(statistics)}
    return {f"val/{name}": value for name, value in metrics.items()}


def log_epoch(run: Run, epoch: int, metrics: dict[str, float]) -> None:
    """Give the metrics to the trackers and metrics.csv, and print the key ones."""
    accelerator = run.accelerator
    accelerator.log({"epoch": epoch, **metrics}, step=run.update)
    if accelerator.is_main_process:
        run.folder.append_metrics({"epoch": epoch, "update": run.update, **metrics})
        value = {name.removeprefix("val/"): number for name, number in metrics.items()}
        tqdm.write(
            f"epoch {epoch}/{run.config.num_epochs}  loss {value['train/loss']:.4f}  val/loss {value['loss']:.4f}"
            f"  mse {value['mse']:.5f}  coord_mse {value['coord_mse']:.5f}  press {value['press_accuracy']:.4f}"
            f"  SNR {value['mean_snr_db']:.1f} dB  variance {value['variance_ratio_x']:.2f}/{value['variance_ratio_y']:.2f}"
            f"  smoothness {value['smoothness_ratio_x']:.2f}/{value['smoothness_ratio_y']:.2f}"
            f"  {value['train/sequences_per_second']:.0f} seq/s"
        )


def plot_epoch(run: Run, epoch: int, last: bool) -> None:
    """Draw reconstructions, and at the end samples, to `plots/` and the trackers."""
    config, accelerator = run.config, run.accelerator
    if not accelerator.is_main_process:
        return
    batch = validation_indices(config, len(run.val_data), everything=False)[:NUM_PLOTTED]
    actions = run.val_data.read(batch).numpy()
    figures = {}
    with averaged_weights(run.ema, run.pipeline.denoiser):
        noisy = evaluation.noised(run.pipeline, actions, batch, run.reconstruction)
        reconstructed = evaluation.reconstruct(run.pipeline, actions, batch, run.reconstruction)
        figures[f"val/reconstructions_epoch_{epoch}"] = plots.plot_reconstructions(actions, noisy, reconstructed)
        if last:
            generator = seeded_generator(Stream.SAMPLES, config.seed)
            samples = run.pipeline(NUM_SAMPLES, num_inference_steps=50, generator=generator, return_dict=False)[0]
            figures["val/samples"] = plots.plot_samples(samples)
    run.folder.plots.mkdir(exist_ok=True)
    for key, figure in figures.items():
        figure.savefig(run.folder.plots / f"{key.removeprefix('val/')}.png", dpi=100)
        if accelerator.trackers:
            tracking.log_image(accelerator, key, plots.figure_to_image(figure), step=run.update)
