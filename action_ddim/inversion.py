"""Solving DDIM steps backwards, and walking between two latents."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, ModelMixin

from .prediction import predict_clean

MAX_ITERATIONS = 40  # a step; two to ten are usual
TOLERANCE = 1e-6  # of a step's residual, root mean square in model space; a path can magnify it a thousandfold on its way down
HISTORY = 5  # iterates that the acceleration remembers
RIDGE = 1e-6  # relative; keeps the small least-squares problems solvable once residuals are alike
# Below this deviation of the noise a path forgets the noise of its sample, and steps cannot be solved one by one: what the
# network cannot say of the actions would be taken for noise, many times stronger than that of the step.
FORGOTTEN_NOISE = 0.3
END_ITERATIONS = 6  # more of them fit the actions ever more closely, by noise that no path would have
END_TOLERANCE = 0.015  # of what the end of the path misses the actions by, root mean square in model space


def invert_end(
    denoiser: ModelMixin, scheduler: DDIMScheduler, clean: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Find a sample at the first timestep of more than `FORGOTTEN_NOISE` whose path down ends at clean samples `(N, L, C)`.

    Many do; it is the one that noise `(N, L, C)` makes of them, corrected by what its path misses until that is little.

    Returns the sample `(N, L, C)`, and how many of the scheduler's timesteps lie above.
    """
    levels = (1 - scheduler.alphas_cumprod.cpu()[scheduler.timesteps.cpu()]).sqrt().tolist()
    above = max(0, sum(level > FORGOTTEN_NOISE for level in levels) - 1)
    first = scheduler.timesteps[above : above + 1].expand(len(clean))

    def missed(sample: torch.Tensor) -> torch.Tensor:
        for timestep in scheduler.timesteps[above:]:
            sample = scheduler.step(_denoise(denoiser, sample, timestep), timestep, sample, return_dict=False)[0]
        return clean - sample

    initial = scheduler.add_noise(clean, noise, first)
    damping = (1 - levels[above] ** 2) ** 0.5  # of clean samples in a noisy one
    sample, _ = solve_fixed_point(missed, initial, damping=damping, max_iterations=END_ITERATIONS + 1, tolerance=END_TOLERANCE)
    return sample, above


def invert_step(
    denoiser: ModelMixin, scheduler: DDIMScheduler, target: torch.Tensor, lower: torch.Tensor, timestep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the sample at `timestep` whose step of the scheduler leads to the target, the sample at the timestep `lower`.

    Returns the sample `(N, L, C)` and the root mean square of what its step misses the target by, `(N,)`.
    """
    alpha_lower, alpha = scheduler.alphas_cumprod[torch.stack([lower, timestep]).cpu()].tolist()

    def missed(sample: torch.Tensor) -> torch.Tensor:
        return target - scheduler.step(_denoise(denoiser, sample, timestep), timestep, sample, return_dict=False)[0]

    output, prediction_type = _denoise(denoiser, target, lower), scheduler.config.prediction_type
    clean = predict_clean(output, target, alpha_lower, prediction_type).clamp(-1, 1)
    noise = (target - alpha_lower**0.5 * clean) / (1 - alpha_lower) ** 0.5
    initial = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise  # the same actions and noise, one timestep up
    # The iteration converges if its damping fits the slope of a step. The slope lies between two values: `shrinking`, where
    # the network's answer does not depend on the sample, and `keeping`, where it follows the sample as closely as data in
    # [-1, 1] allows, whose variance is at most L * C along any direction. This damping is the best for both ends.
    shrinking = ((1 - alpha_lower) / (1 - alpha)) ** 0.5  # of the noise, over a step
    variance = target[0].numel()
    keeping = shrinking + (alpha_lower**0.5 - shrinking * alpha**0.5) * alpha**0.5 * variance / (alpha * variance + 1 - alpha)
    return solve_fixed_point(missed, initial, damping=2 / (shrinking + keeping))


def _denoise(denoiser: ModelMixin, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Return the denoiser's output in the sample's type, in which steps are solved, whatever the denoiser's is."""
    return denoiser(sample.to(denoiser.dtype), timestep, return_dict=False)[0].to(sample.dtype)


def solve_fixed_point(
    residual: Callable[[torch.Tensor], torch.Tensor],
    initial: torch.Tensor,
    *,
    damping: float,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find x where `residual(x)` is 0 by the damped iteration x + damping * residual(x), with Anderson acceleration.

    The acceleration (Walker and Ni 2011, SIAM J. Numer. Anal. 49(4), algorithm AA, type II) mixes the last iterates of
    each sequence so that their residuals cancel; a plain damped iteration contracts too slowly next to the data.

    Args:
        residual: Maps `(N, L, C)` to the same shape, each sequence by itself.
        initial: Where to start, `(N, L, C)`.
        damping: About the inverse of the mean slope of `-residual`.
        max_iterations: Cap on the calls of `residual`.
        tolerance: Root mean square of the residual at which a sequence is done.

    Returns the best iterate of each sequence, `(N, L, C)`, and the root mean square of its residual, `(N,)`.
    """
    x = initial
    iterates: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    best, best_error = initial, torch.full((len(initial),), torch.inf, device=initial.device)
    for _ in range(max_iterations):
        r = residual(x)
        error = r.square().mean(dim=(1, 2)).sqrt()
        # A sequence that is done stays as it is, so that it does not depend on the others of its batch.
        better = (error < best_error) & (best_error > tolerance)
        best = torch.where(better[:, None, None], x, best)
        best_error = torch.where(better, error, best_error)
        if (best_error <= tolerance).all():
            break
        step = damping * r
        if residuals:
            dx = torch.stack([x - earlier for earlier in iterates], dim=1).flatten(2)  # (N, m, L*C)
            dr = torch.stack([r - earlier for earlier in residuals], dim=1).flatten(2)
            gram = dr @ dr.transpose(1, 2)  # (N, m, m)
            scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] + torch.finfo(r.dtype).tiny
            ridge = RIDGE * scale * torch.eye(len(residuals), device=r.device, dtype=r.dtype)
            weights = torch.linalg.solve(gram + ridge, dr @ r.flatten(1)[..., None])  # (N, m, 1)
            step = step - (weights * (dx + damping * dr)).sum(dim=1).view_as(x)
        iterates, residuals = [*iterates, x][-HISTORY:], [*residuals, r][-HISTORY:]
        x = x + step
    return best, best_error


def slerp(first: torch.Tensor, second: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Interpolate spherically between latents `(L, C)`: the path `(F, L, C)` at fractions `(F,)` of the angle between them.

    As in arXiv 2010.02502, appendix D.5; on a straight path between two draws the variance would sink half way. Latents
    that point the same way, or opposite ways, are joined by the straight line.
    """
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)  # 0 beside a latent of zeros
    angle = cosine.clamp(-1, 1).acos()
    fractions = fractions.view(-1, 1, 1)
    if angle.sin() < 1e-4:
        return torch.lerp(first, second, fractions)
    return (((1 - fractions) * angle).sin() * first + (fractions * angle).sin() * second) / angle.sin()
