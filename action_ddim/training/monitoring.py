"""What a run shows of itself each epoch: the lines and rows that report its metrics, figures, and the model card."""

from collections.abc import Mapping

import numpy as np
from tqdm.auto import tqdm

from action_ddim.evaluation import inference, plots
from action_ddim.evaluation.evaluate import NUM_ERROR_SEQUENCES, NUM_NOISE_SEQUENCES, draw_samples, reconstruction_figures
from action_ddim.evaluation.metrics import TARGETS
from action_ddim.evaluation.model_card import model_card
from action_ddim.evaluation.tables import targets_table
from action_ddim.export import CARD_NAME, FIGURE_NAME
from action_ddim.training import tracking
from action_ddim.training.run import Run
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.validation import validation_indices

NUM_SAMPLES, NUM_SAMPLE_STEPS = 10, 50
FINAL_PLOTS = ("learning_curves", "samples", "error_by_timestep")
# Of the loss of answering 0, which a model that learns anything is below after an epoch; not 1, since the sequences differ.
WORSE_THAN_NONE = 1.5


def log_epoch(run: Run, epoch: int, metrics: dict[str, float]) -> None:
    """Give the metrics to metrics.csv and the trackers, and print the key ones, and which targets they meet."""
    if run.accelerator.is_main_process:
        run.folder.append_metrics({"epoch": epoch, "update": run.update, **metrics})
        value = {name.removeprefix("val/"): number for name, number in metrics.items()}
        tqdm.write(
            f"epoch {epoch}/{run.num_epochs}  loss {value['train/loss']:.4f}  val/loss {value['loss']:.4f}"
            f"  mse {value['mse']:.5f}  coord_mse {value['coord_mse']:.5f}  press {value['press_accuracy']:.4f}"
            f"  SNR {value['mean_snr_db']:.1f} dB  variance {value['variance_ratio_x']:.2f}/{value['variance_ratio_y']:.2f}"
            f"  smoothness {value['smoothness_ratio_x']:.2f}/{value['smoothness_ratio_y']:.2f}"
            f"  {value['train/sequences_per_second']:.0f} seq/s  {targets_line(value)}"
        )
        warn_if_worse_than_none(run, metrics)
    tracking.log_metrics(run.accelerator, {"epoch": epoch, **metrics}, step=run.update)


def warn_if_worse_than_none(run: Run, metrics: dict[str, float]) -> None:
    """Say so where the model is further off than one that answers 0, as it did before it was trained."""
    loss = metrics["val/loss"]
    if not loss <= WORSE_THAN_NONE * run.trivial_loss:  # nor is NaN
        tqdm.write(
            f"warning: the model is worse than none: val/loss is {loss:.3g}, where answering 0 has {run.trivial_loss:.3g};"
            f" the training has diverged, reduce --lr, which is {run.config.lr:g}"
        )


def targets_line(metrics: dict[str, float]) -> str:
    """Return how many of the documented targets are met, and the names of those that are not."""
    missed = [target.name for target in TARGETS if not target.is_met(metrics)]
    met = f"targets met {len(TARGETS) - len(missed)}/{len(TARGETS)}"
    return f"{met}, not {', '.join(missed)}" if missed else met


def show_realism(run: Run, epoch: int, figures: Mapping[str, float], real: Mapping[str, float]) -> None:
    """Print what drawn actions are like, the data's own shares beside theirs."""
    if not run.accelerator.is_main_process:
        return
    value = {name.removeprefix("val/realism/"): number for name, number in figures.items()}
    if "one_press" not in value:
        tqdm.write(f"epoch {epoch}/{run.num_epochs}: what the model draws is not finite")
        return
    tqdm.write(
        f"epoch {epoch}/{run.num_epochs} draws: one press {value['one_press']:.2f} (data {real['one_press']:.2f})"
        f"  exact rests {value['exact_rests']:.2f} (data {real['exact_rests']:.2f})"
        f"  gestures {value['type_distance']:.2f} off  Frechet distance {value['frechet_distance']:.2f}"
    )


