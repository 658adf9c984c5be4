"""The moving average of the weights: evaluated and exported in their place, and kept in checkpoints by name."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import nn


def ema_state_dict(ema: EMAModel, denoiser: nn.Module) -> dict[str, torch.Tensor]:
    """Return the averaged weights under the names of the denoiser's parameters, for `save_file`."""
    names = (name for name, _ in denoiser.named_parameters())
    return {name: value.detach().cpu().contiguous() for name, value in zip(names, ema.shadow_params, strict=True)}


def load_ema_state_dict(ema: EMAModel, denoiser: nn.Module, state: dict[str, torch.Tensor], update: int) -> None:
    """Set the averaged weights, as they were after so many updates.

    Raises:
        KeyError, RuntimeError: a weight is missing, or of another shape.
    """
    names = (name for name, _ in denoiser.named_parameters())
    for name, value in zip(names, ema.shadow_params, strict=True):
        value.copy_(state[name])
    ema.optimization_step = update


@contextmanager
def averaged_weights(ema: EMAModel, denoiser: nn.Module) -> Iterator[None]:
    """Give the denoiser its averaged weights, and evaluation mode, within the context."""
    training = denoiser.training
    parameters = list(denoiser.parameters())
    ema.store(parameters)
    ema.copy_to(parameters)
    denoiser.eval()
    try:
        yield
    finally:
        ema.restore(parameters)
        denoiser.train(training)
