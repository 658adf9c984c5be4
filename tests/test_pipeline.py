import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler
from action_ddim.actions import to_model_space

SEQ_LEN = 20
GOAL = 0.25  # what the oracle below says is clean, in model space


class Oracle(ModelMixin, ConfigMixin):
    """Always predicts the same clean actions, whatever the noise."""

    @register_to_config
    def __init__(self, seq_len: int = SEQ_LEN, in_channels: int = 3):
        super().__init__()
        self.goal = torch.nn.Parameter(torch.tensor(GOAL))

    def forward(self, sample, timestep, return_dict=True):
        return (torch.full_like(sample, self.goal.item()),)


def scheduler(**config) -> ExactDDIMScheduler:
    return ExactDDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing", **config
    )


@pytest.fixture
def oracle_pipeline() -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline(Oracle(), scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline() -> ActionDDIMPipeline:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=SEQ_LEN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pipeline = ActionDDIMPipeline(denoiser.eval(), scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_inference_steps", [1, 2, 7, 10, 1000])
def test_sampling_ends_at_what_the_denoiser_says(oracle_pipeline, num_inference_steps):
    actions = oracle_pipeline(2, num_inference_steps, output_type="pt").actions
    torch.testing.assert_close(actions, torch.full((2, SEQ_LEN, 3), (GOAL + 1) / 2))


@pytest.mark.parametrize("strength", [0.001, 0.3, 0.5, 1.0])
def test_reconstruction_ends_at_what_the_denoiser_says(oracle_pipeline, strength):
    actions = oracle_pipeline.reconstruct(np.zeros((2, SEQ_LEN, 3), np.float32), strength, output_type="pt").actions
    torch.testing.assert_close(actions, torch.full((2, SEQ_LEN, 3), (GOAL + 1) / 2))


def test_numpy_output_has_a_hard_press_and_tensors_a_soft_one(oracle_pipeline):
    soft = oracle_pipeline(1, output_type="pt").actions
    hard = oracle_pipeline(1, output_type="np").actions
    assert hard.dtype == np.float32
    np.testing.assert_allclose(hard[..., :2], soft[..., :2].numpy(), rtol=1e-6)
    assert soft[..., 2].unique().item() == pytest.approx((GOAL + 1) / 2)
    assert set(hard[..., 2].ravel().tolist()) == {1.0}


def test_ten_steps_are_those_of_stock_ddim(pipeline):
    """Where the stock scheduler is right, trailing spacing with S dividing T, its loop gives the same actions."""
    latents = torch.randn(3, SEQ_LEN, 3, generator=seeded())
    stock = DDIMScheduler.from_config(pipeline.scheduler.config)
    stock.set_timesteps(10)
    sample = latents
    with torch.no_grad():
        for timestep in stock.timesteps:
            sample = stock.step(pipeline.denoiser(sample, timestep).sample, timestep, sample).prev_sample
    expected = ((sample + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(pipeline(latents=latents, output_type="pt").actions, expected)


def test_reconstruction_starts_from_the_noised_actions(pipeline):
    """At five steps from half the schedule: noise to t = 499, then the stock steps from there."""
    actions = torch.rand(3, SEQ_LEN, 3, generator=seeded(1))
    noise = torch.randn(3, SEQ_LEN, 3, generator=seeded(2))
    stock = DDIMScheduler.from_config(pipeline.scheduler.config)
    stock.set_timesteps(10)
    sample = stock.add_noise(to_model_space(actions), noise, torch.tensor([499]))
    with torch.no_grad():
        for timestep in (499, 399, 299, 199, 99):
            sample = stock.step(pipeline.denoiser(sample, timestep).sample, timestep, sample).prev_sample
    expected = ((sample + 1) / 2).clamp(0, 1)
    result = pipeline.reconstruct(actions, strength=0.5, num_inference_steps=10, generator=seeded(2), output_type="pt")
    torch.testing.assert_close(result.actions, expected)


@pytest.mark.parametrize(
    ("strength", "num_inference_steps", "expected"),
    [
        (1.0, 4, [999, 749, 499, 249]),
        (0.5, 10, [499, 399, 299, 199, 99]),
        (0.5, 7, [499, 374, 249, 124]),
        (0.5, 1, [499]),
        (0.001, 1000, [0]),
    ],
)
def test_strength_alone_sets_the_noise(pipeline, strength, num_inference_steps, expected):
    assert pipeline.timesteps_below(strength, num_inference_steps) == expected


def test_generators_make_draws_repeatable(pipeline):
    draw = pipeline(3, generator=seeded()).actions
    np.testing.assert_array_equal(draw, pipeline(3, generator=seeded()).actions)
    assert not np.array_equal(draw, pipeline(3, generator=seeded(1)).actions)


def test_a_generator_a_sequence_makes_each_independent_of_the_batch(pipeline):
    together = pipeline(3, generator=[seeded(i) for i in range(3)], output_type="pt").actions
    alone = pipeline(1, generator=[seeded(2)], output_type="pt").actions
    torch.testing.assert_close(together[2:], alone)


def test_eta_adds_noise_that_the_generator_sets(pipeline):
    latents = torch.randn(2, SEQ_LEN, 3, generator=seeded())
    plain = pipeline(latents=latents, output_type="pt").actions
    noisy = pipeline(latents=latents, eta=1.0, generator=seeded(), output_type="pt").actions
    assert not torch.allclose(plain, noisy)
    torch.testing.assert_close(noisy, pipeline(latents=latents, eta=1.0, generator=seeded(), output_type="pt").actions)


def test_latents_give_the_number_of_sequences(pipeline):
    assert pipeline(latents=torch.randn(4, SEQ_LEN, 3)).actions.shape == (4, SEQ_LEN, 3)


def test_tuple_is_the_actions(pipeline):
    assert len(pipeline(2, return_dict=False)) == 1
    assert pipeline.reconstruct(np.zeros((1, SEQ_LEN, 3)), return_dict=False)[0].shape == (1, SEQ_LEN, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(0), "num_sequences is 0"),
        (lambda p: p(1, 0), "num_inference_steps is 0"),
        (lambda p: p(1, 1001), "num_inference_steps is 1001"),
        (lambda p: p(1, eta=1.5), "eta is 1.5"),
        (lambda p: p(1, output_type="pil"), "output_type is 'pil'"),
        (lambda p: p(2, generator=[seeded()]), "1 generators were given for 2"),
        (lambda p: p(latents=torch.zeros(1, SEQ_LEN + 1, 3)), "latents have the shape"),
        (
            lambda p: p(latents=torch.zeros(2, SEQ_LEN, 3), eta=1, generator=[seeded(), seeded(), seeded()]),
            "3 generators were given for 2",
        ),
        (lambda p: p.reconstruct(np.zeros((SEQ_LEN, 3))), "actions have the shape"),
        (lambda p: p.reconstruct(np.zeros((0, SEQ_LEN, 3))), "actions have the shape"),
        (lambda p: p.reconstruct(np.full((1, SEQ_LEN, 3), np.nan)), "actions hold"),
        (lambda p: p.reconstruct(np.full((1, SEQ_LEN, 3), 640)), "from 640 to 640; give x and y in shares of the screen"),
        (lambda p: p.denoise(np.full((1, SEQ_LEN, 3), -5.0)), "from -5 to -5; give x and y in shares of the screen"),
        (lambda p: p.invert(np.full((1, SEQ_LEN, 3), 640.0)), "from 640 to 640; give x and y in shares of the screen"),
        (lambda p: p.reconstruct(np.zeros((1, SEQ_LEN, 3)), strength=0), "strength is 0"),
        (lambda p: p.reconstruct(np.zeros((1, SEQ_LEN, 3)), strength=1.1), "strength is 1.1"),
    ],
)
def test_bad_arguments_are_named(pipeline, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipeline)


@pytest.mark.slow
def test_from_pretrained_gives_the_same_samples_in_a_fresh_process(pipeline, tmp_path, python):
    pipeline.save_pretrained(tmp_path / "pipeline")
    np.save(tmp_path / "expected.npy", pipeline(3, generator=seeded()).actions)
    script = """
import numpy as np, torch
from action_ddim import ActionDDIMPipeline
pipeline = ActionDDIMPipeline.from_pretrained("pipeline")
assert type(pipeline.scheduler).__name__ == "ExactDDIMScheduler"
actions = pipeline(3, generator=torch.Generator().manual_seed(0)).actions
np.testing.assert_array_equal(actions, np.load("expected.npy"))
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