def show_targets(run: Run, metrics: dict[str, float]) -> None:
    """Print the documented targets as a table, what is amiss, and how much of the time validation took."""
    if not run.accelerator.is_main_process:
        return
    keys = ("train", "val", "val/realism")
    seconds = {key: sum(row.get(f"{key}/seconds", 0.0) for row in run.folder.rows) for key in keys}
    tqdm.write(targets_table({name.removeprefix("val/"): value for name, value in metrics.items()}).to_text())
    warn_if_worse_than_none(run, metrics)
    tqdm.write(
        f"training took {seconds['train']:.0f} s, validation {seconds['val']:.0f} s,"
        f" {100 * seconds['val'] / sum(seconds.values()):.0f} % of all, and looking at draws {seconds['val/realism']:.0f} s,"
        f" {100 * seconds['val/realism'] / sum(seconds.values()):.1f} %"
    )


def plot_epoch(run: Run, epoch: int, *, final: bool) -> None:
    """Draw reconstructions and noise after an epoch, or what is `final` in a run, to `plots/` and the trackers."""
    config, accelerator = run.config, run.accelerator
    if not accelerator.is_main_process:
        return
    indices = validation_indices(config, len(run.val_data), everything=False)
    with run.ema.averaged():
        figures = final_figures(run, indices) if final else epoch_figures(run, indices, epoch)
    run.folder.plots.mkdir(exist_ok=True)
    for key, figure in figures.items():
        image = plots.figure_to_image(figure)
        (run.folder.plots / f"{key.removeprefix('val/')}.png").write_bytes(plots.image_to_png(image))
        tracking.log_image(accelerator, key, image, step=run.update)


def epoch_figures(run: Run, indices: np.ndarray, epoch: int) -> dict:
    """Return the figures of one epoch by key: reconstructions, and the noise as the network sees it."""
    rows = indices[:NUM_NOISE_SEQUENCES]
    figures = reconstruction_figures(run.pipeline, run.val_data.read(rows).numpy(), rows, run.reconstruction)
    return {f"val/{name}_epoch_{epoch}": figure for name, figure in figures.items()}


def has_final_plots(folder: RunFolder) -> bool:
    """Say whether the figures of the whole run were drawn, all of `final_figures`."""
    return all((folder.plots / f"{name}.png").is_file() for name in FINAL_PLOTS)


def final_figures(run: Run, indices: np.ndarray) -> dict:
    """Return the figures of the whole run by key: learning curves, samples, and error by diffusion timestep."""
    steps, seed = min(NUM_SAMPLE_STEPS, run.config.num_train_timesteps), run.config.seed
    samples = next(draw_samples(run.pipeline, NUM_SAMPLES, num_inference_steps=steps, seed=seed, batch_size=NUM_SAMPLES))
    rows = indices[:NUM_ERROR_SEQUENCES]
    errors = inference.error_by_timestep(run.pipeline, run.val_data.read(rows).numpy(), rows, seed)
    figures = plots.plot_learning_curves(run.folder.rows), plots.plot_samples(samples), plots.plot_error_by_timestep(*errors)
    return {f"val/{name}": figure for name, figure in zip(FINAL_PLOTS, figures, strict=True)}


def card_files(run: Run, row: Mapping[str, float] | None = None) -> dict[str, bytes]:
    """Return the model card and its figure, contents by name.

    Args:
        row: Of the epoch under way, where the weights are judged by it; no figure shows them yet. By default the last row
            and the last figure that there are.
    """
    # The epoch ends the name; the newest is the one drawn last. A run that went back has later ones too.
    paths = run.folder.plots.glob("reconstructions_epoch_*.png") if row is None else ()
    drawn = {path.stem.rsplit("_", 1)[1]: path for path in paths}
    if row is None:
        row = run.folder.rows[-1] if run.folder.rows else {}
    epochs = [epoch for epoch in filter(str.isdecimal, drawn) if int(epoch) <= row.get("epoch", 0)]
    figures = [drawn[epoch] for epoch in sorted(epochs, key=int)]
    card = model_card(run.folder.config, row, run.loader.dataset.info, updates=run.update, has_figure=bool(figures))
    return {CARD_NAME: card.encode(), **({FIGURE_NAME: figures[-1].read_bytes()} if figures else {})}
