"""Label-safe transforms of training actions: what else could have been recorded, never another kind of action.

Each keeps x and y in [0, 1] and the number of presses, loses, splits and joins none, and leaves at rest, to the last bit, what
rests: equal places stay equal. Which steps move (`actions.moves`), as the rest head learns it, is asked of what comes out.

- `flip_x`, `flip_y` mirror left and right, or up and down, every second sequence. A pixel grid stays one. Twice is identity, up
  to the rounding of 1 - x to 2^-25.
- `swap_xy` exchanges x and y of every second sequence, exactly. A pixel grid stays one where the screen is square.
- `scale` sizes the path about the centre of its bounding box, by one factor for both axes, log-uniform from 1 / 1.25 to 1.25,
  less where the screen ends. Off the pixel grid.
- `shift` moves the path by up to 0.1 of the screen along each axis, less where the screen ends. Off the pixel grid.
- `time_warp` runs through the sequence faster here and slower there, by 0.4 of its speed at most; presses last longer or
  shorter by that. Off the pixel grid: between two steps of a run of the press places are interpolated.
- `reverse` runs every second sequence backwards, exactly: the last pressed step is the first.

Left to right becomes right to left by `flip_x` and by `reverse`, and top to bottom by `swap_xy`: leave those out where a
direction has a meaning.

Where the pointer is at 0, 0 whenever it does not press, it has no place there (as a touch screen may say): then that stays.

What is chosen comes from outside, `DRAWS` uniform numbers a sequence, each for one transform, whichever are on.
"""

import math
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `--help` lists the names, and does not wait for torch
    import torch

TRANSFORMS = ("flip_x", "flip_y", "swap_xy", "scale", "shift", "time_warp", "reverse")
DRAWS = 16  # of which some are spare: a further transform changes no choice of these
MAX_SCALE, MAX_SHIFT, MAX_WARP = 1.25, 0.1, 0.4


def transform(actions: "torch.Tensor", draws: "torch.Tensor", names: Collection[str]) -> "torch.Tensor":
    """Return actions `(N, L, 3)` changed by the named transforms, in the order of `TRANSFORMS`.

    Args:
        draws: `(N, DRAWS)`, uniform in [0, 1), on the actions' device.
    """
    flip_x, flip_y, swap, size, right, down, slow, wave, back = draws.T[:9, :, None]  # (N, 1) each
    x, y, press = actions.permute(2, 0, 1).contiguous()  # (N, L) each
    nowhere = ((press > 0) | ((x == 0) & (y == 0))).all(dim=1, keepdim=True) & (press == 0)
    if "flip_x" in names:
        x = (1 - x).where(flip_x < 0.5, x)
    if "flip_y" in names:
        y = (1 - y).where(flip_y < 0.5, y)
    if "swap_xy" in names:
        x, y = y.where(swap < 0.5, x), x.where(swap < 0.5, y)
    if "scale" in names:
        x, y = scaled(x, y, nowhere, size)
    if "shift" in names:
        x, y = shifted(x, nowhere, right), shifted(y, nowhere, down)
    changed = actions.new_empty((3, *press.shape))
    changed[0], changed[1], changed[2] = x.masked_fill(nowhere, 0), y.masked_fill(nowhere, 0), press
    if "time_warp" in names:
        changed = warped(changed, slow, wave)
    if "reverse" in names:
        changed = changed.flip(2).where(back < 0.5, changed)
    return changed.permute(1, 2, 0).contiguous()


def bounds(values: "torch.Tensor", nowhere: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the lowest and the highest value of each sequence, `(N, 1)`, over the steps that have a place."""
    lowest = values.masked_fill(nowhere, 1).amin(dim=1, keepdim=True)
    return lowest, values.masked_fill(nowhere, 0).amax(dim=1, keepdim=True)


def scaled(
    x: "torch.Tensor", y: "torch.Tensor", nowhere: "torch.Tensor", draw: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return x and y, `(N, L)`, sized about the centre of their box; a draw of 0 is the smallest factor, 1 the largest."""
    centres, factor = [], (math.log(MAX_SCALE) * (2 * draw - 1)).exp()
    for values in (x, y):
        lowest, highest = bounds(values, nowhere)
        centre = (lowest + highest) / 2
        centres.append(centre)
        factor = factor.minimum(centre.minimum(1 - centre) / (highest - centre).clamp(min=1e-6))
    x, y = ((centre + factor * (values - centre)).clamp(0, 1) for values, centre in zip((x, y), centres, strict=True))
    return x, y


def shifted(values: "torch.Tensor", nowhere: "torch.Tensor", draw: "torch.Tensor") -> "torch.Tensor":
    """Return one axis, `(N, L)`, shifted; a draw of 0 is furthest to the left or the top, 1 to the right or the bottom."""
    lowest, highest = bounds(values, nowhere)
    least, most = -lowest.clamp(max=MAX_SHIFT), (1 - highest).clamp(max=MAX_SHIFT)
    return values + (least + draw * (most - least))  # at the edges the sum is off by less than rounds to 0 and 1


def warped(channels: "torch.Tensor", slow: "torch.Tensor", wave: "torch.Tensor") -> "torch.Tensor":
    """Return channels `(3, N, L)` whose step t is what was at (L - 1) w(t / (L - 1)), with both ends where they were.

    w(s) = s + a sin(pi s) / pi + b sin(2 pi s) / (2 pi), where a and b are uniform within half of `MAX_WARP` either way: the
    speed is 1 + a cos(pi s) + b cos(2 pi s). The press is that of the nearest step; x and y are interpolated between two steps
    of the same press, and else are those of the nearest. A sequence of which a press, or what parts two, would fall between
    two steps keeps its time.

    Args:
        slow, wave: `(N, 1)`, of a and of b; 0.5 is none.
    """
    last = channels.shape[2] - 1
    straight, first, second = time_tables(last, channels.device)
    source = (straight + last * MAX_WARP * ((slow - 0.5) * first + (wave - 0.5) * second)).clamp(0, last)  # (N, L)
    before = source.long()
    left, right = (channels.gather(2, steps.expand_as(channels)) for steps in (before, (before + 1).clamp(max=last)))
    part = source - before
    between = (left + part * (right - left)).clamp(0, 1)
    new = between.where(left[2] == right[2], left.where(part < 0.5, right))
    old_edges, new_edges = ((press[:, 1:] != press[:, :-1]).sum(dim=1, keepdim=True) for press in (channels[2], new[2]))
    return new.where(old_edges == new_edges, channels)


@lru_cache(maxsize=8)
def time_tables(last: int, device: "torch.device") -> "torch.Tensor":
    """Return t, sin(pi s) / pi and sin(2 pi s) / (2 pi) of the steps t = 0 to `last`, s = t / `last`: `(3, L)`, made once."""
    import torch

    step = torch.arange(last + 1, dtype=torch.float64)
    waves = [(count * math.pi * step / last).sin() / (count * math.pi) for count in (1, 2)]
    for sine in waves:
        sine[-1] = 0  # where rounding leaves 1e-16
    return torch.stack([step, *waves]).to(torch.float32).to(device)
