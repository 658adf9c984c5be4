"""Filling in: what is known comes back bit for bit, and what is predicted around it is fitted to it."""

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DPMSolverMultistepScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.actions import PRESS
from action_ddim.inpainting import Known, build_mask, interpolate
from tests.gaussian import make_scheduler, output_of

SEQ_LEN = 20


class Fixed(ModelMixin, ConfigMixin):
    """Holds the same actions, `(L, 3)` in model space, for the clean ones whatever it sees, in any prediction type."""

    @register_to_config
    def __init__(self, clean: list, prediction_type: str = "sample", seq_len: int = SEQ_LEN, in_channels: int = 3):
        super().__init__()
        self.held = torch.nn.Parameter(torch.tensor(clean), requires_grad=False)
        self.alphas_cumprod = make_scheduler().alphas_cumprod

    def forward(self, sample, timestep, return_dict=True):
        alpha = self.alphas_cumprod[int(timestep)]
        return (output_of(self.held.expand_as(sample), sample, alpha, self.config.prediction_type),)


def make_pipeline(denoiser, prediction_type: str = "sample") -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline(denoiser.eval(), make_scheduler(prediction_type))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def transformer() -> ActionTransformer1DModel:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=SEQ_LEN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


@pytest.fixture
def pipeline() -> ActionDDIMPipeline:
    return make_pipeline(transformer())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_known(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random((*shape, SEQ_LEN, 3), dtype=np.float32)


@pytest.mark.parametrize("output_type", ["np", "pt"])
@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler])
def test_known_entries_come_back_bit_for_bit(pipeline, output_type, scheduler):
    if scheduler:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    known, mask = draw_known(4), np.random.default_rng(1).random((4, SEQ_LEN, 3)) < 0.3
    filled = np.asarray(pipeline(known=known, mask=mask, generator=seeded(), output_type=output_type).actions)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[mask].view(np.int32), known[mask].view(np.int32))
    assert not np.isclose(filled[~mask], known[~mask]).all()
    assert ((filled >= 0) & (filled <= 1)).all()


@pytest.mark.parametrize("output_type", ["np", "pt"])
def test_half_precision_costs_known_entries_no_bits(pipeline, output_type):
    pipeline.to(torch.bfloat16)
    known, mask = draw_known(1), build_mask(SEQ_LEN, prefix=10)
    filled = np.asarray(pipeline(known=known, mask=mask, generator=seeded(), output_type=output_type).actions)
    np.testing.assert_array_equal(filled[:, mask], known[:, mask])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_one_known_action_is_filled_in_many_ways(pipeline, eta):
    known, mask = draw_known(), build_mask(SEQ_LEN, start=True, end=True, press=True)
    filled = pipeline(5, known=known, mask=mask, eta=eta, generator=seeded()).actions
    assert filled.shape == (5, SEQ_LEN, 3)
    for actions in filled:
        np.testing.assert_array_equal(actions[mask], known[mask])
    assert not np.allclose(filled[0], filled[1])


def test_known_actions_and_latents_give_the_number_of_sequences(pipeline):
    mask = build_mask(SEQ_LEN, prefix=5)
    assert pipeline(known=draw_known(3), mask=mask).actions.shape == (3, SEQ_LEN, 3)
    latents = torch.randn(2, SEQ_LEN, 3, generator=seeded())
    filled = pipeline(latents=latents, known=draw_known(), mask=mask, output_type="pt").actions
    assert filled.shape == (2, SEQ_LEN, 3)
    alone = pipeline(latents=latents[1:], known=draw_known(), mask=mask, output_type="pt").actions
    torch.testing.assert_close(filled[1:], alone)


def test_what_is_not_known_is_not_looked_at(pipeline):
    known, mask = draw_known(2), build_mask(SEQ_LEN, waypoints=[3, 7])
    plain = pipeline(known=known, mask=mask, generator=seeded()).actions
    known[:, ~mask] = np.nan
    np.testing.assert_array_equal(pipeline(known=known, mask=mask, generator=seeded()).actions, plain)


def test_mask_changes_what_is_generated(pipeline):
    known, latents = draw_known(1), torch.randn(1, SEQ_LEN, 3, generator=seeded())
    mask = build_mask(SEQ_LEN, prefix=5)
    drawn = pipeline(latents=latents, output_type="pt").actions
    filled = pipeline(latents=latents, known=known, mask=mask, output_type="pt").actions
    assert not np.allclose(filled[:, 5:], drawn[:, 5:])


# A pointer that rests, goes right by a tenth of the screen a step, rests, and goes down as fast; pressed on its first way.
REST_RIGHT_REST_DOWN = np.array(
    [*([0.2 + 0.1 * min(max(t - 3, 0), 4), 0.3 + 0.1 * max(t - 12, 0), float(3 <= t <= 7)] for t in range(SEQ_LEN - 4))]
    + [[0.6, 0.6, 0.0]] * 4,
    dtype=np.float32,
)


