"""Features of actions, numbers that say of each sequence what gesture it is, how long, how far and how fast.

Actions are arrays `(N, L, 3)` in [0, 1]; a press that is soft is cut at 0.5. A step *presses* where it is above that.
"""

import numpy as np

from action_ddim.actions import PRESS, PRESS_THRESHOLD

GESTURE_TYPES = ("none", "click", "horizontal", "vertical", "diagonal")
# An axis moves where its extent over the pressed steps is at least this much of the screen, which is more than a hand's
# tremor, and at least this share of the other axis's extent: 0.15 is a slope of 8.5 degrees.
MIN_EXTENT = 0.02
MIN_SLOPE = 0.15
SMALLEST_MOVE = 1e-4  # of the screen, a tenth of a pixel or two: floor of the logarithms
REST = 5e-4  # of the screen, about a pixel: a step that goes no further rests


def gesture_types(actions: np.ndarray) -> np.ndarray:
    """Return the index in `GESTURE_TYPES` of each sequence, `(N,)`.

    `none` never presses. The others go by which axes move while pressed (`MIN_EXTENT`, `MIN_SLOPE`): neither is a
    `click`, x alone `horizontal`, y alone `vertical`, both `diagonal`.
    """
    pressed = actions[..., PRESS] > PRESS_THRESHOLD
    xy = actions[..., :PRESS]
    highest = np.where(pressed[..., None], xy, -np.inf).max(axis=1)
    lowest = np.where(pressed[..., None], xy, np.inf).min(axis=1)
    extent = highest - lowest  # (N, 2), -inf where there is no press
    x_moves, y_moves = ((extent >= MIN_EXTENT) & (extent >= MIN_SLOPE * extent[:, ::-1])).T
    return np.where(pressed.any(axis=1), 1 + x_moves + 2 * y_moves, 0)


def type_shares(actions: np.ndarray) -> np.ndarray:
    """Return the share of each of `GESTURE_TYPES` among the sequences, `(5,)`; 0 where there are none."""
    return np.bincount(gesture_types(actions), minlength=len(GESTURE_TYPES)) / max(1, len(actions))


def action_features(actions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of each sequence by name, arrays `(N,)` in float64, all of them finite.

    - `press_time`: pressed steps, as a share of L.
    - `duration`: steps from the first pressed to the last pressed one, both included, as a share of L; 0 without a press.
    - `num_presses`: runs of pressed steps.
    - `onset`: the first pressed step, as a share of L; 1 without a press.
    - `start_x`, `start_y`: place at the first pressed step, or at step 0 without a press.
    - `shift_x`, `shift_y`: from there to the last pressed step; 0 without a press.
    - `path_length`: arc length over all steps, in screens; `pressed_path_length`: the part between pressed steps.
    - `straightness`: distance from the first to the last pressed step over the arc length between them; 1 where there is none.
    - `peak_speed`: log10 of the longest step, in screens a step.
    - `roughness`: log10 of the root mean square of the second differences of x and y, in screens a step^2.
    - `rest`: share of steps that move less than `REST`.
    """
    actions = np.asarray(actions, np.float64)
    num_sequences, length, _ = actions.shape
    pressed, xy = actions[..., PRESS] > PRESS_THRESHOLD, actions[..., :PRESS]
    presses = pressed.any(axis=1)
    first = np.argmax(pressed, axis=1)
    last = np.where(presses, length - 1 - np.argmax(pressed[:, ::-1], axis=1), 0)
    rows = np.arange(num_sequences)
    start, shift = xy[rows, first], xy[rows, last] - xy[rows, first]
    steps = np.linalg.norm(np.diff(xy, axis=1), axis=-1)  # (N, L - 1)
    step = np.arange(length - 1)
    arc = (steps * ((step >= first[:, None]) & (step < last[:, None]))).sum(axis=1)
    bend = np.diff(xy, n=2, axis=1)
    rms_bend = np.sqrt((bend**2).sum(axis=(1, 2)) / max(1, bend.shape[1] * 2))
    return {
        "press_time": pressed.mean(axis=1),
        "duration": np.where(presses, last - first + 1, 0) / length,
        "num_presses": (np.diff(pressed, axis=1, prepend=False) & pressed).sum(axis=1).astype(np.float64),
        "onset": np.where(presses, first / length, 1.0),
        "start_x": start[:, 0],
        "start_y": start[:, 1],
        "shift_x": shift[:, 0],
        "shift_y": shift[:, 1],
        "path_length": steps.sum(axis=1),
        "pressed_path_length": (steps * (pressed[:, 1:] & pressed[:, :-1])).sum(axis=1),
        "straightness": np.where(arc > 0, np.linalg.norm(shift, axis=-1) / np.where(arc > 0, arc, 1), 1.0),
        "peak_speed": np.log10(np.maximum(steps.max(axis=1), SMALLEST_MOVE)),
        "roughness": np.log10(np.maximum(rms_bend, SMALLEST_MOVE)),
        "rest": (steps < REST).mean(axis=1),
    }
