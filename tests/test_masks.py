import numpy as np
import pytest
import torch

from action_ddim.masks import (
    END_SHARE,
    MEAN_WAYPOINTS,
    PREFIX_SHARE,
    PRESS_SHARE,
    START_SHARE,
    WAYPOINTS_SHARE,
    build_mask,
    draw_masks,
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"start": True}, ["xy.", "...", "...", "..."]),
        ({"end": True}, ["...", "...", "...", "xy."]),
        ({"waypoints": [1, -2]}, ["...", "xy.", "xy.", "..."]),
        ({"prefix": 2}, ["xyp", "xyp", "...", "..."]),
        ({"press": True}, ["..p", "..p", "..p", "..p"]),
        ({"start": True, "prefix": 1, "end": True, "press": True}, ["xyp", "..p", "..p", "xyp"]),
    ],
)
def test_words_say_what_is_known(words, expected):
    mask = build_mask(4, **words)
    assert mask.dtype == bool
    assert ["".join(name if known else "." for name, known in zip("xyp", row, strict=True)) for row in mask] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "nothing is known"),
        ({"waypoints": [1, 4]}, "waypoint 4 lies outside the 4 steps"),
        ({"waypoints": [-5]}, "waypoint -5 lies outside"),
        ({"prefix": 5}, "prefix is 5"),
        ({"prefix": -1}, "prefix is -1"),
    ],
)
def test_words_that_fit_no_action_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        build_mask(4, **words)


def test_drawn_masks_hold_each_word_as_often_as_they_say():
    num_sequences, seq_len = 20_000, 12
    masks = draw_masks(num_sequences, seq_len, 0.6, torch.Generator().manual_seed(0)).numpy()
    assert masks.dtype == bool
    assert masks.shape == (num_sequences, seq_len, 3)
    np.testing.assert_array_equal(masks[..., 0], masks[..., 1])  # a place is known whole

    def holds(share: np.ndarray, expected: float):
        assert abs(share.mean() - 0.6 * expected) < 5 * (0.25 / num_sequences) ** 0.5

    passed = WAYPOINTS_SHARE * MEAN_WAYPOINTS / seq_len
    place, press = masks[..., 0], masks[..., 2]
    no_waypoint = 1 - WAYPOINTS_SHARE * (1 - (1 - MEAN_WAYPOINTS / seq_len) ** seq_len)
    nothing = (1 - START_SHARE) * (1 - END_SHARE) * (1 - PREFIX_SHARE) * (1 - PRESS_SHARE) * no_waypoint
    holds(masks.any(axis=(1, 2)), 1 - nothing)
    holds(place[:, 0], 1 - (1 - START_SHARE) * (1 - PREFIX_SHARE) * (1 - passed))
    # A prefix of a uniform length reaches past the first half of the time in half of the cases.
    holds(place[:, 6], 1 - (1 - PREFIX_SHARE * 0.5) * (1 - passed))
    holds(press[:, 0], 1 - (1 - PRESS_SHARE) * (1 - PREFIX_SHARE))
    holds(press.all(axis=1), 1 - (1 - PRESS_SHARE) * (1 - PREFIX_SHARE / seq_len))
    holds(place[:, -1], 1 - (1 - END_SHARE) * (1 - PREFIX_SHARE / seq_len) * (1 - passed))


def test_drawn_masks_follow_their_generator_and_probability():
    first, again, other = (draw_masks(50, 8, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not draw_masks(200, 8, 0.0, torch.Generator().manual_seed(0)).any()
