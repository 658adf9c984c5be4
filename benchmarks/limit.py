"""The physical limit of reconstruction: the exact posterior mean under the synthetic generator's own distribution.

    python benchmarks/limit.py                                    # without a model, at strengths 0.3, 0.5 and 0.7
    python benchmarks/limit.py --model checkpoints/pipeline       # a model beside it, on the same sequences and noise

No estimate of actions from their noised version has a lower expected squared error than the posterior mean, which is what
a perfect network says in one step: the limit. A path of several DDIM steps ends elsewhere, nearer to a draw from the
posterior; `exact DDIM` is where it ends with the perfect network in the place of the model's, in the same steps.

For the gestures of `augmentation.gestures` (idle `hold`) the posterior mean can be worked out: enumerate onset, duration and
whether each axis moves; given those, an axis is a linear Gaussian regression on its places, and the press is known.

    y = u + sigma n                       the noised actions over sqrt(alpha_bar), in [0, 1]
    u = A theta                           an axis: start (1 - progress) + end progress if it moves, else one place
    p(y | A) = c^k (2 pi sigma^2)^-(L-k)/2 |A'A|^-1/2 exp(-RSS / 2 sigma^2)    k places, each with the flat prior c
    E[u | y, A] = A (A'A)^-1 A'y

The flat prior has the generator's density c = 1 / (MAX_PLACE - MIN_PLACE) but no edges, so that what is printed as the limit
lies above the true one by a little, where a place near an edge is seen for few steps.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, TrainConfig
from action_ddim.actions import NUM_CHANNELS, PRESS, from_model_space
from action_ddim.evaluation.inference import (
    ReconstructionSettings,
    copy_input,
    denoise_once,
    draw_reconstruction_noise,
    reconstruct,
)
from action_ddim.evaluation.metrics import sequence_statistics
from action_ddim.training.run import noise_scheduler
from augmentation.gestures import CLICK_SHARE, MAX_PLACE, MIN_PLACE, GestureConfig, Gestures, generate, render_gestures

PLACE_DENSITY = 1 / (MAX_PLACE - MIN_PLACE)
# Whether x, and y, moves: click, horizontal, vertical, diagonal.
KINDS = ((False, False), (True, False), (False, True), (True, True))
# Of the schedule, where the network's guess is set beside the limit: closest together where there is little noise, and none
# where there is so much that a prior without edges tells.
TIMESTEP_SHARES = (0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
KIND_WEIGHTS = {
    "mixed": (CLICK_SHARE, *((1 - CLICK_SHARE) / 3,) * 3),
    "click": (1, 0, 0, 0),
    "swipe": (0, 0, 0, 1),
}


class Timings(NamedTuple):
    """Every (onset, duration) that the generator draws: log prior `(P,)`, progress and press of each, `(P, L)`."""

    log_prior: np.ndarray
    progress: np.ndarray
    press: np.ndarray


class Axis(NamedTuple):
    """One axis of B sequences under each timing, moving or not: log evidence, and estimated places `(P, B)`."""

    log_evidence: np.ndarray
    start: np.ndarray
    shift: np.ndarray  # from start to end; 0 where it does not move


def enumerate_timings(config: GestureConfig) -> Timings:
    """List the timings: the duration is uniform, and the onset uniform given it."""
    shortest, longest = config.durations
    length = config.sequence_length
    pairs = [(o, d) for d in range(shortest, longest + 1) for o in range(length - d + 1)]
    onset, duration = np.array(pairs).T
    log_prior = -np.log(longest - shortest + 1) - np.log(length - duration + 1)
    zeros, ones = np.zeros((len(pairs), 2)), np.ones((len(pairs), 2))
    # From place 0 to place 1, x is the progress.
    rendered = render_gestures(Gestures(onset, duration, zeros, ones), length).astype(np.float64)
    return Timings(log_prior, rendered[..., 0], rendered[..., 2])


def fit_constant(y: np.ndarray, timings: Timings, sigma: float) -> Axis:
    """Fit an axis `(B, L)` that does not move; every timing says the same."""
    num_timings, length = timings.progress.shape
    place = y.mean(axis=1)
    rss = ((y - place[:, None]) ** 2).sum(axis=1)
    log_evidence = (
        np.log(PLACE_DENSITY) - (length - 1) / 2 * np.log(2 * np.pi * sigma**2) - np.log(length) / 2 - rss / (2 * sigma**2)
    )
    shape = (num_timings, len(y))
    return Axis(*(np.broadcast_to(values, shape) for values in (log_evidence, place, np.zeros(len(y)))))


def fit_moving(y: np.ndarray, timings: Timings, sigma: float) -> Axis:
    """Fit an axis `(B, L)` that goes from a start to an end, under each timing."""
    progress, length = timings.progress, y.shape[1]
    a, b, c = ((1 - progress) ** 2).sum(1), (progress * (1 - progress)).sum(1), (progress**2).sum(1)  # A'A = [[a, b], [b, c]]
    determinant = a * c - b**2
    # A press of one step at the very end never shows its end, which then integrates to 1: it is as if it did not move.
    seen = determinant > 1e-9
    safe = np.where(seen, determinant, 1.0)[:, None]
    towards_end = progress @ y.T  # (P, B)
    towards_start = y.sum(axis=1) - towards_end
    start = (c[:, None] * towards_start - b[:, None] * towards_end) / safe
    end = (a[:, None] * towards_end - b[:, None] * towards_start) / safe
    rss = (y**2).sum(axis=1) - start * towards_start - end * towards_end
    log_evidence = (
        2 * np.log(PLACE_DENSITY) - (length - 2) / 2 * np.log(2 * np.pi * sigma**2) - np.log(safe) / 2 - rss / (2 * sigma**2)
    )
    still = fit_constant(y, timings, sigma)
    moving = Axis(log_evidence, start, end - start)
    return Axis(*(np.where(seen[:, None], values, others) for values, others in zip(moving, still, strict=True)))


def posterior_mean(noised: np.ndarray, sigma: float, config: GestureConfig, timings: Timings) -> np.ndarray:
    """Return E[u | y] for y = u + sigma n, `(B, L, 3)` in float64, not clamped."""
    noised = noised.astype(np.float64)
    fits = [(fit_constant(noised[..., axis], timings, sigma), fit_moving(noised[..., axis], timings, sigma)) for axis in (0, 1)]
    # log N(y; press) up to what no press depends on: (2 y - 1) / (2 sigma^2) for each pressed step.
    log_press = timings.press @ ((2 * noised[..., 2].T - 1) / (2 * sigma**2))  # (P, B)
    base = timings.log_prior[:, None] + log_press
    joint = []
    for (x_moves, y_moves), weight in zip(KINDS, KIND_WEIGHTS[config.types[0]], strict=True):
        log_weight = np.log(weight) if weight else -np.inf
        joint.append(base + log_weight + fits[0][x_moves].log_evidence + fits[1][y_moves].log_evidence)
    log_joint = np.stack(joint)  # (kinds, P, B)
    posterior = np.exp(log_joint - log_joint.max(axis=(0, 1)))
    posterior /= posterior.sum(axis=(0, 1))
    mean = np.empty(noised.shape)
    for axis in (0, 1):
        shares = [sum(posterior[kind] for kind, moves in enumerate(KINDS) if moves[axis] == moving) for moving in (False, True)]
        start = sum((share * fit.start).sum(axis=0) for share, fit in zip(shares, fits[axis], strict=True))  # (B,)
        shift = sum(share * fit.shift for share, fit in zip(shares, fits[axis], strict=True))  # (P, B)
        mean[..., axis] = np.asarray(start)[:, None] + np.asarray(shift).T @ timings.progress
    mean[..., 2] = posterior.sum(axis=0).T @ timings.press
    return mean


class ExactDenoiser(torch.nn.Module):
    """The perfect network, which predicts clean actions in model space: their posterior mean."""

    device, dtype = torch.device("cpu"), torch.float32  # what the pipeline asks a network

    def __init__(self, gestures: GestureConfig, alphas_cumprod: torch.Tensor):
        super().__init__()
        self.config = SimpleNamespace(seq_len=gestures.sequence_length, in_channels=NUM_CHANNELS)
        self.gestures, self.timings = gestures, enumerate_timings(gestures)
        self.alphas_cumprod = alphas_cumprod

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        alpha_bar = self.alphas_cumprod[int(timestep)].item()
        sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5 / 2  # model space is twice as wide as [0, 1]
        observed = (sample.double().numpy() / alpha_bar**0.5 + 1) / 2
        return (torch.from_numpy(2 * posterior_mean(observed, sigma, self.gestures, self.timings) - 1),)


def make_gestures(args: argparse.Namespace) -> GestureConfig:
    return GestureConfig(num_sequences=args.num_sequences, sequence_length=args.sequence_length, seed=args.seed)


def compare(args: argparse.Namespace, pipeline: ActionDDIMPipeline, strength: float, progress: tqdm) -> dict[str, np.ndarray]:
    """Return the mse and SNR of each sequence, `(2, N)`: of the limit, the exact path and the model if any, same noise."""
    gestures = make_gestures(args)
    actions = np.concatenate(list(generate(gestures)))
    exact = ActionDDIMPipeline(ExactDenoiser(gestures, pipeline.scheduler.alphas_cumprod), pipeline.scheduler)
    exact.set_progress_bar_config(disable=True)
    contenders = {"limit": (exact, 1), "exact DDIM": (exact, args.recon_steps)}
    if args.model:
        contenders["model"] = (pipeline, args.recon_steps)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    for first in range(0, len(actions), args.batch_size):
        batch = actions[first : first + args.batch_size]
        indices = np.arange(first, first + len(batch))
        for name, (contender, num_steps) in contenders.items():
            estimate = reconstruct(contender, batch, indices, ReconstructionSettings(args.noise_seed, strength, num_steps))
            statistics = sequence_statistics(batch, estimate)
            parts[name].append(np.stack([statistics["mse"], statistics["mean_snr_db"]]))
        progress.update(len(batch))
    return {name: np.concatenate(values, axis=1) for name, values in parts.items()}


def errors_by_timestep(args: argparse.Namespace, pipeline: ActionDDIMPipeline) -> dict[int, dict[str, list[float]]]:
    """Return the mse of x and y, and of the press, at each timestep: of the limit, the model if any, and the input itself."""
    gestures, scheduler = make_gestures(args), pipeline.scheduler
    actions, indices = np.concatenate(list(generate(gestures))), np.arange(args.num_sequences)
    exact = ActionDDIMPipeline(ExactDenoiser(gestures, scheduler.alphas_cumprod), scheduler)
    contenders = {"limit": exact, **({"model": pipeline} if args.model else {})}
    T, results = scheduler.config.num_train_timesteps, {}
    for timestep in tqdm(sorted({round(share * (T - 1)) for share in TIMESTEP_SHARES}), unit="timestep"):
        squared: dict[str, list[np.ndarray]] = {name: [] for name in (*contenders, "input")}
        for first in range(0, len(actions), args.batch_size):
            batch = slice(first, first + args.batch_size)
            noise = draw_reconstruction_noise(actions[batch], indices[batch], args.noise_seed)
            for name, contender in contenders.items():
                guess = from_model_space(denoise_once(contender, actions[batch], noise, timestep)).numpy()
                squared[name].append((guess - actions[batch]) ** 2)
            squared["input"].append((copy_input(pipeline, actions[batch], noise, timestep) - actions[batch]) ** 2)
        errors = {name: np.concatenate(values) for name, values in squared.items()}
        results[timestep] = {name: [float(e[..., :PRESS].mean()), float(e[..., PRESS].mean())] for name, e in errors.items()}
    return results


def format_errors(errors: dict[int, dict[str, list[float]]]) -> str:
    names = next(iter(errors.values()))
    row = "{:<10}" + "{:>15}" * 2 * len(names)
    lines = [row.format("timestep", *(f"{part} {name}" for part in ("x, y", "press") for name in names))]
    for timestep, values in errors.items():
        lines.append(row.format(timestep, *(f"{value[part]:.2e}" for part in (0, 1) for value in values.values())))
    return "\n".join([*lines, "mse of the clean actions as they are seen at one timestep, on the same sequences and noise"])


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def ratio_and_error(values: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return the ratio of the means of paired values, and its standard error by the delta method."""
    ratio = values.mean() / others.mean()
    return float(ratio), mean_and_error((values - ratio * others) / others.mean())[1]


