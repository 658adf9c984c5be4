"""Solving a DDIM step backwards, and walking between two latents."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

from .guidance import predict_clean

MAX_ITERATIONS = 30  # a step; two to six are usual
TOLERANCE = 1e-4  # of a step's residual, root mean square in model space
HISTORY = 5  # iterates that the acceleration remembers
RIDGE = 1e-6  # relative; keeps the small least-squares problems solvable once residuals are alike


def invert_step(
    denoiser: torch.nn.Module, scheduler: DDIMScheduler, target: torch.Tensor, lower: torch.Tensor, timestep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the sample at `timestep` whose DDIM step, unclipped, is the target, the sample at the timestep before, `lower`.

    Returns the sample `(N, L, C)` and the root mean square of what its step misses the target by, `(N,)`.
    """
    alpha_lower, alpha = scheduler.alphas_cumprod[torch.stack([lower, timestep]).cpu()].tolist()
    prediction_type = scheduler.config.prediction_type
    shrinking = ((1 - alpha_lower) / (1 - alpha)) ** 0.5  # of the noise, over a step

    def step(sample: torch.Tensor) -> torch.Tensor:
        clean = predict_clean(denoiser(sample, timestep, return_dict=False)[0], sample, alpha, prediction_type)
        return alpha_lower**0.5 * clean + shrinking * (sample - alpha**0.5 * clean)

    clean = predict_clean(denoiser(target, lower, return_dict=False)[0], target, alpha_lower, prediction_type).clamp(-1, 1)
    noise = (target - alpha_lower**0.5 * clean) / (1 - alpha_lower) ** 0.5
    initial = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise  # the same actions and noise, one timestep up
    # The slope of a step is `shrinking` where the network forgets the sample, and this where it keeps all it can: data in
    # [-1, 1] has a variance of at most L * C along any direction.
    variance = target[0].numel()
    keeping = shrinking + (alpha_lower**0.5 - shrinking * alpha**0.5) * alpha**0.5 * variance / (alpha * variance + 1 - alpha)
    return solve_fixed_point(lambda sample: target - step(sample), initial, damping=2 / (shrinking + keeping))


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
        tolerance: Root mean square of the residual, per sequence, at which to stop.

    Returns the best iterate of each sequence, `(N, L, C)`, and the root mean square of its residual, `(N,)`.
    """
    x = initial
    iterates: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    best, best_error = initial, torch.full((len(initial),), torch.inf, device=initial.device)
    for _ in range(max_iterations):
        r = residual(x)
        error = r.square().mean(dim=(1, 2)).sqrt()
        better = error < best_error
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
