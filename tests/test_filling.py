"""Filling in: known entries come back as they were, and the network sees them clean."""

import numpy as np
import pytest
import torch

from action_ddim.masks import build_mask

from .gaussian import SEQ_LEN, gaussian_pipeline

MASK = build_mask(SEQ_LEN, start=True, waypoints=[3], press=True)


def known_actions(count=3):
    actions = np.random.default_rng(0).random((count, SEQ_LEN, 3), dtype=np.float32)
    actions[..., 2] = actions[..., 2] > 0.5
    return actions


@pytest.mark.parametrize("output_type", ["np", "pt"])
def test_known_entries_come_back_bit_for_bit(output_type):
    known = known_actions()
    filled = np.asarray(gaussian_pipeline()(known=known, mask=MASK, output_type=output_type).actions)
    assert filled.shape == known.shape
    np.testing.assert_array_equal(filled[:, MASK], known[:, MASK])
    assert not np.isclose(filled[:, ~MASK], known[:, ~MASK]).any()


def test_one_known_action_is_filled_in_many_ways():
    known = known_actions(1)[0]
    filled = gaussian_pipeline()(4, known=known, mask=MASK, eta=1.0).actions
    np.testing.assert_array_equal(filled[:, MASK], np.broadcast_to(known[MASK], (4, MASK.sum())))
    assert len(np.unique(filled[:, 1, 0])) == 4


def test_latents_set_what_is_generated():
    latents = torch.randn(3, SEQ_LEN, 3)
    draws = [gaussian_pipeline()(latents=latents, known=known_actions(), mask=MASK).actions for _ in range(2)]
    np.testing.assert_array_equal(*draws)


def test_what_is_not_known_is_not_looked_at():
    known = known_actions()
    spoiled = np.where(MASK, known, np.nan)
    first, second = (
        gaussian_pipeline()(known=values, mask=MASK, generator=torch.Generator().manual_seed(0)).actions
        for values in (known, spoiled.astype(np.float32))
    )
    np.testing.assert_array_equal(first, second)


def test_network_sees_known_entries_clean_at_every_step():
    pipeline, known = gaussian_pipeline(), known_actions()
    pipeline(known=known, mask=MASK, num_inference_steps=5)
    assert len(pipeline.denoiser.shown) == 5
    for sample, mask in pipeline.denoiser.shown:
        np.testing.assert_array_equal(sample.numpy()[:, MASK], known[:, MASK] * 2 - 1)
        assert torch.equal(mask, torch.from_numpy(MASK).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"known": known_actions()}, "known and mask go together"),
        ({"mask": MASK}, "known and mask go together"),
        ({"known": known_actions(), "mask": MASK.astype(int)}, "not booleans"),
        ({"known": known_actions(), "mask": MASK[:-1]}, "does not fit"),
        ({"known": known_actions(), "mask": np.zeros_like(MASK)}, "False throughout"),
        ({"known": known_actions() + 1, "mask": MASK}, "outside \\[0, 1\\]"),
        ({"known": known_actions() * np.nan, "mask": MASK}, "outside \\[0, 1\\]"),
        ({"known": known_actions(), "mask": MASK, "num_sequences": 2}, "3 known actions were given for 2"),
        ({"known": known_actions(), "mask": MASK, "latents": torch.zeros(2, SEQ_LEN, 3)}, "3 known actions were given for 2"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_pipeline()(**arguments)


def test_denoiser_that_was_not_trained_for_it_is_refused():
    with pytest.raises(ValueError, match="--known_probability"):
        gaussian_pipeline(mask_conditioning=False)(known=known_actions(), mask=MASK)
