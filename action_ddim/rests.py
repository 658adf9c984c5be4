"""Rests that are exact: what a network says of which steps move, applied to the actions that it predicts.

A continuous network repeats itself only nearly, so that a pointer at rest would wander by hundredths of the screen.
"""

import torch

from .actions import PRESS, moves
from .inpainting import Known, arc_length, interpolate


def decode_rests(actions: torch.Tensor, move_logits: torch.Tensor, known: Known | None = None) -> torch.Tensor:
    """Let the pointer rest where the network says so, and fit the motion between rests to them; the press stays as it is.

    Each axis by itself: the steps of a rest take their mean, to the last bit the same, or the value that is known of one of
    them, and the moving steps between two rests are corrected in proportion to the arc length, from the one's correction to the
    other's, so that a stroke is stretched and shifted, never bent. Between two steps that are both known, what is known says
    whether they move; a rest of which different values are known elsewhere is none.

    Args:
        actions: `(N, L, 3)` in [0, 1].
        move_logits: `(N, L - 1, 2)`, positive where an axis moves from a step to the next.
        known: Entries that keep their values, bit for bit.
    """
    places = actions[..., :PRESS].float()
    moving = move_logits > 0
    fixed, given = torch.zeros_like(places, dtype=torch.bool), places
    if known is not None:
        fixed, given = known.mask[..., :PRESS].expand_as(places), known.actions[..., :PRESS].expand_as(places)
        moving = torch.where(fixed[:, 1:] & fixed[:, :-1], moves(known.actions), moving)
    group = torch.nn.functional.pad(moving, (0, 0, 1, 0)).long().cumsum(dim=1)  # (N, L, 2), the same number through a rest

    def over_group(values: torch.Tensor, reduction: str) -> torch.Tensor:
        return torch.zeros_like(values).scatter_reduce(1, group, values, reduction, include_self=False).gather(1, group)

    lowest = over_group(torch.where(fixed, given, torch.inf), "amin")
    highest = over_group(torch.where(fixed, given, -torch.inf), "amax")
    rests = (over_group(torch.ones_like(places), "sum") > 1) & (lowest >= highest)
    held = torch.where(lowest == highest, lowest, over_group(places, "mean"))
    held = torch.where(fixed, given, held)
    anchored = rests | fixed
    corrected = places + interpolate(torch.where(anchored, held - places, 0.0), anchored, arc_length(places))
    decoded = torch.where(anchored, held, corrected).clamp(0, 1)
    return torch.cat([decoded.to(actions.dtype if known is None else given.dtype), actions[..., PRESS:]], dim=-1)
