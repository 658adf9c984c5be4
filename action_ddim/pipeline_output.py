"""What `ActionDDIMPipeline` returns."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput


@dataclass
class ActionPipelineOutput(BaseOutput):
    """Actions `(N, L, 3)` in [0, 1]: an array with a press of 0 or 1 (`"np"`), or a tensor with a soft press (`"pt"`)."""

    actions: np.ndarray | torch.Tensor


@dataclass
class ActionInversionOutput(BaseOutput):
    """Latents `(N, L, 3)` in model space, and how exactly each was solved for: the largest residual of a step, `(N,)`."""

    latents: torch.Tensor
    residual: torch.Tensor


@dataclass
class ActionDenoisingOutput(BaseOutput):
    """Actions `(N, L, 3)` in [0, 1] with a press of 0 or 1, and the noise that was taken off, in screens."""

    actions: np.ndarray
    noise_std: float
