"""Inversion against closed forms: a linear map, and the path of a Gaussian's exact denoiser."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler
from action_ddim.inversion import slerp, solve_fixed_point

from .gaussian import MEAN, SEQ_LEN, gaussian_pipeline, posterior_gain, posterior_mean

every_prediction_type = pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])


def actions(count=3, seed=0):
    return torch.rand(count, SEQ_LEN, 3, generator=torch.Generator().manual_seed(seed))


def invert_by_hand(clean, noise, alphas):
    """Solve the linear steps of the Gaussian's path one after another, upwards."""
    sample = alphas[0] ** 0.5 * clean + (1 - alphas[0]) ** 0.5 * noise
    for lower, alpha in itertools.pairwise(alphas):
        shrinking = ((1 - lower) / (1 - alpha)) ** 0.5
        weight = lower**0.5 - shrinking * alpha**0.5  # of the clean sample in a step
        gain = posterior_gain(alpha)
        constant = weight * (MEAN - gain * alpha**0.5 * MEAN)
        sample = (sample - constant) / (shrinking + weight * gain)
    return sample


@every_prediction_type
@pytest.mark.parametrize("num_inference_steps", [1, 4, 10, 50])
def test_latents_are_those_of_the_closed_form(prediction_type, num_inference_steps):
    pipeline, noise = gaussian_pipeline(prediction_type), torch.randn(3, SEQ_LEN, 3)
    inverted = pipeline.invert(actions(), num_inference_steps, noise=noise)
    alphas = pipeline.scheduler.alphas_cumprod.double()[pipeline.scheduler.timesteps.flip(0)].tolist()
    expected = invert_by_hand(actions().double() * 2 - 1, noise.double(), alphas)
    assert inverted.residual.shape == (3,)
    assert inverted.residual.max() <= 1e-4
    torch.testing.assert_close(inverted.latents.double(), expected, atol=2e-3 * num_inference_steps**0.5, rtol=0)


@every_prediction_type
def test_decoding_returns_what_the_denoiser_says_of_the_noised_actions(prediction_type):
    pipeline, noise = gaussian_pipeline(prediction_type), torch.randn(3, SEQ_LEN, 3)
    latents = pipeline.invert(actions(), 20, noise=noise).latents
    alpha = pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[-1]].item()
    noised = alpha**0.5 * (actions() * 2 - 1) + (1 - alpha) ** 0.5 * noise
    expected = ((posterior_mean(noised, alpha) + 1) / 2).clamp(0, 1)
    decoded = pipeline(latents=latents, num_inference_steps=20, output_type="pt").actions
    torch.testing.assert_close(decoded, expected, atol=2e-3, rtol=0)


@every_prediction_type
def test_any_network_gives_finite_latents(prediction_type):
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(16, 1, 2, 4, SEQ_LEN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = ExactDDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type)
    pipeline = ActionDDIMPipeline(denoiser.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    for num_inference_steps in (1, 10, 50):
        inverted = pipeline.invert(actions(), num_inference_steps)
        assert torch.isfinite(inverted.latents).all()
        assert not torch.isnan(inverted.residual).any()


def test_a_generator_a_sequence_makes_each_independent_of_the_batch():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    pipeline = gaussian_pipeline()
    together = pipeline.invert(actions(), 5, generator=generators(0, 1, 2)).latents
    alone = pipeline.invert(actions()[2:], 5, generator=generators(2)).latents
    torch.testing.assert_close(together[2:], alone, atol=1e-3, rtol=0)


def test_another_kind_of_scheduler_is_refused():
    pipeline = gaussian_pipeline()
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match="needs a DDIM scheduler, not DDPMScheduler"):
        pipeline.invert(actions())


def test_interpolation_starts_and_ends_at_the_decoded_actions():
    pipeline, (first, second) = gaussian_pipeline(), actions(2)
    path = pipeline.interpolate(first, second, 5, 20, generator=torch.Generator().manual_seed(0), output_type="pt").actions
    noise = torch.randn(1, SEQ_LEN, 3, generator=torch.Generator().manual_seed(0))
    latents = pipeline.invert(torch.stack([first, second]), 20, noise=noise).latents
    ends = pipeline(latents=latents, num_inference_steps=20, output_type="pt").actions
    assert path.shape == (5, SEQ_LEN, 3)
    torch.testing.assert_close(path[[0, -1]], ends, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="num_interpolations is 1"):
        pipeline.interpolate(first, second, 1)


@pytest.mark.parametrize("spread", [1.5, 20.0])
def test_fixed_point_of_a_linear_map_is_found(spread):
    """Slopes spread so widely that a plain damped iteration would take hundreds of steps."""
    slopes = torch.logspace(0, np.log10(spread), SEQ_LEN * 3, dtype=torch.float64).view(1, SEQ_LEN, 3)
    solution = torch.randn(2, SEQ_LEN, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, error = solve_fixed_point(lambda x: slopes * (solution - x), torch.zeros_like(solution), damping=2 / (1 + spread))
    assert error.max() <= 1e-4
    torch.testing.assert_close(found, solution, atol=1e-3, rtol=0)


def test_best_iterate_is_kept_where_the_iteration_diverges():
    found, error = solve_fixed_point(lambda x: 1 + x**3, torch.zeros(1, 2, 3), damping=5.0)
    assert torch.isfinite(found).all()
    assert error.item() <= 1


def test_slerp_goes_along_the_circle():
    first, second = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 0]])
    path = slerp(first, second, torch.tensor([0, 1 / 3, 1.0]))
    expected = torch.tensor([[[1, 0, 0]], [[3**0.5 / 2, 0.5, 0]], [[0, 1, 0]]])
    torch.testing.assert_close(path, expected)
    torch.testing.assert_close(slerp(first, 3 * first, torch.tensor([0.5])), torch.tensor([[[2.0, 0, 0]]]))
