"""Inpainting: which entries of an action are known beforehand, and clean actions fitted to them.

A mask is boolean, `(N, L, 3)` or `(L, 3)`, True where an entry is known. `ActionDDIMPipeline(known=actions, mask=mask)`
keeps the known entries and fills in the rest; `build_mask` makes masks from words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .actions import NUM_CHANNELS, PRESS, to_model_space

# What each step adds to the arc length at least, in model space: without any motion, it grows with time.
SMALLEST_STEP = 1e-5


class Known(NamedTuple):
    """Actions in [0, 1] and the entries of them that are known; both `(N, L, 3)`, or N = 1 for all sequences alike."""

    actions: torch.Tensor
    mask: torch.Tensor

    def into_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Put the known entries into actions in [0, 1], as they were given, bit for bit."""
        return torch.where(self.mask, self.actions, actions)

    def complete(self, clean: torch.Tensor) -> torch.Tensor:
        """Fit the clean actions that a network predicts, `(N, L, 3)` in model space, to the known entries.

        Known entries take their values, and the steps around a known place move with it: between two known ones in
        proportion to the arc length behind, so that a stroke is stretched and a resting pointer goes on resting.
        Before the first known place all steps move as it does, and after the last one as that does.
        """
        clean = clean.clamp(-1, 1)
        missed = torch.where(self.mask, to_model_space(self.actions) - clean, 0.0)
        length = arc_length(clean[..., :PRESS])
        moved = interpolate(missed[..., :PRESS], self.mask.expand_as(clean)[..., :PRESS], length)
        return (clean + torch.cat([moved, missed[..., PRESS:]], dim=-1)).to(clean.dtype)


def arc_length(places: torch.Tensor) -> torch.Tensor:
    """Return the length of the path behind each step of places `(N, L, 2)`: `(N, L, 1)`, increasing."""
    steps = places.float().diff(dim=1).norm(dim=-1, keepdim=True)
    return F.pad((steps + SMALLEST_STEP).cumsum(dim=1), (0, 0, 1, 0))


def interpolate(values: torch.Tensor, known: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between known values, as functions of a position; before the first and after the last they stay.

    Args:
        values: `(N, L, C)`, 0 where not known.
        known: Boolean, as the values; a sequence's channel without any stays 0.
        position: Of each step, `(N, L, 1)`, increasing; that of `arc_length`, for example.
    """
    length = values.shape[1]
    step = torch.arange(length, device=values.device).view(1, -1, 1)
    before = torch.where(known, step, -1).cummax(dim=1).values
    after = torch.where(known, step, length).flip(1).cummin(dim=1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(max=length - 1)
    right = torch.where(after == length, before, after).clamp(min=0)
    position = position.expand_as(values)
    start = position.gather(1, left)
    fraction = (position - start) / (position.gather(1, right) - start).clamp(
        min=SMALLEST_STEP / 2
    )  # 0 / .. where left is right
    return torch.lerp(
        values.gather(1, left).to(position.dtype), values.gather(1, right).to(position.dtype), fraction.clamp(0, 1)
    )


def check_known(known, mask) -> Known:
    """Check known actions and their mask, arrays or tensors `(N, L, 3)` or `(L, 3)`; what is not known becomes 0.

    Raises:
        ValueError: the mask is not boolean, does not fit or knows nothing, or a known entry lies outside [0, 1].
    """
    known, mask = (values[None] if values.ndim == 2 else values for values in map(torch.as_tensor, (known, mask)))
    if mask.dtype != torch.bool:
        raise ValueError(f"mask holds {mask.dtype}, not booleans")
    try:
        mask = mask.to(known.device).expand_as(known)
    except RuntimeError:
        raise ValueError(f"mask has the shape {tuple(mask.shape)}, which does not fit known, {tuple(known.shape)}") from None
    if not mask.any():
        raise ValueError("mask is False throughout; leave known and mask out to draw freely")
    known = known.masked_fill(~mask, 0)
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError("known actions lie outside [0, 1] where the mask is True")
    return Known(known, mask)


def build_mask(
    seq_len: int,
    *,
    start: bool = False,
    end: bool = False,
    waypoints: Sequence[int] = (),
    prefix: int = 0,
    press: bool = False,
) -> np.ndarray:
    """Return the mask `(L, 3)` of what the words say is known, all of them together.

    Args:
        seq_len: L.
        start, end: The place (x and y) at the first and at the last step.
        waypoints: Steps at which the place is known; negative ones count from the end.
        prefix: Number of steps at the beginning of which everything is known.
        press: The press at every step.

    Raises:
        ValueError: a waypoint or the prefix lies outside the sequence, or no word was said.
    """
    steps = [*([0] if start else []), *([-1] if end else []), *waypoints]
    outside = [step for step in steps if not -seq_len <= step < seq_len]
    if outside:
        raise ValueError(f"waypoint {outside[0]} lies outside the {seq_len} steps")
    if not 0 <= prefix <= seq_len:
        raise ValueError(f"prefix is {prefix}, not in 0..{seq_len}")
    mask = np.zeros((seq_len, NUM_CHANNELS), dtype=bool)
    mask[steps, :PRESS] = True
    mask[:prefix] = True
    mask[:, PRESS] |= press
    if not mask.any():
        raise ValueError("nothing is known; say start, end, waypoints, prefix or press")
    return mask