def test_known_places_shift_rests_and_stretch_strokes():
    """Start 0.1 further right, end 0.1 further down and 0.05 to the left: of a way of 0.7, 0.4 are behind after going right."""
    actions = torch.from_numpy(REST_RIGHT_REST_DOWN)
    known = torch.zeros(1, SEQ_LEN, 3)
    known[0, 0, :2], known[0, -1, :2] = torch.tensor([0.3, 0.3]), torch.tensor([0.55, 0.7])
    completed = Known(known, torch.from_numpy(build_mask(SEQ_LEN, start=True, end=True))[None]).complete(2 * actions[None] - 1)
    found, actions = ((completed[0] + 1) / 2).numpy(), actions.numpy()
    share = np.array([0] * 4 + [1, 2, 3] + [4] * 6 + [5, 6] + [7] * 5) / 7
    np.testing.assert_allclose(found[:, 0], actions[:, 0] + 0.1 - 0.15 * share, atol=1e-3)
    np.testing.assert_allclose(found[:, 1], actions[:, 1] + 0.1 * share, atol=1e-3)
    np.testing.assert_array_equal(found[:, 2], actions[:, 2])


def test_known_press_changes_its_own_steps_only():
    clean, mask = 2 * torch.from_numpy(REST_RIGHT_REST_DOWN)[None] - 1, torch.zeros(1, SEQ_LEN, 3, dtype=torch.bool)
    mask[0, [0, 10], PRESS] = True
    completed = Known(torch.ones(1, SEQ_LEN, 3), mask).complete(clean)
    np.testing.assert_array_equal(completed[mask].numpy(), [1.0, 1.0])
    np.testing.assert_array_equal(completed[~mask].numpy(), clean[~mask].numpy())


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_interpolation_is_that_of_numpy(share):
    rng = np.random.default_rng(0)
    values, known = rng.standard_normal((6, SEQ_LEN, 3)), rng.random((6, SEQ_LEN, 3)) < share
    known[:3, 5] = True
    way = rng.random((6, SEQ_LEN)).cumsum(axis=1)
    found = interpolate(*map(torch.from_numpy, (np.where(known, values, 0), known, way[..., None]))).numpy()
    for sequence, channel in np.ndindex(6, 3):
        at = known[sequence, :, channel]
        expected = np.interp(way[sequence], way[sequence, at], values[sequence, at, channel]) if at.any() else 0
        np.testing.assert_allclose(found[sequence, :, channel], expected, atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_pipeline_fits_what_the_denoiser_predicts_to_what_is_known(prediction_type):
    denoiser = Fixed((2 * REST_RIGHT_REST_DOWN - 1).tolist(), prediction_type)
    known, mask = draw_known(), build_mask(SEQ_LEN, start=True, waypoints=[9], press=True)
    filled = make_pipeline(denoiser, prediction_type)(3, known=known, mask=mask, generator=seeded(), output_type="pt").actions
    fitted = Known(torch.from_numpy(known)[None], torch.from_numpy(mask)[None]).complete(denoiser.held[None])
    torch.testing.assert_close(filled, ((fitted + 1) / 2).clamp(0, 1).expand(3, -1, -1), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(filled[:, mask], np.tile(known[mask], (3, 1)))


MASK = build_mask(SEQ_LEN, start=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"known": draw_known(1)}, "known and mask go together"),
        ({"mask": MASK}, "known and mask go together"),
        ({"known": draw_known(1), "mask": MASK.astype(float)}, "mask holds torch.float64, not booleans"),
        ({"known": draw_known(1), "mask": MASK[1:]}, "mask has the shape"),
        ({"known": draw_known(1)[:, 1:], "mask": MASK[1:] | True}, "known actions have the shape"),
        ({"known": draw_known(1), "mask": MASK & False}, "mask is False throughout"),
        ({"known": draw_known(1) + 1, "mask": MASK}, "known actions lie outside"),
        ({"known": draw_known(1) * np.nan, "mask": MASK}, "known actions lie outside"),
        ({"known": draw_known(2), "mask": MASK, "num_sequences": 3}, "2 known actions were given for 3 sequences"),
        ({"known": draw_known(2), "mask": MASK, "latents": torch.zeros(3, SEQ_LEN, 3)}, "2 known actions were given for 3"),
    ],
)
def test_bad_arguments_are_named(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**arguments)


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


def test_reconstruction_keeps_what_is_known(pipeline):
    actions, known = draw_known(3), draw_known(1)[0]
    mask = build_mask(SEQ_LEN, start=True, waypoints=[7], press=True)
    filled = pipeline.reconstruct(actions, 0.5, 4, seeded(), known=known, mask=mask).actions
    assert (filled[:, mask] == known[mask]).all()
    with pytest.raises(ValueError, match="2 known actions were given for 3"):
        pipeline.reconstruct(actions, 0.5, 4, seeded(), known=known[None].repeat(2, 0), mask=mask)
