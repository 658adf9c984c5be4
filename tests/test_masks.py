import numpy as np
import pytest
import torch

from action_ddim.masks import build_mask, draw_masks


def draw(count, probability, seed=0):
    return draw_masks(count, 20, probability, torch.Generator().manual_seed(seed))


def test_words_worked_by_hand():
    mask = build_mask(6, start=True, end=True, waypoints=[2, -2])
    assert mask[:, 0].tolist() == mask[:, 1].tolist() == [True, False, True, False, True, True]
    assert not mask[:, 2].any()
    np.testing.assert_array_equal(build_mask(4, prefix=2), [[True] * 3, [True] * 3, [False] * 3, [False] * 3])
    np.testing.assert_array_equal(build_mask(2, press=True), [[False, False, True]] * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [({}, "nothing is known"), ({"waypoints": [6]}, "waypoint 6"), ({"waypoints": [-7]}, "waypoint -7"), ({"prefix": 7}, "7")],
)
def test_words_that_make_no_mask_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        build_mask(6, **words)


def test_share_of_masks_that_know_something():
    assert not draw(100, 0.0).any()
    some = draw(4000, 0.5).any(dim=(1, 2)).double().mean().item()
    # A mask is empty where no word fell on it, or a beginning of no steps or no waypoint came of it.
    assert 0.5 * 0.8 < some < 0.5


def test_every_word_is_drawn():
    masks = draw(4000, 1.0)
    place, press = masks[..., 0], masks[..., 2]
    assert torch.equal(place, masks[..., 1])
    ends_only = place[:, [0, -1]].all(dim=1) & (place.sum(dim=1) == 2) & ~press.any(dim=1)
    press_only = press.all(dim=1) & ~place.any(dim=1)
    beginning = (place[:, :10] & press[:, :10]).all(dim=1) & ~press[:, -1]
    waypoints = place[:, 3:17].any(dim=1) & ~press.any(dim=1)
    for word in (ends_only, press_only, beginning, waypoints):
        assert 0.01 < word.double().mean() < 0.5


def test_draw_is_a_function_of_the_generator():
    assert torch.equal(draw(10, 0.7), draw(10, 0.7))
    assert not torch.equal(draw(10, 0.7), draw(10, 0.7, seed=1))
