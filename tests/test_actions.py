"""The array contract: scaling to and from model space, and what counts as a valid row."""

import numpy as np
import pytest
import torch

from action_ddim.actions import find_invalid, from_model_space, threshold_press, to_model_space

both_kinds = pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["numpy", "torch"])


@both_kinds
def test_model_space_is_minus_one_to_one_and_back(make):
    actions = make([[[0.0, 0.25, 1.0]]])
    sample = to_model_space(actions)
    assert type(sample) is type(actions)
    assert sample.tolist() == [[[-1.0, -0.5, 1.0]]]
    assert from_model_space(sample).tolist() == actions.tolist()


@both_kinds
def test_from_model_space_clamps_and_keeps_the_press_soft(make):
    assert from_model_space(make([[-3.0, 3.0, 0.2]])).tolist() == [[0.0, 1.0, pytest.approx(0.6)]]


def test_threshold_press_cuts_at_a_half_in_a_copy():
    soft = np.array([[0.3, 0.6, 0.49], [0.3, 0.6, 0.5], [0.3, 0.6, 0.51]], dtype=np.float32)
    before = soft.copy()
    assert threshold_press(soft)[:, 2].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(threshold_press(soft)[:, :2], before[:, :2])
    np.testing.assert_array_equal(soft, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, bool])
def test_find_invalid_accepts_the_borders_in_any_real_type(dtype):
    assert find_invalid(np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]], dtype=dtype)) is None


@pytest.mark.parametrize(
    ("channel", "value", "fault"),
    [
        (0, np.nan, "x is nan"),
        (1, np.inf, "y is inf"),
        (2, -np.inf, "press is -inf"),
        (2, np.nan, "press is nan"),
        (0, -0.25, "x is -0.25, outside"),
        (1, 1.5, "y is 1.5, outside"),
        (2, 0.5, "press is 0.5, not 0 or 1"),
        (2, -1, "press is -1.0, not 0 or 1"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_find_invalid_names_the_first_bad_row_and_its_channel(channel, value, fault, dtype):
    rows = np.full((9, 3), [0.5, 0.5, 1], dtype=dtype)
    rows[4, channel] = value
    rows[7] = np.nan
    row, message = find_invalid(rows)
    assert row == 4
    assert message.startswith(fault)


def test_find_invalid_reads_integers():
    assert find_invalid(np.array([[0, 1, 0], [0, 2, 0]])) == (1, "y is 2, outside [0, 1] of the screen")
