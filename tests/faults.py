"""Faults brought about from outside, through hooks that torch has for everyone: nothing of the trainer is replaced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from action_ddim import ActionTransformer1DModel


@contextmanager
def after_steps(actions: dict[int, Callable[[], object]]) -> Iterator[None]:
    """Do something after so many optimizer steps: `{3: lambda: ...}`."""
    steps = 0

    def count(*_) -> None:
        nonlocal steps
        steps += 1
        if steps in actions:
            actions[steps]()

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def after_evaluations(actions: dict[int, Callable[[], object]]) -> Iterator[None]:
    """Do something after the denoiser was asked so many times outside training."""
    evaluations = 0

    def count(module, inputs, output) -> None:
        nonlocal evaluations
        if isinstance(module, ActionTransformer1DModel) and not module.training:
            evaluations += 1
            if evaluations in actions:
                actions[evaluations]()

    hook = register_module_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def not_finite(is_bad: Callable[[int], bool], training: bool = True) -> Iterator[None]:
    """Let the denoiser answer NaN for the batches of training, or of all else, counted from 1, that `is_bad` names."""
    batches = 0

    def spoil(module, inputs, output):
        nonlocal batches
        if isinstance(module, ActionTransformer1DModel) and module.training == training:
            batches += 1
            if is_bad(batches):
                return tuple(value * torch.nan for value in output)
        return None

    hook = register_module_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()
