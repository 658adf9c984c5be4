"""What is known of the actions that a pipeline fills in."""

from typing import NamedTuple

import torch

from .actions import to_model_space


class Known(NamedTuple):
    """Actions in [0, 1] and the entries of them that are known; both `(N, L, 3)`, or N = 1 for all sequences alike."""

    actions: torch.Tensor
    mask: torch.Tensor

    def into_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Put the known entries into actions in [0, 1], as they were given, bit for bit."""
        return torch.where(self.mask, self.actions, actions)

    def into_sample(self, sample: torch.Tensor) -> torch.Tensor:
        """Put the known entries into a sample in model space."""
        return torch.where(self.mask, to_model_space(self.actions).to(sample.dtype), sample)


def check_known(known, mask) -> Known:
    """Check known actions and their mask, arrays or tensors `(N, L, 3)` or `(L, 3)`; what is not known becomes 0.

    Raises:
        ValueError: the mask is not boolean, does not fit or knows nothing, or a known entry lies outside [0, 1].
    """
    known, mask = (values[None] if values.ndim == 2 else values for values in map(torch.as_tensor, (known, mask)))
    if mask.dtype != torch.bool:
        raise ValueError(f"mask holds {mask.dtype}, not booleans")
    try:
        mask = mask.expand_as(known)
    except RuntimeError:
        raise ValueError(f"mask has the shape {tuple(mask.shape)}, which does not fit known, {tuple(known.shape)}") from None
    if not mask.any():
        raise ValueError("mask is False throughout; leave known and mask out to draw freely")
    known = known.masked_fill(~mask, 0)
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError("known actions lie outside [0, 1] where the mask is True")
    return Known(known, mask)
