"""`assess(pipeline, data)`: everything that is measured of a finished model, as numbers and as pictures."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from action_ddim.actions import NUM_CHANNELS
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.features import action_features
from action_ddim.denoising import estimate_noise
from action_ddim.evaluation import inference, plots
from action_ddim.evaluation.inference import ReconstructionSettings
from action_ddim.evaluation.metrics import reconstruction_metrics
from action_ddim.evaluation.page import Picture
from action_ddim.evaluation.realism import Realism, check_eval_packages, measure_realism
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.randomness import Stream, seeded_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRENGTHS = (0.3, 0.5, 0.7)
TARGET_STRENGTH = 0.5  # that of the documented targets
# Steps there, and back, and the mse that table 2 of the DDIM paper (arXiv 2010.02502) gives for CIFAR-10, on [0, 1] too.
DDIM_TABLE_2 = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009}
INVERSION_METRICS = ("mse", "coord_mse", "press_accuracy", "mean_snr_db")
# Of the latents, over all entries: 0, 1 and 0 where they are standard normal, as those that a pipeline draws.
LATENT_MOMENTS = ("latent_mean", "latent_std", "latent_kurtosis")
NUM_SHEET = 15
NUM_ERROR_SEQUENCES = 128
NUM_NOISE_SEQUENCES = 32
FEATURE_LABELS = {
    "duration": "duration [share of the length]",
    "path_length": "path length [screens]",
    "peak_speed": "peak speed [log10 screens a step]",
    "press_time": "press time [share of the length]",
}
# Title and caption of each figure.
CAPTIONS = {
    "reconstructions": (
        f"Reconstructions at strength {TARGET_STRENGTH:g}",
        "Held-out actions, noised and denoised. The span of the press is shaded.",
    ),
    "noise_comparison": (
        "Noise, true and predicted",
        "A row of a map is a sequence. What is left in the right column is what the network took for motion, or missed.",
    ),
    "error_by_timestep": (
        "Error by diffusion timestep",
        "The network's own guess of the clean actions, before any DDIM step. The dotted lines guess the mean of the data,"
        " the pale ones copy the input.",
    ),
    "samples": ("Drawn actions", "From pure noise."),
    "real": ("Real actions", "Held-out data, for comparison."),
    "distributions": ("Distributions", "Drawn over real actions."),
    "giveaways": (
        "What gives the drawings away",
        "How often drawn actions are told from real ones by one feature alone, and by MiniRocket from one stretch of time"
        " alone. What lies furthest beyond its floor is to be mended first; what only two of them show together is not here.",
    ),
}


@dataclass(frozen=True)
class AssessmentSettings:
    """How much is measured, and from which seed.

    Args:
        num_sequences: Held-out sequences that are reconstructed, at most; the seed chooses them.
        num_samples: Sequences drawn from noise.
        num_inverted: Held-out sequences that are inverted, at most; inversion iterates at every step.
        recon_steps: DDIM steps of a reconstruction over the whole schedule.
        sample_steps: DDIM steps of a drawn sequence.
    """

    num_sequences: int = 1000
    num_samples: int = 1000
    num_inverted: int = 64
    recon_steps: int = 10
    sample_steps: int = 50
    batch_size: int = 256
    seed: int = 0

    def reconstruction(self, strength: float) -> ReconstructionSettings:
        return ReconstructionSettings(self.seed, strength, self.recon_steps)


@dataclass(frozen=True)
class Assessment:
    """What was measured; `report.json` holds it as it is.

    - `reconstruction`: the metrics of `metrics.summarize` by strength.
    - `inversion`: `INVERSION_METRICS`, `residual` and `LATENT_MOMENTS`, of sequences encoded and decoded in S steps, by S.
    - `not_finite`: how many sequences a model that has diverged made NaN or infinite, by what was done with them. All else is
        of the others, and NaN where there are none.
    - `error_by_timestep`: `timesteps`, and mean squared errors `coord` and `press` of the clean actions predicted there, and
      `copied_coord` and `copied_press` of the noisy ones in their place.
    """

    num_sequences: int
    seq_len: int
    settings: AssessmentSettings
    reconstruction: dict[float, dict[str, float]]
    inversion: dict[int, dict[str, float]]
    realism: Realism
    error_by_timestep: dict[str, list]
    not_finite: dict[str, int]


def assess(pipeline: ActionDDIMPipeline, data: ActionDataset, settings: AssessmentSettings) -> tuple[Assessment, list[Picture]]:
    """Measure a pipeline on held-out data of its length: reconstructions, inversion, samples; with progress on a terminal.

    Raises:
        UserError: scikit-learn, scipy or aeon is missing.
    """
    check_eval_packages()
    # In random order, so that the first of them stand for all: files are often sorted by who was recorded.
    indices = np.random.default_rng(settings.seed).permutation(len(data))[: settings.num_sequences]
    real = np.empty((len(indices), data.seq_len, NUM_CHANNELS), dtype=np.float32)
    for first in tqdm(range(0, len(indices), settings.batch_size), unit="batch", desc="reading", disable=None, leave=False):
        rows = slice(first, first + settings.batch_size)
        real[rows] = data.read(indices[rows]).numpy()
    reconstruction, inversion, not_finite = {}, {}, {}
    for strength in STRENGTHS:
        how = settings.reconstruction(strength)
        soft = np.concatenate(list(reconstruct_batches(pipeline, real, indices, how, settings.batch_size)))
        reconstruction[strength] = _metrics(real, soft)
        not_finite[f"reconstructed at strength {strength:g}"] = int((~_finite(soft)).sum())
    most = pipeline.scheduler.config.num_train_timesteps
    for S in (S for S in DDIM_TABLE_2 if most >= S):
        inversion[S], not_finite[f"inverted in {S} steps"] = _invert(pipeline, real, indices, S, settings)
    batches = draw_samples(
        pipeline,
        settings.num_samples,
        num_inference_steps=settings.sample_steps,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    samples = np.concatenate(list(batches))
    samples, not_finite["drawn"] = samples[_finite(samples)], int((~_finite(samples)).sum())
    realism = measure_realism(samples, real, settings.seed)
    some = slice(NUM_ERROR_SEQUENCES)
    timesteps, errors, constants = inference.error_by_timestep(pipeline, real[some], indices[some], settings.seed)
    assessment = Assessment(
        num_sequences=len(real),
        seq_len=real.shape[1],
        settings=settings,
        reconstruction=reconstruction,
        inversion=inversion,
        realism=realism,
        error_by_timestep={"timesteps": timesteps, **errors},
        not_finite=not_finite,
    )
    figures = reconstruction_figures(pipeline, real, indices, settings.reconstruction(TARGET_STRENGTH))
    figures["error_by_timestep"] = plots.plot_error_by_timestep(timesteps, errors, constants)
    figures |= sample_figures(samples, real) if len(samples) else {}
    if realism.by_feature:
        figures["giveaways"] = plots.plot_giveaways(realism.by_feature, realism.by_stretch)
    return assessment, [_picture(name, figure) for name, figure in figures.items()]


def _finite(actions: np.ndarray) -> np.ndarray:
    """Say which of the sequences `(N, L, 3)` are finite throughout, `(N,)`."""
    return np.isfinite(actions).all(axis=(1, 2))


def _metrics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """Return the metrics of the sequences whose reconstruction is finite, NaN where none is."""
    finite = _finite(reconstruction)
    if not finite.any():
        return dict.fromkeys(reconstruction_metrics(original, original), np.nan)
    return reconstruction_metrics(original[finite], reconstruction[finite])


@contextmanager
def steps_shown(pipeline: ActionDDIMPipeline) -> Iterator[None]:
    """Let a pipeline show its steps on a terminal, as those of one batch may take minutes."""
    before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(unit="step", disable=None, leave=False)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def draw_samples(
    pipeline: ActionDDIMPipeline, count: int, *, num_inference_steps: int, eta: float = 0.0, seed: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield batches of new actions `(B, L, 3)`; sequence i depends on (seed, i) alone, not on the batches."""
    with tqdm(total=count, unit="seq", desc="drawing", disable=None, leave=False) as progress:
        for first in range(0, count, batch_size):
            indices = range(first, min(first + batch_size, count))
            generators = [seeded_generator(Stream.SAMPLES, seed, index) for index in indices]
            with steps_shown(pipeline):
                batch = pipeline(len(indices), num_inference_steps, eta=eta, generator=generators, return_dict=False)[0]
            yield batch
            progress.update(len(indices))


