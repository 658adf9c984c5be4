"""`assess(pipeline, data)`: everything that is measured of a finished model, as numbers and as pictures."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from tqdm.auto import tqdm

from action_ddim import evaluation, plots
from action_ddim.dataset import ActionDataset
from action_ddim.evaluation import ReconstructionSettings
from action_ddim.features import action_features
from action_ddim.metrics import reconstruction_metrics, sequence_statistics, summarize
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.randomness import Stream, seeded_generator
from action_ddim.realism import Realism, check_eval_packages, measure_realism

STRENGTHS = (0.3, 0.5, 0.7)
TARGET_STRENGTH = 0.5  # that of the documented targets
# Steps there, and back, and the mse that table 2 of the DDIM paper (arXiv 2010.02502) gives for CIFAR-10, on [0, 1] too.
DDIM_TABLE_2 = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009}
INVERSION_METRICS = ("mse", "coord_mse", "press_accuracy", "mean_snr_db")
NUM_PLOTTED = 6
NUM_SHEET = 15
NUM_ERROR_SEQUENCES = 128
NUM_NOISE_SEQUENCES = 32
FEATURE_LABELS = {
    "duration": "duration [share of the length]",
    "path_length": "path length [screens]",
    "peak_speed": "peak speed [log10 screens a step]",
    "press_time": "press time [share of the length]",
}


@dataclass(frozen=True)
class AssessmentSettings:
    """How much is measured, and from which seed.

    Args:
        num_sequences: Held-out sequences that are reconstructed, the first ones of the data, at most.
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


@dataclass(frozen=True)
class Picture:
    """A figure as a PNG file, with the text above and below it."""

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Assessment:
    """What was measured; `to_dict` is report.json.

    - `reconstruction`: the metrics of `metrics.summarize` by strength.
    - `inversion`: `INVERSION_METRICS` and `residual`, of sequences encoded and decoded in S steps, by S.
    - `error_by_timestep`: `timesteps`, and mean squared errors `coord` and `press` of the clean actions predicted there.
    """

    num_sequences: int
    seq_len: int
    settings: AssessmentSettings
    reconstruction: dict[float, dict[str, float]]
    inversion: dict[int, dict[str, float]]
    realism: Realism
    error_by_timestep: dict[str, list]

    def to_dict(self) -> dict:
        return asdict(self)


