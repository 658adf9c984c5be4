"""Guidance: a cost on the clean actions that a denoiser predicts, its gradient scaled into each step."""

from collections.abc import Callable

import torch

from .actions import from_model_space
from .inpainting import Known
from .prediction import output_for, predict_clean

# Below this alpha_bar a noisy sample says next to nothing of the actions, and the network's slope is noise.
MIN_ALPHA_BAR = 0.01

Cost = Callable[[torch.Tensor], torch.Tensor]


def guide(
    denoise: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    sample: torch.Tensor,
    cost: Cost,
    scale: float,
    alpha_bar: float,
    prediction_type: str,
    known: Known | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return what the network says at `sample` `(N, L, 3)`, its output, the first of it, moved down the gradient of the cost.

    Classifier guidance for DDIM (arXiv 2105.05233, algorithm 2) with -scale * cost in the place of log p: the predicted
    noise gains scale * sqrt(1 - alpha_bar) * gradient, where the gradient is taken through the network, so that it
    moves the sample along what the network holds for actions. The clean actions then move by -scale times their
    posterior covariance times the gradient of the cost, whatever the timestep.

    Args:
        denoise: Maps a sample to a tuple of the network's output, and what else the network says.
        cost: Maps clean actions `(N, L, 3)`, x, y and press in [0, 1] or, as a network predicts them, a little outside it, to a
            number a sequence, `(N,)`.
        scale: Weight of the cost.
        alpha_bar: Of the timestep.
        prediction_type: What the network's output is.
        known: What the cost sees in the place of the network's prediction.

    Raises:
        ValueError: the cost is no tensor `(N,)`, or does not depend on the actions in a differentiable way.
    """
    if alpha_bar < MIN_ALPHA_BAR:
        return denoise(sample)
    with torch.enable_grad():
        sample = sample.detach().requires_grad_()
        output, *others = denoise(sample)
        actions = from_model_space(predict_clean(output, sample, alpha_bar, prediction_type), clamp=False)
        value = cost(actions if known is None else known.into_actions(actions))
        if not isinstance(value, torch.Tensor) or value.shape != (len(sample),):
            raise ValueError(f"the cost returns {what_it_is(value)}, not a tensor ({len(sample)},) with a number a sequence")
        if not value.requires_grad:
            raise ValueError("the cost does not depend on the actions in a way that can be differentiated")
        (gradient,) = torch.autograd.grad(value.sum(), sample)
    output, sample = output.detach(), sample.detach()
    clean = predict_clean(output, sample, alpha_bar, prediction_type) - scale * (1 - alpha_bar) / alpha_bar**0.5 * gradient
    return output_for(clean, sample, alpha_bar, prediction_type), *(values.detach() for values in others)


def what_it_is(value: object) -> str:
    """Say of what should have been another tensor what it is: its shape, or its kind."""
    return f"the shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
