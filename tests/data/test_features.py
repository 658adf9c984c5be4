"""Features of sequences worked out by hand, and of gestures whose parameters are known."""

import numpy as np
import pytest

from action_ddim.data.features import GESTURE_TYPES, action_features, gesture_types, type_shares
from augmentation.gestures import BLOCK, GestureConfig, draw_gestures, render_gestures


def sequence(x, y, press):
    return np.array([x, y, press], dtype=np.float64).T[None]


def type_of(x, y, press=(0, 1, 1, 1)):
    return GESTURE_TYPES[gesture_types(sequence(x, y, press))[0]]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1], "click"),
        ([0.5, 0.5, 0.519, 0.5], [0.1, 0.1, 0.1, 0.119], "click"),  # below 0.02 on both axes
        ([0.5, 0.5, 0.6, 0.7], [0.1, 0.1, 0.1, 0.1], "horizontal"),
        ([0.5, 0.5, 0.6, 0.7], [0.1, 0.1, 0.11, 0.129], "horizontal"),  # 0.029 is less than 0.15 of 0.2
        ([0.5, 0.5, 0.6, 0.7], [0.1, 0.1, 0.11, 0.131], "diagonal"),
        ([0.2, 0.2, 0.2, 0.2], [0.9, 0.9, 0.5, 0.1], "vertical"),
        ([0.2, 0.2, 0.6, 0.2], [0.9, 0.9, 0.5, 0.9], "diagonal"),  # there and back: the extent counts, not the end
        ([0.0, 0.5, 0.5, 0.5], [0.9, 0.1, 0.1, 0.1], "click"),  # what moves before the press does not count
    ],
)
def test_type_goes_by_the_axes_that_move_while_pressed(x, y, expected):
    assert type_of(x, y) == expected


def test_never_pressed_is_none_and_a_soft_press_is_cut_at_a_half():
    assert type_of([0, 1, 0, 1], [0, 1, 0, 1], [0, 0.5, 0.5, 0]) == "none"
    assert type_of([0, 1, 0, 1], [0, 0, 0, 0], [0, 0.51, 0.51, 0]) == "horizontal"


def test_shares_of_generated_gestures_are_those_drawn():
    config = GestureConfig()
    gestures = draw_gestures(config, 0)
    moves = np.abs(gestures.end - gestures.start)
    clear = ((moves == 0) | ((moves > 0.03) & (moves > 0.2 * moves[:, ::-1]))).all(axis=1)
    expected = 1 + (moves[:, 0] > 0) + 2 * (moves[:, 1] > 0)
    np.testing.assert_array_equal(gesture_types(render_gestures(gestures, 250))[clear], expected[clear])
    assert clear.sum() > 0.8 * BLOCK
    assert type_shares(render_gestures(gestures, 250)).sum() == pytest.approx(1)


def test_features_worked_by_hand():
    actions = sequence([0.1, 0.1, 0.4, 0.4, 0.4, 0.9], [0.2, 0.2, 0.6, 0.6, 0.6, 0.6], [0, 1, 1, 0, 1, 0])
    features = {name: values[0] for name, values in action_features(actions).items()}
    bends = [0.3, -0.3, 0, 0.5, 0.4, -0.4, 0, 0]
    assert features == pytest.approx(
        {
            "press_time": 3 / 6,
            "duration": 4 / 6,
            "num_presses": 2,
            "onset": 1 / 6,
            "start_x": 0.1,
            "start_y": 0.2,
            "shift_x": 0.3,
            "shift_y": 0.4,
            "path_length": 0.5 + 0.5,
            "pressed_path_length": 0.5,
            "straightness": 1.0,
            "peak_speed": np.log10(0.5),
            "roughness": np.log10(np.sqrt(np.square(bends).mean())),
            "rest": 3 / 5,
        }
    )


def test_detour_is_not_straight():
    there_and_back = sequence([0.1, 0.4, 0.2, 0.2], [0, 0, 0, 0], [1, 1, 1, 0])
    assert action_features(there_and_back)["straightness"][0] == pytest.approx(0.1 / 0.5)


@pytest.mark.parametrize("length", [2, 3, 10])
@pytest.mark.parametrize("press", [0, 1])
def test_features_are_finite_where_nothing_happens(length, press):
    still = np.full((3, length, 3), 0.5)
    still[..., 2] = press
    features = action_features(still)
    assert all(np.isfinite(values).all() and values.shape == (3,) for values in features.values())
    assert features["onset"].tolist() == [0.0 if press else 1.0] * 3
    assert features["duration"].tolist() == [float(press)] * 3
    assert features["peak_speed"].tolist() == [-4.0] * 3
