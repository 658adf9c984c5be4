"""Where a search for an action begins: smooth noise, or what a task fixes, joined; and what it moves, raw actions.

*Raw* actions `(..., L, 3)` hold the press as a logit; starts are actions `(T, K, L, 3)`, K for each of T tasks, with a
press that may be soft.
"""

import numpy as np
import torch

from action_ddim.actions import NUM_CHANNELS, PRESS, threshold_press
from action_ddim.planning.gestures import Gestures
from augmentation.strokes import minimum_jerk_progress

SURE = 0.95  # the press of a start that is pressed, so that its logit is finite
SMOOTHNESS = 1 / 12  # of the L steps: length scale of smooth noise
COLD = (-1.0, 1.0)  # mean and deviation of the logits of the press, where nothing is known: in few stretches


def raw(actions: torch.Tensor) -> torch.Tensor:
    """Return actions `(..., L, 3)` with the press as a logit, which is what a search moves."""
    return torch.cat([actions[..., :PRESS], actions[..., PRESS:].clamp(1 - SURE, SURE).logit()], dim=-1)


def soft(values: torch.Tensor, sharpness: float = 1.0) -> torch.Tensor:
    """Return raw actions as actions with a soft press."""
    return torch.cat([values[..., :PRESS].clamp(0, 1), (sharpness * values[..., PRESS:]).sigmoid()], dim=-1)


def finished(values: torch.Tensor) -> torch.Tensor:
    """Return raw actions as actions with a press of 0 or 1."""
    return threshold_press(soft(values.detach()))


def smooth_noise(num: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Draw noise `(num, L, 3)` of unit variance that is smooth in time: a Gaussian process of squared-exponential kernel."""
    step = torch.arange(seq_len, dtype=torch.float64)
    kernel = (-0.5 * ((step[:, None] - step) / (SMOOTHNESS * seq_len)).square()).exp()
    root = torch.linalg.cholesky(kernel + 1e-4 * torch.eye(seq_len, dtype=torch.float64)).float()
    return (torch.randn(num, NUM_CHANNELS, seq_len, generator=generator) @ root.T).transpose(1, 2)


def cold_starts(num_tasks: int, num_restarts: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Draw smooth actions `(T, K, L, 3)` around places that lie anywhere, of which the press is soft: nothing is known."""
    count = num_tasks * num_restarts
    values = smooth_noise(count, seq_len, generator) * torch.tensor([0.1, 0.1, COLD[1]])
    values[..., PRESS] += COLD[0]
    values[..., :PRESS] += torch.rand(count, 1, 2, generator=generator)
    return soft(values).unflatten(0, (num_tasks, num_restarts))


def told_starts(given: Gestures, num_tasks: int, *, minimum_jerk: bool = True) -> torch.Tensor:
    """Return what a task fixes, of N = T * K actions, as actions `(T, K, L, 3)`: joined at minimum jerk, or by straight lines.

    The pointer rests before the first place that is known and after the last.
    """
    actions = given.known.copy()
    step = np.arange(actions.shape[1])
    for action, mask in zip(actions, given.mask[..., 0], strict=True):
        known = np.flatnonzero(mask)
        places = action[known, :PRESS]
        if minimum_jerk and len(known) > 1:  # one movement from the first to the last, which passes the others at their steps
            tau = np.interp(step, known[[0, -1]], [0, 1])
            at = minimum_jerk_progress(tau)
        else:
            at = step.astype(np.float64)
        action[:, :PRESS] = np.stack([np.interp(at, at[known], places[:, axis]) for axis in range(2)], axis=-1)
    return torch.as_tensor(actions).unflatten(0, (num_tasks, -1))


def shaken(starts: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """Return starts of which all restarts but the first of each task are moved by smooth noise of so many screens.

    Where a start is a saddle of the cost, as a straight way through the middle of a disc is, a gradient alone stays on it.
    """
    moved = starts.clone()
    others = moved[:, 1:, :, :PRESS]
    noise = smooth_noise(others.shape[0] * others.shape[1], starts.shape[2], generator)[..., :PRESS]
    others += size * noise.reshape(others.shape)
    return moved.clamp(0, 1)
