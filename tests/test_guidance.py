"""Guidance against the closed form of a Gaussian's denoiser."""

import numpy as np
import pytest
import torch

from action_ddim.guidance import MIN_ALPHA_BAR, guide, predict_clean

from .gaussian import SEQ_LEN, VARIANCE, gaussian_pipeline, posterior_mean

every_prediction_type = pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])


def distance_to_corner(actions):
    return actions[..., :2].square().sum(dim=(1, 2))


@every_prediction_type
def test_clean_actions_move_by_covariance_times_gradient(prediction_type):
    pipeline, scale = gaussian_pipeline(prediction_type), 0.3
    sample = torch.randn(2, SEQ_LEN, 3)
    alpha = pipeline.scheduler.alphas_cumprod[499].item()
    output = guide(lambda x: pipeline.denoiser(x, 499), sample, distance_to_corner, scale, alpha, prediction_type)
    clean = posterior_mean(sample, alpha)
    covariance = VARIANCE * (1 - alpha) / (alpha * VARIANCE + 1 - alpha)
    gradient = (clean + 1) / 2  # of ((clean + 1) / 2)^2 in model space
    gradient[..., 2] = 0
    expected = clean - scale * covariance * gradient
    torch.testing.assert_close(predict_clean(output, sample, alpha, prediction_type), expected, atol=1e-5, rtol=1e-5)


@every_prediction_type
def test_weight_zero_is_plain_ddim_bit_for_bit(prediction_type):
    pipeline, latents = gaussian_pipeline(prediction_type), torch.randn(2, SEQ_LEN, 3)
    plain = pipeline(latents=latents, output_type="pt").actions
    guided = pipeline(latents=latents, cost=distance_to_corner, guidance_scale=0.0, output_type="pt").actions
    assert torch.equal(plain, guided)


def test_guided_actions_cost_less_and_known_entries_stay():
    pipeline, latents = gaussian_pipeline(), torch.randn(2, SEQ_LEN, 3)
    costs = [
        distance_to_corner(pipeline(latents=latents, cost=distance_to_corner, guidance_scale=scale, output_type="pt").actions)
        for scale in (0.0, 0.5, 2.0)
    ]
    assert (costs[0] > costs[1]).all()
    assert (costs[1] > costs[2]).all()
    known, mask = np.full((SEQ_LEN, 3), 0.75, np.float32), np.zeros((SEQ_LEN, 3), bool)
    mask[0] = True
    seen = []

    def cost(actions):
        seen.append(actions.detach()[:, 0].clone())
        return distance_to_corner(actions)

    filled = pipeline(latents=latents, known=known, mask=mask, cost=cost).actions
    assert (filled[:, 0] == 0.75).all()
    assert all((values == 0.75).all() for values in seen)


def test_no_guidance_where_the_sample_says_nothing():
    pipeline, sample = gaussian_pipeline(), torch.randn(2, SEQ_LEN, 3)
    output = guide(lambda x: pipeline.denoiser(x, 999), sample, distance_to_corner, 1.0, MIN_ALPHA_BAR / 2, "sample")
    assert torch.equal(output, pipeline.denoiser(sample, 999)[0])


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda actions: actions.sum(), r"the shape \(\), not a tensor \(1,\)"),
        (lambda actions: 1.0, "a float, not a tensor"),
        (lambda actions: torch.zeros(len(actions)), "does not depend on the actions"),
    ],
)
def test_cost_that_cannot_guide_is_refused(cost, message):
    with pytest.raises(ValueError, match=message):
        gaussian_pipeline()(cost=cost)
