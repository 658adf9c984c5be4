"""The array contract that every other module refers to.

*Actions* are float32 arrays or tensors `(N, L, 3)`, or `(L, 3)` for one sequence: `x`, `y` in [0, 1] of the screen (y grows
downwards) and `press` in {0, 1}; L is 250 steps unless the data says otherwise. On disk they lie flattened, `[N*L, 3]`.

*Model space* is what the denoiser sees: all three channels in [-1, 1], the press as the "analog bits" -1 and +1
(arXiv 2208.04202, section 2.1), so that one Gaussian diffusion covers all three.
"""

import numpy as np

CHANNELS = ("x", "y", "press")
NUM_CHANNELS = len(CHANNELS)
X, Y, PRESS = range(NUM_CHANNELS)
DEFAULT_SEQ_LEN = 250
MIN_SEQ_LEN = 2  # one step has no first difference
MAX_RATE = 1e6  # steps a second
MAX_SEQ_LEN = 1_000_000  # what is longer is a slip of the hand, and more than memory holds of a batch
PRESS_THRESHOLD = 0.5
IDLE_MODES = ("hold", "zero")  # between presses: the place is held, or x = y = 0, as a touch screen has none there
STILL = 1e-6  # of the screen: what rounding makes of equal places in float32


def to_model_space(actions):
    """Map actions from [0, 1] to [-1, 1]; an array or a tensor of any shape, the same kind back."""
    return actions * 2 - 1


def from_model_space(sample, clamp: bool = True):
    """Map a sample from model space to [0, 1], clamped unless told otherwise; the press stays soft (`threshold_press`)."""
    actions = (sample + 1) / 2
    return actions.clip(0, 1) if clamp else actions


def threshold_press(actions):
    """Return a copy of actions `(..., 3)`, an array or a tensor, whose press is 0 or 1, cut at 0.5."""
    actions = actions.copy() if isinstance(actions, np.ndarray) else actions.clone()
    actions[..., PRESS] = actions[..., PRESS] > PRESS_THRESHOLD
    return actions


def moves(actions):
    """Say whether x, and whether y, moves from each step of actions `(..., L, 3)` to the next; boolean, `(..., L - 1, 2)`.

    An axis moves where its value changes at all. A recording says so itself: a pointer that rests sends nothing, or the same
    pixel again.
    """
    return abs(actions[..., 1:, :PRESS] - actions[..., :-1, :PRESS]) > STILL


def find_invalid(rows: np.ndarray) -> tuple[int, str] | None:
    """Return `(row, what is wrong with it)` for the first of the rows `(M, 3)` that breaks the contract, else None."""
    xy, press = rows[:, :PRESS], rows[:, PRESS]
    # Two passes over the whole chunk settle the usual case. NaN fails every comparison, so it is caught here too.
    if ((xy >= 0) & (xy <= 1)).all() and ((press == 0) | (press == 1)).all():
        return None
    valid_press = (press == 0) | (press == 1)
    row = int(np.argmin(((xy >= 0) & (xy <= 1)).all(axis=1) & valid_press))
    for name, value in zip(CHANNELS, rows[row], strict=True):  # numpy's own say no more digits than their type has
        if not np.isfinite(value):
            return row, f"{name} is {value}, not a finite number"
        if name == "press" and value not in (0, 1):
            return row, f"press is {value!s}, not 0 or 1"
        if name != "press" and not 0 <= value <= 1:
            return row, f"{name} is {value!s}, outside [0, 1] of the screen"
    raise AssertionError("a row that breaks the contract has a channel that does")