def format_table(args: argparse.Namespace, results: dict[float, dict[str, np.ndarray]]) -> str:
    row = "{:<10}{:<12}{:>22}{:>18}{:>18}{:>10}"
    lines = [row.format("strength", "", "mse", "x limit", "x exact DDIM", "SNR dB")]
    for strength, values in results.items():
        for name, (mse, snr) in values.items():
            ratios = [
                "{:.3f} +- {:.3f}".format(*ratio_and_error(mse, values[other][0])) if name != other else "1"
                for other in ("limit", "exact DDIM")
            ]
            cell = "{:.6f} +- {:.6f}".format(*mean_and_error(mse))
            lines.append(row.format(f"{strength:g}", name, cell, *ratios, f"{snr.mean():.2f}"))
    lines.append(
        f"{args.num_sequences} sequences of {args.sequence_length} steps, seed {args.seed}, noise seed {args.noise_seed};"
        f" DDIM in {args.recon_steps} steps over the whole schedule;\n"
        "+- is one standard error, of the ratio over pairs; all clamped to [0, 1]"
    )
    return "\n".join(lines)


def load_pipeline(args: argparse.Namespace) -> ActionDDIMPipeline:
    """Load the model; without one, make an untrained one, whose noise schedule is all that is used of it."""
    if args.model:
        pipeline = ActionDDIMPipeline.from_pretrained(args.model)
    else:
        denoiser = ActionTransformer1DModel(d_model=2, num_layers=1, nhead=1, seq_len=args.sequence_length)
        pipeline = ActionDDIMPipeline(denoiser, noise_scheduler(TrainConfig(data_dir="-", val_data_dir="-")))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=formatter)
    parser.add_argument("--model", type=Path, help="pipeline folder of a model trained on the generator's data")
    parser.add_argument("--num_sequences", type=int, default=1000, help="sequences, those of the generator")
    parser.add_argument("--sequence_length", type=int, default=250, help="steps a sequence, as the model's")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.5, 0.7], help="how far up the schedule")
    parser.add_argument("--recon_steps", type=int, default=10, help="the model's DDIM steps over the whole schedule")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sequences: 1 is the documented validation data")
    parser.add_argument("--noise_seed", type=int, default=0, help="seed of the noise, the trainer's --seed")
    parser.add_argument("--batch_size", type=int, default=50, help="sequences at once; 50 take about 250 MB")
    args = parser.parse_args()
    if args.num_sequences < 2 or args.batch_size < 1 or not all(0 < strength <= 1 for strength in args.strengths):
        parser.error("give at least 2 sequences, batches of at least 1, and strengths above 0, up to 1")
    if args.model and not (args.model / "model_index.json").is_file():
        parser.error(f"--model {args.model} is not a pipeline folder; name the one that a training run leaves")
    return args


def main() -> None:
    args = parse_args()
    pipeline = load_pipeline(args)
    if pipeline.denoiser.config.seq_len != args.sequence_length:
        raise SystemExit(f"--sequence_length is {args.sequence_length}, the model's {pipeline.denoiser.config.seq_len}")
    results = {}
    with tqdm(total=args.num_sequences * len(args.strengths), unit="seq") as progress:
        for strength in args.strengths:
            progress.set_description(f"strength {strength:g}")
            results[strength] = compare(args, pipeline, strength, progress)
    print(format_table(args, results))
    print("\n" + format_errors(errors_by_timestep(args, pipeline)))


if __name__ == "__main__":
    main()
