"""Guidance against Gaussian data, where the posterior covariance is known."""

import numpy as np
import pytest
import torch

from action_ddim.guidance import MIN_ALPHA_BAR, guide
from action_ddim.inpainting import Known
from action_ddim.prediction import output_for, predict_clean
from tests import gaussian

PREDICTION_TYPES = ("sample", "epsilon", "v_prediction")
every_prediction_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
CENTRE = 0.5


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def end_right(actions: torch.Tensor) -> torch.Tensor:
    """Cost of ending left of the right edge of the screen."""
    return (actions[:, -1, 0] - 1).square()


def guided_clean(prediction_type: str, timestep: int, cost, scale: float, known: Known | None = None):
    """Return a noisy sample, and the clean samples predicted from it without and with guidance."""
    denoiser = gaussian.PosteriorMean(prediction_type)
    alpha = denoiser.alphas[timestep].item()
    sample = torch.randn(3, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())

    def denoise(noisy):
        return denoiser(noisy, timestep)

    plain = predict_clean(denoise(sample)[0], sample, alpha, prediction_type)
    (output,) = guide(denoise, sample, cost, scale, alpha, prediction_type, known)
    assert not output.requires_grad
    return plain, predict_clean(output, sample, alpha, prediction_type), alpha


@every_prediction_type
@pytest.mark.parametrize("timestep", [50, 400, 900])
def test_clean_actions_move_by_the_posterior_covariance_times_the_gradient(prediction_type, timestep):
    gradient = np.random.default_rng(2).standard_normal(gaussian.SIZE)
    weights = torch.from_numpy(gradient).view(gaussian.SEQ_LEN, 3)
    plain, guided, alpha = guided_clean(prediction_type, timestep, lambda actions: (weights * actions).sum((1, 2)), 3.0)
    variances, directions = gaussian.data_covariance()
    # Of the actions in [0, 1], which spread half as far as the samples in [-1, 1].
    posterior = directions * ((1 - alpha) * variances / (alpha * variances + 1 - alpha) / 4) @ directions.T
    moved = (guided - plain).flatten(1).numpy() / 2
    np.testing.assert_allclose(moved, np.tile(-3.0 * posterior @ gradient, (3, 1)), rtol=1e-6, atol=1e-12)


@every_prediction_type
def test_each_sequence_is_guided_by_its_own_cost(prediction_type):
    wanted = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    plain, guided, _ = guided_clean(prediction_type, 400, lambda actions: (actions[:, 0, 0] - wanted).square(), 1.0)
    goal = 2 * wanted - 1
    assert ((guided[:, 0, 0] - goal).abs() < (plain[:, 0, 0] - goal).abs()).all()


@every_prediction_type
def test_output_for_is_predict_clean_the_other_way(prediction_type):
    clean, sample = torch.randn(2, 3, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())
    output = output_for(clean, sample, 0.3, prediction_type)
    torch.testing.assert_close(predict_clean(output, sample, 0.3, prediction_type), clean)
    torch.testing.assert_close(output, gaussian.output_of(clean, sample, 0.3, prediction_type))


def test_cost_sees_what_is_known():
    known = Known(torch.full((1, gaussian.SEQ_LEN, 3), 0.9, dtype=torch.float64), torch.zeros(1, gaussian.SEQ_LEN, 3).bool())
    known.mask[:, 0] = True
    seen = []

    def cost(actions):
        seen.append(actions.detach())
        return actions.sum((1, 2))

    guided_clean("sample", 400, cost, 1.0, known)
    assert (seen[0][:, 0] == 0.9).all()
    assert (seen[0][:, 1:] != 0.9).all()


def test_prediction_types_agree_along_the_whole_path():
    latents = torch.randn(4, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())
    arguments = {"latents": latents, "num_inference_steps": 25, "output_type": "pt"}
    guided = [gaussian.make_pipeline(t)(**arguments, cost=end_right, guidance_scale=20.0).actions for t in PREDICTION_TYPES]
    plain = gaussian.make_pipeline()(**arguments).actions
    torch.testing.assert_close(guided[1], guided[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(guided[2], guided[0], rtol=0, atol=1e-6)
    assert (end_right(guided[0]) < end_right(plain)).all()
    assert not guided[0].requires_grad


def test_weight_zero_is_plain_ddim_bit_for_bit():
    pipeline = gaussian.make_pipeline()
    plain = pipeline(3, eta=0.5, generator=seeded(), output_type="pt").actions
    unweighted = pipeline(3, eta=0.5, generator=seeded(), cost=end_right, guidance_scale=0, output_type="pt").actions
    assert torch.equal(unweighted, plain)
    weighted = pipeline(3, eta=0.5, generator=seeded(), cost=end_right, guidance_scale=1, output_type="pt").actions
    assert not torch.equal(weighted, plain)


def test_nothing_is_guided_where_next_to_no_signal_is_left():
    plain, guided, alpha = guided_clean("v_prediction", 990, end_right, 100.0)
    assert alpha < MIN_ALPHA_BAR
    assert torch.equal(guided, plain)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda actions: 1.0, "the cost returns a float"),
        (lambda actions: actions.sum(), r"the cost returns the shape \(\), not a tensor \(2,\)"),
        (lambda actions: actions.sum(dim=2), "the cost returns the shape"),
        (lambda actions: actions.detach().sum((1, 2)), "differentiated"),
        (lambda actions: (actions > CENTRE).double().sum((1, 2)), "differentiated"),
    ],
)
def test_cost_that_cannot_guide_is_named(cost, message):
    with pytest.raises(ValueError, match=message):
        gaussian.make_pipeline()(2, cost=cost)


def test_reconstruction_is_guided_as_a_draw_is():
    pipeline, actions = gaussian.make_pipeline(), gaussian.draw_actions(50)
    plain, guided = (
        pipeline.reconstruct(actions, 0.5, 10, seeded(), cost=end_right, guidance_scale=scale).actions for scale in (0.0, 100.0)
    )
    np.testing.assert_array_equal(plain, pipeline.reconstruct(actions, 0.5, 10, seeded()).actions)
    assert guided[:, -1, 0].mean() > plain[:, -1, 0].mean() + 0.05