def reconstruct_batches(
    pipeline: ActionDDIMPipeline,
    actions: np.ndarray,
    indices: np.ndarray,
    settings: ReconstructionSettings,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Yield soft reconstructions of actions `(N, L, 3)` in batches, each sequence from the noise of its index `(N,)`."""
    with tqdm(total=len(actions), unit="seq", desc=f"strength {settings.strength:g}", disable=None, leave=False) as progress:
        for first in range(0, len(actions), batch_size):
            batch = np.array(actions[first : first + batch_size], dtype=np.float32)
            with steps_shown(pipeline):
                reconstructed = inference.reconstruct(pipeline, batch, indices[first : first + batch_size], settings)
            yield reconstructed
            progress.update(len(batch))


def clean_batches(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, noise_std: float | None, batch_size: int
) -> tuple[float, Iterator[np.ndarray]]:
    """Return the noise of recorded actions `(N, L, 3)`, estimated where it is None, and cleaned actions in batches."""
    if noise_std is None:
        noise_std = estimate_noise(torch.from_numpy(np.array(actions, dtype=np.float32)))

    def batches(noise_std: float) -> Iterator[np.ndarray]:
        with tqdm(total=len(actions), unit="seq", desc="cleaning", disable=None, leave=False) as progress:
            for first in range(0, len(actions), batch_size):
                batch = np.array(actions[first : first + batch_size], dtype=np.float32)
                yield pipeline.denoise(batch, noise_std, return_dict=False)[0]
                progress.update(len(batch))

    return noise_std, batches(noise_std)


def _invert(
    pipeline: ActionDDIMPipeline, real: np.ndarray, indices: np.ndarray, S: int, settings: AssessmentSettings
) -> tuple[dict[str, float], int]:
    """Encode the first sequences in S steps and decode them in as many.

    Returns what came back of those that are finite, and how many are not.
    """
    from scipy.stats import kurtosis  # of the extra `eval`

    parts, count = [], min(settings.num_inverted, len(real))
    with tqdm(total=count, unit="seq", desc=f"inversion, {S} steps", disable=None, leave=False) as progress:
        for first in range(0, count, settings.batch_size):
            rows = slice(first, min(first + settings.batch_size, count))
            batch, generators = real[rows], inference.reconstruction_generators(settings.seed, indices[rows])
            # However large the residual: it is reported.
            with steps_shown(pipeline):
                inverted = pipeline.invert(batch, S, generators, max_residual=math.inf, return_dict=False)
            latents, residual = (values.cpu().double().numpy() for values in inverted)
            finite, decoded = _finite(latents), np.full_like(batch, np.nan)
            if finite.any():
                with steps_shown(pipeline):
                    output = pipeline(latents=inverted[0][finite], num_inference_steps=S, output_type="pt", return_dict=False)[
                        0
                    ]
                decoded[finite] = output.float().cpu().numpy()
            parts.append((decoded, latents, residual))
            progress.update(len(batch))
    decoded, latents, residual = map(np.concatenate, zip(*parts, strict=True))
    metrics, finite = _metrics(real[:count], decoded), _finite(decoded)
    entries = latents[finite].ravel() if finite.any() else np.array([np.nan])
    values = {
        **{name: metrics[name] for name in INVERSION_METRICS},
        "residual": residual[finite].mean() if finite.any() else np.nan,
        **dict(zip(LATENT_MOMENTS, (entries.mean(), entries.std(), kurtosis(entries)), strict=True)),
    }
    return {name: float(value) for name, value in values.items()}, int((~finite).sum())


def reconstruction_figures(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, indices: np.ndarray, settings: ReconstructionSettings
) -> dict[str, "Figure"]:
    """Draw the first of the sequences `(N, L, 3)` as they are reconstructed, and their noise as the network sees it."""
    shown, rows = slice(plots.MAX_ROWS), slice(NUM_NOISE_SEQUENCES)
    noisy = inference.noised(pipeline, actions[shown], indices[shown], settings)
    reconstructed = inference.reconstruct(pipeline, actions[shown], indices[shown], settings)
    noise = inference.draw_reconstruction_noise(actions[rows], indices[rows], settings.seed)
    timestep = inference.first_timestep(pipeline, settings)
    predicted = inference.predict_noise(pipeline, actions[rows], noise, timestep)
    return {
        "reconstructions": plots.plot_reconstructions(actions[shown], noisy, reconstructed),
        "noise_comparison": plots.plot_noise_comparison(noise.numpy(), predicted, timestep),
    }


def sample_figures(samples: np.ndarray, real: np.ndarray) -> dict[str, "Figure"]:
    """Draw sheets of drawn and of real actions, and their distributions."""
    features = (
        {label: values[name] for name, label in FEATURE_LABELS.items()}
        for values in (action_features(samples), action_features(real))
    )
    return {
        "samples": plots.plot_samples(samples[:NUM_SHEET]),
        "real": plots.plot_samples(real[:NUM_SHEET]),
        "distributions": plots.plot_distributions(*features),
    }


def _picture(name: str, figure: "Figure") -> Picture:
    return Picture(*CAPTIONS[name], plots.image_to_png(plots.figure_to_image(figure)))