def assess(pipeline: ActionDDIMPipeline, data: ActionDataset, settings: AssessmentSettings) -> tuple[Assessment, list[Picture]]:
    """Measure a pipeline on held-out data of its length: reconstructions, inversion, samples; with progress on a terminal.

    Raises:
        UserError: scikit-learn or scipy is missing.
    """
    check_eval_packages()
    steps = pipeline.scheduler.config.num_train_timesteps
    indices = np.arange(min(settings.num_sequences, len(data)))
    real = data.read(indices).numpy()
    reconstruction = {}
    for strength in STRENGTHS:
        how = _recon_settings(pipeline, settings, strength)
        soft = np.concatenate(list(reconstruct_batches(pipeline, real, how, settings.batch_size)))
        reconstruction[strength] = reconstruction_metrics(real, soft)
    inverted = real[: settings.num_inverted]
    inversion = {S: _invert(pipeline, inverted, S, settings) for S in DDIM_TABLE_2 if steps >= S}
    batches = draw_samples(
        pipeline,
        settings.num_samples,
        num_inference_steps=min(settings.sample_steps, steps),
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    samples = np.concatenate(list(batches))
    realism = measure_realism(samples, real, settings.seed)
    some = indices[:NUM_ERROR_SEQUENCES]
    timesteps, errors, constants = evaluation.error_by_timestep(pipeline, real[some], some, settings.seed)
    assessment = Assessment(
        num_sequences=len(real),
        seq_len=real.shape[1],
        settings=settings,
        reconstruction=reconstruction,
        inversion=inversion,
        realism=realism,
        error_by_timestep={"timesteps": timesteps, **errors},
    )
    pictures = _reconstruction_pictures(pipeline, real, _recon_settings(pipeline, settings, TARGET_STRENGTH))
    caption = "Network's own guess of the clean actions, before any DDIM step. The dotted lines guess the mean of the data."
    figure = plots.plot_error_by_timestep(timesteps, errors, constants)
    pictures.append(_picture("Error by diffusion timestep", caption, figure))
    return assessment, pictures + _sample_pictures(samples, real)


def draw_samples(
    pipeline: ActionDDIMPipeline, count: int, *, num_inference_steps: int, eta: float = 0.0, seed: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield batches of new actions `(B, L, 3)`; sequence i depends on (seed, i) alone, not on the batches."""
    with tqdm(total=count, unit="seq", desc="drawing", disable=None, leave=False) as progress:
        for first in range(0, count, batch_size):
            indices = range(first, min(first + batch_size, count))
            generators = [seeded_generator(Stream.SAMPLES, seed, index) for index in indices]
            yield pipeline(len(indices), num_inference_steps, eta=eta, generator=generators, return_dict=False)[0]
            progress.update(len(indices))


def reconstruct_batches(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, settings: ReconstructionSettings, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield soft reconstructions of actions `(N, L, 3)` in batches; that of sequence i depends on (seed, i) alone."""
    with tqdm(total=len(actions), unit="seq", desc=f"strength {settings.strength:g}", disable=None, leave=False) as progress:
        for first in range(0, len(actions), batch_size):
            batch = np.array(actions[first : first + batch_size], dtype=np.float32)
            yield evaluation.reconstruct(pipeline, batch, np.arange(first, first + len(batch)), settings)
            progress.update(len(batch))


def _recon_settings(pipeline: ActionDDIMPipeline, settings: AssessmentSettings, strength: float) -> ReconstructionSettings:
    steps = min(settings.recon_steps, pipeline.scheduler.config.num_train_timesteps)
    return ReconstructionSettings(settings.seed, strength, steps)


def _invert(pipeline: ActionDDIMPipeline, real: np.ndarray, S: int, settings: AssessmentSettings) -> dict[str, float]:
    """Encode sequences in S steps and decode them in as many; return what came back of them."""
    parts = []
    with tqdm(total=len(real), unit="seq", desc=f"inversion, {S} steps", disable=None, leave=False) as progress:
        for first in range(0, len(real), settings.batch_size):
            batch = real[first : first + settings.batch_size]
            generators = evaluation.reconstruction_generators(settings.seed, np.arange(first, first + len(batch)))
            encoded = pipeline.invert(batch, num_inference_steps=S, generator=generators)
            decoded = pipeline(latents=encoded.latents, num_inference_steps=S, output_type="pt", return_dict=False)[0]
            statistics = sequence_statistics(batch, decoded.float().cpu().numpy())
            parts.append({**statistics, "residual": encoded.residual.double().cpu().numpy()})
            progress.update(len(batch))
    statistics = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    metrics = summarize(statistics)
    return {**{name: metrics[name] for name in INVERSION_METRICS}, "residual": float(statistics["residual"].mean())}


def _reconstruction_pictures(pipeline: ActionDDIMPipeline, real: np.ndarray, settings: ReconstructionSettings) -> list[Picture]:
    shown = np.arange(min(NUM_PLOTTED, len(real)))
    noisy = evaluation.noised(pipeline, real[shown], shown, settings)
    reconstructed = evaluation.reconstruct(pipeline, real[shown], shown, settings)
    rows = np.arange(min(NUM_NOISE_SEQUENCES, len(real)))
    timestep = evaluation.first_timestep(pipeline, settings)
    noise = evaluation.draw_reconstruction_noise(real[rows], rows, settings.seed)
    predicted = evaluation.predict_noise(pipeline, real[rows], noise, timestep)
    return [
        _picture(
            f"Reconstructions at strength {settings.strength:g}",
            "Held-out actions, noised and denoised. The span of the press is shaded.",
            plots.plot_reconstructions(real[shown], noisy, reconstructed),
        ),
        _picture(
            "Noise, true and predicted",
            "A row of a map is a sequence. What is left in the right column is what the network took for motion, or missed.",
            plots.plot_noise_comparison(noise.numpy(), predicted, timestep),
        ),
    ]


def _sample_pictures(samples: np.ndarray, real: np.ndarray) -> list[Picture]:
    drawn_features, real_features = (
        {label: features[name] for name, label in FEATURE_LABELS.items()}
        for features in (action_features(samples), action_features(real))
    )
    return [
        _picture("Drawn actions", "From pure noise.", plots.plot_samples(samples[:NUM_SHEET])),
        _picture("Real actions", "Held-out data, for comparison.", plots.plot_samples(real[:NUM_SHEET])),
        _picture("Distributions", "Drawn over real actions.", plots.plot_distributions(drawn_features, real_features)),
    ]


def _picture(title: str, caption: str, figure) -> Picture:
    return Picture(title, caption, plots.image_to_png(plots.figure_to_image(figure)))
