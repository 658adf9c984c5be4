"""Cleaning a noisy recording: how noisy it is, and where a network that sees it says that the pointer moves."""

import torch

from .actions import PRESS

# Where there is less noise than this (standard deviation beside the signal, in model space), a network sees no more of the
# motion; it is trained there least.
LEAST_NOISE = 0.16


def estimate_noise(actions: torch.Tensor) -> float:
    """Estimate the standard deviation of white noise on x and y of actions `(N, L, 3)`, in screens.

    The median of their second differences, to which motion adds little and a jump of the pointer nothing: of noise alone,
    these have a deviation of sqrt(6) times its own, and a median magnitude of 0.6745 of that.
    """
    return float(actions[..., :PRESS].double().diff(n=2, dim=1).abs().median()) / (0.6745 * 6**0.5)


def smooth(recording: torch.Tensor, step_variance: torch.Tensor, noise_variance: float) -> torch.Tensor:
    """Return the mean of a random walk, given what was recorded of it in white noise, `(N, L, C)` in float64.

    A Kalman filter forwards and the smoother of Rauch, Tung and Striebel (1965, AIAA Journal 3(8)) backwards, of the local
    level model: where steps have no variance, it is the mean of the recording, and where they have much, the recording.

    Args:
        recording: `(N, L, C)`.
        step_variance: Of each step of the walk, `(N, L - 1, C)`.
        noise_variance: Of the noise, above 0.
    """
    recorded, variances = recording.double().unbind(dim=1), step_variance.double().unbind(dim=1)
    means, spreads = [recorded[0]], [torch.full_like(recorded[0], noise_variance)]
    for value, variance in zip(recorded[1:], variances, strict=True):
        spread = spreads[-1] + variance
        gain = spread / (spread + noise_variance)
        means.append(torch.lerp(means[-1], value, gain))
        spreads.append(gain * noise_variance)
    smoothed = [means.pop()]
    for mean, spread, variance in zip(reversed(means), reversed(spreads[:-1]), reversed(variances), strict=True):
        smoothed.append(torch.lerp(mean, smoothed[-1], spread / (spread + variance)))
    return torch.stack(smoothed[::-1], dim=1)
