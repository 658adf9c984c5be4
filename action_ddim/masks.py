"""Which entries of an action are known beforehand, in words.

A mask is boolean, `(N, L, 3)` or `(L, 3)`, True where an entry is known. `ActionDDIMPipeline(known=actions, mask=mask)`
keeps the known entries and fills in the rest.
"""

from collections.abc import Sequence

import numpy as np

from action_ddim.actions import NUM_CHANNELS, PRESS


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
