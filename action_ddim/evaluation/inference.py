"""How good a pipeline is on held-out actions, sequence by sequence, so that the work splits over processes."""

from dataclasses import dataclass

import numpy as np
import torch

from action_ddim.actions import PRESS, from_model_space, to_model_space
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.prediction import predict_clean
from action_ddim.randomness import Stream, draw_noise, seeded_generator

NUM_ERROR_TIMESTEPS = 21


@dataclass(frozen=True)
class ReconstructionSettings:
    """How sequences are noised and reconstructed: the arguments of `ActionDDIMPipeline.reconstruct`, and a seed."""

    seed: int = 0
    strength: float = 0.5
    num_inference_steps: int = 10


def reconstruction_generators(seed: int, indices: np.ndarray) -> list[torch.Generator]:
    """Return the generator of each sequence's noise, a function of (seed, index of the sequence)."""
    return [seeded_generator(Stream.RECONSTRUCTION, seed, index) for index in indices.tolist()]


def reconstruct(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, indices: np.ndarray, settings: ReconstructionSettings
) -> np.ndarray:
    """Return soft reconstructions `(N, L, 3)`, from the noise of `reconstruction_generators`."""
    reconstruction = pipeline.reconstruct(
        actions,
        strength=settings.strength,
        num_inference_steps=settings.num_inference_steps,
        generator=reconstruction_generators(settings.seed, indices),
        output_type="pt",
        return_dict=False,
    )[0]
    return reconstruction.float().cpu().numpy()


def draw_reconstruction_noise(actions: np.ndarray, indices: np.ndarray, seed: int) -> torch.Tensor:
    """Return the noise that `reconstruct` adds to actions `(N, L, 3)`, of the same shape."""
    return torch.cat([draw_noise((1, *actions.shape[1:]), generator) for generator in reconstruction_generators(seed, indices)])


def noised(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, indices: np.ndarray, settings: ReconstructionSettings
) -> np.ndarray:
    """Return what `reconstruct` starts from, `(N, L, 3)`, in the range of actions but not clamped to it."""
    noise = draw_reconstruction_noise(actions, indices, settings.seed)
    timestep = torch.tensor([first_timestep(pipeline, settings)])
    noisy = pipeline.scheduler.add_noise(to_model_space(torch.as_tensor(actions)), noise, timestep)
    return ((noisy + 1) / 2).numpy()


def first_timestep(pipeline: ActionDDIMPipeline, settings: ReconstructionSettings) -> int:
    """Return the diffusion timestep that `reconstruct` starts from."""
    return pipeline.timesteps_below(settings.strength, settings.num_inference_steps)[0]


@torch.no_grad()
def denoise_once(pipeline: ActionDDIMPipeline, actions: np.ndarray, noise: torch.Tensor, timestep: int) -> torch.Tensor:
    """Return the clean actions that the network sees at once in actions noised to `timestep`, `(N, L, 3)` in model space."""
    device, scheduler = pipeline.device, pipeline.scheduler
    sample = to_model_space(torch.as_tensor(actions, device=device))
    noisy = scheduler.add_noise(sample, noise.to(device), torch.tensor([timestep], device=device))
    output = pipeline.denoiser(noisy, timestep, return_dict=False)[0]
    return predict_clean(output, noisy, scheduler.alphas_cumprod[timestep].item(), scheduler.config.prediction_type).cpu()


def copy_input(pipeline: ActionDDIMPipeline, actions: np.ndarray, noise: torch.Tensor, timestep: int) -> np.ndarray:
    """Return the noisy actions that `denoise_once` sees, divided by sqrt(alpha_bar) and clamped, `(N, L, 3)` in [0, 1]."""
    alpha_bar = pipeline.scheduler.alphas_cumprod[timestep].cpu()
    return from_model_space(to_model_space(actions) + (1 / alpha_bar - 1).sqrt().item() * noise.numpy())


def predict_noise(pipeline: ActionDDIMPipeline, actions: np.ndarray, noise: torch.Tensor, timestep: int) -> np.ndarray:
    """Return the noise that follows from the clean actions of `denoise_once`, `(N, L, 3)`."""
    clean = denoise_once(pipeline, actions, noise, timestep)
    alpha_bar = pipeline.scheduler.alphas_cumprod[timestep].cpu()
    # The noisy actions are sqrt(a) sample + sqrt(1 - a) noise, whatever part of them is taken for clean.
    return (noise + (alpha_bar / (1 - alpha_bar)).sqrt() * (to_model_space(torch.as_tensor(actions)) - clean)).numpy()


def error_by_timestep(
    pipeline: ActionDDIMPipeline, actions: np.ndarray, indices: np.ndarray, seed: int
) -> tuple[list[int], dict[str, list[float]], dict[str, float]]:
    """Measure `denoise_once`, and its input in its place, over the schedule: what `plots.plot_error_by_timestep` draws."""
    T = pipeline.scheduler.config.num_train_timesteps
    timesteps = sorted({round(t) for t in np.linspace(0, T - 1, NUM_ERROR_TIMESTEPS).tolist()})
    noise = draw_reconstruction_noise(actions, indices, seed)
    errors: dict[str, list[float]] = {"coord": [], "press": [], "copied_coord": [], "copied_press": []}
    for timestep in timesteps:
        clean = from_model_space(denoise_once(pipeline, actions, noise, timestep))
        for prefix, guess in (("", clean.numpy()), ("copied_", copy_input(pipeline, actions, noise, timestep))):
            squared = (guess - actions) ** 2
            errors[f"{prefix}coord"].append(float(squared[..., :PRESS].mean()))
            errors[f"{prefix}press"].append(float(squared[..., PRESS].mean()))
    spread = actions.var(axis=0)  # (L, 3)
    return timesteps, errors, {"coord": float(spread[:, :PRESS].mean()), "press": float(spread[:, PRESS].mean())}
