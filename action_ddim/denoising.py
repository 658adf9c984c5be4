"""Cleaning a noisy recording: how noisy it is, and where a network that sees it says that the pointer moves."""

import torch
import torch.nn.functional as F

from .actions import PRESS

# Where there is less noise than this (standard deviation beside the signal, in model space), a network sees no more of the
# motion; it is trained there least.
LEAST_NOISE = 0.16
BEND = 0.3  # what a hand's velocity changes by from a step to the next, as a share of its speed
SMALLEST_SHARE = 1e-8


def estimate_noise(actions: torch.Tensor) -> float:
    """Estimate the standard deviation of white noise on x and y of actions `(N, L, 3)`, in screens.

    The median of their second differences, to which motion adds little and a jump of the pointer nothing: of noise alone,
    these have a deviation of sqrt(6) times its own, and a median magnitude of 0.6745 of that.
    """
    return float(actions[..., :PRESS].double().diff(n=2, dim=1).abs().median()) / (0.6745 * 6**0.5)


def bend_variance(clean: torch.Tensor, move_logits: torch.Tensor | None) -> torch.Tensor:
    """Say how much the path of a pointer may bend at each step, from what a network takes for clean and for moving.

    Between two steps a hand changes its velocity by a share of its speed, and an axis that rests by nothing.

    Args:
        clean: `(N, L, 2)`, x and y in [0, 1].
        move_logits: `(N, L - 1, 2)` of a rest head; None takes all steps for moving.

    Returns the variance of the second differences of x and y, `(N, L - 2, 2)`, in screens^2.
    """
    steps = clean.double().diff(dim=1).square().sum(dim=-1, keepdim=True)
    moving = torch.ones_like(clean[:, 1:]) if move_logits is None else move_logits.sigmoid()
    steps = moving.double() * steps
    return BEND**2 * torch.maximum(steps[:, 1:], steps[:, :-1])


def smooth(recording: torch.Tensor, variance: torch.Tensor, noise_variance: float) -> torch.Tensor:
    """Smooth a recording in white noise as much as its second differences are small, `(N, L, C)` in float64.

    The x that minimises sum (y - x)^2 / noise_variance + sum (second difference of x)^2 / variance: the graduation of
    Whittaker (1923, Proc. Edinburgh Math. Soc. 41), here with a weight for each difference. Its equations have five bands
    and are solved by L D L' in time and memory proportional to L.

    Args:
        recording: y, `(N, L, C)`.
        variance: Of each second difference, `(N, L - 2, C)`, from 0 up.
        noise_variance: Above 0.
    """
    # A difference that must not be is given this small a share of the noise, which keeps the equations solvable.
    weight = 1 / variance.double().clamp(min=noise_variance * SMALLEST_SHARE)
    outer, middle, inner = (F.pad(weight, (0, 0, before, 2 - before)).unbind(dim=1) for before in (0, 1, 2))
    D: list[torch.Tensor] = []
    first: list[torch.Tensor] = []  # of L, the diagonals one and two below the main one
    second: list[torch.Tensor] = []
    z: list[torch.Tensor] = []
    for i, value in enumerate(recording.double().unbind(dim=1)):
        pivot = 1 / noise_variance + outer[i] + 4 * middle[i] + inner[i]
        beside, z_i = -2 * (outer[i] + middle[i]), value / noise_variance
        if i > 0:
            pivot, z_i = pivot - first[-1] ** 2 * D[-1], z_i - first[-1] * z[-1]
            beside = beside - D[-1] * first[-1] * second[-1]
        if i > 1:
            pivot, z_i = pivot - second[-2] ** 2 * D[-2], z_i - second[-2] * z[-2]
        D.append(pivot)
        z.append(z_i)
        first.append(beside / pivot)
        second.append(outer[i] / pivot)
    x = [z[-1] / D[-1]]
    for i in range(len(z) - 2, -1, -1):
        after = first[i] * x[-1] + (second[i] * x[-2] if len(x) > 1 else 0)
        x.append(z[i] / D[i] - after)
    return torch.stack(x[::-1], dim=1)
