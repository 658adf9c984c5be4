"""Inversion against Gaussian data, where a DDIM path and its inverse are linear maps in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.inversion import END_TOLERANCE, FORGOTTEN_NOISE, TOLERANCE, invert_end, slerp, solve_fixed_point
from tests import gaussian

every_prediction_type = pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pipeline(prediction_type: str, std: float) -> ActionDDIMPipeline:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=gaussian.SEQ_LEN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=std)
    pipeline = ActionDDIMPipeline(denoiser.eval(), gaussian.make_scheduler(prediction_type))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_fixed_point_of_a_linear_map_is_its_solution():
    slopes = torch.linspace(0.05, 1, 12, dtype=torch.float64).view(1, 4, 3)
    solution = torch.randn(5, 4, 3, dtype=torch.float64, generator=seeded())
    found, error = solve_fixed_point(
        lambda x: slopes * (solution - x), torch.zeros_like(solution), damping=1.5, max_iterations=60, tolerance=1e-9
    )
    torch.testing.assert_close(found, solution, rtol=0, atol=1e-7)
    assert error.max() <= 1e-9


def test_fixed_point_keeps_the_best_iterate_where_the_iteration_diverges():
    calls = []

    def residual(x):
        calls.append(x)
        return x.square() + 1  # has no root

    found, error = solve_fixed_point(residual, torch.full((2, 4, 3), 0.1), damping=0.5, max_iterations=7)
    assert len(calls) == 7
    errors = torch.stack([(x.square() + 1).square().mean(dim=(1, 2)).sqrt() for x in calls])
    torch.testing.assert_close(error, errors.min(dim=0).values)
    torch.testing.assert_close(residual(found).square().mean(dim=(1, 2)).sqrt(), error)


def test_spherical_path_between_orthogonal_unit_vectors_is_the_circle():
    first, second = torch.zeros(2, 4, 3, dtype=torch.float64)
    first[0, 0] = second[2, 1] = 1
    fractions = torch.linspace(0, 1, 7, dtype=torch.float64)
    path = slerp(first, second, fractions)
    torch.testing.assert_close(path[:, 0, 0], (fractions * torch.pi / 2).cos())
    torch.testing.assert_close(path[:, 2, 1], (fractions * torch.pi / 2).sin())
    torch.testing.assert_close(path.flatten(1).norm(dim=1), torch.ones(7, dtype=torch.float64))


def test_spherical_path_starts_and_ends_at_the_latents():
    first, second = torch.randn(2, 20, 3, generator=seeded())
    path = slerp(first, second, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(path, torch.stack([first, second]))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_path_between_parallel_latents_is_straight(factor):
    first = torch.randn(4, 3, generator=seeded())
    path = slerp(first, factor * first, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(path, torch.stack([first, (0.75 + 0.25 * factor) * first, factor * first]))


def test_path_from_zeros_is_finite():
    path = slerp(torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(path[[0, 2]], torch.stack([torch.zeros(4, 3), torch.ones(4, 3)]))
    assert path.isfinite().all()


@every_prediction_type
def test_inversion_is_the_inverse_of_the_path_in_closed_form(prediction_type):
    """A step keeps the directions of the covariance apart and scales each: the path up divides by what the path down
    multiplies with. The end of the path is one of many that lead near the actions."""
    pipeline, actions = gaussian.make_pipeline(prediction_type), gaussian.draw_actions(3)
    noise = torch.randn(3, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())
    result = pipeline.invert(actions, 50, noise=noise)
    variances, directions = gaussian.data_covariance()
    alphas = np.append(pipeline.scheduler.alphas_cumprod.double().numpy()[pipeline.scheduler.timesteps.numpy()], 1.0)
    clean = torch.from_numpy(2 * actions - 1)
    sample, above = invert_end(pipeline.denoiser, pipeline.scheduler, clean, noise)
    assert 1 - alphas[above + 1] <= FORGOTTEN_NOISE**2 < 1 - alphas[above]
    along, factors = sample.flatten(1).numpy() @ directions, []
    for upper, lower in itertools.pairwise(alphas):
        share = upper**0.5 * variances / (upper * variances + 1 - upper)
        factors.append(lower**0.5 * share + ((1 - lower) / (1 - upper)) ** 0.5 * (1 - upper**0.5 * share))
    missed = along * np.prod(factors[above:], axis=0) @ directions.T - clean.flatten(1).numpy()
    assert (np.sqrt((missed**2).mean(axis=1)) <= END_TOLERANCE).all()
    np.testing.assert_allclose(
        result.latents.flatten(1).numpy(), along / np.prod(factors[:above], axis=0) @ directions.T, atol=0.001
    )
    assert (result.residual <= TOLERANCE).all()
    back = pipeline(latents=result.latents, num_inference_steps=50, output_type="pt").actions.numpy()
    np.testing.assert_allclose(back.reshape(3, -1), (clean.flatten(1).numpy() + missed + 1) / 2, atol=1e-4)
    assert 0.8 < result.latents.std() < 1.2


@every_prediction_type
def test_more_steps_come_back_as_near_as_few(prediction_type):
    pipeline, actions = gaussian.make_pipeline(prediction_type), gaussian.draw_actions(20)
    for num_inference_steps in (10, 20, 50, 100, 1000):
        latents = pipeline.invert(actions, num_inference_steps, generator=seeded()).latents
        back = pipeline(latents=latents, num_inference_steps=num_inference_steps, output_type="pt").actions.numpy()
        assert ((back - actions) ** 2).mean() <= END_TOLERANCE**2 / 4  # actions are half as wide as model space


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_path_that_clips_is_inverted_as_it_is_walked(prediction_type):
    pipeline, actions = (
        gaussian.make_pipeline(prediction_type, clip_sample=True, clip_sample_range=0.5),
        gaussian.draw_actions(8),
    )
    latents = pipeline.invert(actions, 20, generator=seeded()).latents
    back = pipeline(latents=latents, num_inference_steps=20, output_type="pt").actions.numpy()
    within = actions.clip(0.25, 0.75)  # what such a path can end at
    assert ((back - within) ** 2).mean() <= END_TOLERANCE**2 / 4
    pipeline.scheduler = gaussian.make_scheduler(prediction_type)
    unclipped = pipeline(latents=latents, num_inference_steps=20, output_type="pt").actions.numpy()
    assert np.abs(unclipped - back).max() > 0.02  # so clipping was at work


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_inverted_to_its_own_precision(dtype):
    pipeline, actions = random_pipeline("sample", 0.1).to(dtype), gaussian.draw_actions(3)
    result = pipeline.invert(actions, 10, generator=seeded())
    assert result.latents.isfinite().all()
    assert (result.residual < 100 * torch.finfo(dtype).eps).all()


def test_noise_of_any_type_is_taken():
    pipeline, actions = gaussian.make_pipeline(), gaussian.draw_actions(2)
    noise = np.random.default_rng(0).standard_normal((1, gaussian.SEQ_LEN, 3)).astype(np.float32)
    latents = pipeline.invert(actions, 10, noise=torch.from_numpy(noise)).latents
    torch.testing.assert_close(latents, pipeline.invert(actions, 10, noise=torch.from_numpy(noise).double()).latents)


@every_prediction_type
@pytest.mark.parametrize("std", [0.05, 0.2])
@pytest.mark.parametrize("num_inference_steps", [1, 2, 10])
def test_inversion_through_an_untrained_network_is_finite(prediction_type, std, num_inference_steps):
    pipeline = random_pipeline(prediction_type, std)
    result = pipeline.invert(gaussian.draw_actions(2), num_inference_steps, generator=seeded(), max_residual=math.inf)
    assert result.latents.isfinite().all()
    assert result.residual.isfinite().all()
    assert result.latents.shape == (2, gaussian.SEQ_LEN, 3)
    actions = pipeline(latents=result.latents, num_inference_steps=num_inference_steps, output_type="pt").actions
    assert actions.isfinite().all()


def test_a_step_that_cannot_be_solved_is_an_error():
    pipeline = random_pipeline("epsilon", 0.2)
    with pytest.raises(
        RuntimeError, match=r"2 of 2 sequences could not be inverted: a step misses by up to .* max_residual, 0\.05"
    ):
        pipeline.invert(gaussian.draw_actions(2), 10, generator=seeded())


def test_residual_is_what_a_step_of_the_scheduler_misses():
    pipeline, actions = random_pipeline("sample", 0.2), torch.as_tensor(gaussian.draw_actions(3)).float()
    noise = torch.randn(actions.shape, generator=seeded())
    latents, residual = pipeline.invert(actions, 2, noise=noise, return_dict=False)
    with torch.no_grad():
        target, above = invert_end(pipeline.denoiser, pipeline.scheduler, 2 * actions - 1, noise)
        output = pipeline.denoiser(latents, 999).sample
    assert above == 1
    missed = target - pipeline.scheduler.step(output, 999, latents).prev_sample
    torch.testing.assert_close(missed.square().mean(dim=(1, 2)).sqrt(), residual, rtol=0.05, atol=1e-6)


def test_noise_comes_from_the_generators_and_does_not_depend_on_the_batch():
    pipeline, actions = gaussian.make_pipeline(), gaussian.draw_actions(3)
    together = pipeline.invert(actions, 10, generator=[seeded(i) for i in range(3)]).latents
    alone = pipeline.invert(actions[2:], 10, generator=[seeded(2)]).latents
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=0.002)
    assert not torch.allclose(pipeline.invert(actions[2:], 10, generator=[seeded(3)]).latents, alone, atol=0.1)


def test_interpolation_ends_at_the_decoded_ends_and_goes_by_the_sphere():
    pipeline, ends = gaussian.make_pipeline(), gaussian.draw_actions(2)
    path = pipeline.interpolate(*ends, num_interpolations=5, num_inference_steps=20, generator=seeded(), output_type="pt")
    noise = torch.randn(1, gaussian.SEQ_LEN, 3, generator=seeded(), dtype=torch.float64)
    latents = pipeline.invert(ends, 20, noise=noise).latents
    decoded = pipeline(latents=latents, num_inference_steps=20, output_type="pt").actions
    assert path.actions.shape == (5, gaussian.SEQ_LEN, 3)
    torch.testing.assert_close(path.actions[[0, -1]], decoded)
    angle = torch.nn.functional.cosine_similarity(*latents.flatten(1), dim=0).acos()
    middle = (latents[0] + latents[1]) * (angle / 2).sin() / angle.sin()
    expected = pipeline(latents=middle[None], num_inference_steps=20, output_type="pt").actions
    torch.testing.assert_close(path.actions[2:3], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, a: p.invert(a[0]), "actions have the shape"),
        (lambda p, a: p.invert(a * np.nan), "actions hold NaN"),
        (lambda p, a: p.invert(a, 0), "num_inference_steps is 0"),
        (lambda p, a: p.invert(a, generator=[seeded()]), "1 generators were given for 2"),
        (lambda p, a: p.invert(a, noise=torch.zeros(3, gaussian.SEQ_LEN, 3)), "noise was given for 3 of 2"),
        (lambda p, a: p.invert(a, noise=torch.zeros(gaussian.SEQ_LEN, 3)), "noise have the shape"),
        (lambda p, a: p.interpolate(a[0], a[1], 1), "num_interpolations is 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian.make_pipeline(), gaussian.draw_actions(2))


def test_inversion_with_another_solver_is_refused():
    pipeline = gaussian.make_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match="needs a DDIM scheduler, not DPMSolverMultistepScheduler"):
        pipeline.invert(gaussian.draw_actions(1))
