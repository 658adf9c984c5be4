"""Filling in: what is known comes back bit for bit, and the denoiser sees it clean."""

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DPMSolverMultistepScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.masks import build_mask

from .gaussian import make_scheduler

SEQ_LEN = 20


class Recorder(ModelMixin, ConfigMixin):
    """Always predicts 0, and remembers what it is shown."""

    @register_to_config
    def __init__(self, seq_len: int = SEQ_LEN, in_channels: int = 3, mask_conditioning: bool = True):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.0))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, sample, timestep, known_mask, return_dict=True):
        self.seen.append((sample, known_mask))
        return (sample * self.scale,)


def make_pipeline(denoiser) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline(denoiser.eval(), make_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def transformer(mask_conditioning: bool = True) -> ActionTransformer1DModel:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(
        d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=SEQ_LEN, mask_conditioning=mask_conditioning
    )
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


def test_denoiser_sees_known_entries_clean_at_every_step():
    pipeline = make_pipeline(Recorder())
    known, mask = torch.from_numpy(draw_known(2)), torch.from_numpy(build_mask(SEQ_LEN, start=True, prefix=3, press=True))
    latents = torch.randn(2, SEQ_LEN, 3, generator=seeded())
    pipeline(latents=latents, known=known, mask=mask, num_inference_steps=4)
    assert len(pipeline.denoiser.seen) == 4
    for step, (sample, known_mask) in enumerate(pipeline.denoiser.seen):
        assert torch.equal(known_mask, mask.expand(2, -1, -1))
        torch.testing.assert_close(sample[:, mask], 2 * known[:, mask] - 1)
        if step == 0:
            torch.testing.assert_close(sample[:, ~mask], latents[:, ~mask])


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


def test_denoiser_that_was_not_trained_to_fill_in_is_refused():
    pipeline = make_pipeline(transformer(mask_conditioning=False))
    with pytest.raises(ValueError, match="cannot fill in"):
        pipeline(known=draw_known(), mask=MASK)
