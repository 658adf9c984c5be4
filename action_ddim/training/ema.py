"""The moving average of the weights: evaluated and exported in their place, and kept in checkpoints by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn


class AveragedWeights:
    """The weights of a model and their moving average.

    Args:
        model: Whose weights are averaged; under FSDP a whole copy of the one that is trained.
        decay: Of the average, at each step.
        sharded: Under FSDP, the model that is trained, of whose weights each rank has a share.
    """

    def __init__(self, model: nn.Module, decay: float, sharded: nn.Module | None = None):
        self._model, self._sharded = model, sharded
        self._average = EMAModel(model.parameters(), decay=decay, foreach=True)

    def step(self) -> None:
        """Take the weights into their average. MUST be called on every rank."""
        if self._sharded is not None:
            shards: Any = self._sharded.parameters()  # DTensors
            for whole, shard in zip(self._model.parameters(), shards, strict=True):
                whole.data.copy_(shard.detach().full_tensor())
        self._average.step(self._model.parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights, and evaluation mode, within the context."""
        training, parameters = self._model.training, list(self._model.parameters())
        self._average.store(parameters)
        self._average.copy_to(parameters)
        self._model.eval()
        try:
            yield
        finally:
            self._average.restore(parameters)
            self._model.train(training)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights under the names of the model's parameters, for `save_file`."""
        return {name: value.detach().cpu().contiguous() for name, value in self._by_name()}

    def load_state_dict(self, state: dict[str, torch.Tensor], update: int) -> None:
        """Set the averaged weights, as they were after so many updates.

        Raises:
            KeyError, RuntimeError: a weight is missing, or of another shape.
        """
        for name, value in self._by_name():
            value.copy_(state[name])
        self._average.optimization_step = update

    def _by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        return zip((name for name, _ in self._model.named_parameters()), self._average.shadow_params, strict=True)
