"""Inversion against Gaussian data, where a DDIM path and its inverse are linear maps in closed form."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.inversion import TOLERANCE, slerp, solve_fixed_point

from . import gaussian

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
    """A step keeps the directions of the covariance apart and scales each, so that the path up divides by all of these."""
    pipeline, actions = gaussian.make_pipeline(prediction_type), gaussian.draw_actions(3)
    noise = torch.randn(3, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())
    result = pipeline.invert(actions, 50, noise=noise)
    variances, directions = gaussian.data_covariance()
    alphas = pipeline.scheduler.alphas_cumprod.double().numpy()[pipeline.scheduler.timesteps.numpy()[::-1]]
    lowest = (alphas[0] ** 0.5 * (2 * actions - 1) + (1 - alphas[0]) ** 0.5 * noise.numpy()).reshape(3, -1) @ directions
    along, decoded = lowest.copy(), alphas[0] ** 0.5 * variances / (alphas[0] * variances + 1 - alphas[0]) * lowest
    for lower, upper in itertools.pairwise(alphas):
        share = upper**0.5 * variances / (upper * variances + 1 - upper)
        along /= lower**0.5 * share + ((1 - lower) / (1 - upper)) ** 0.5 * (1 - upper**0.5 * share)
    np.testing.assert_allclose(result.latents.flatten(1).numpy(), along @ directions.T, atol=0.01)
    assert (result.residual <= TOLERANCE).all()
    back = pipeline(latents=result.latents, num_inference_steps=50, output_type="pt").actions.numpy()
    np.testing.assert_allclose(back.reshape(3, -1), (decoded @ directions.T + 1) / 2, atol=0.002)
    assert np.mean((back - actions) ** 2) < 5e-4  # what is left is the posterior's own deviation at the last timestep
    assert 0.8 < result.latents.std() < 1.2


@every_prediction_type
@pytest.mark.parametrize("std", [0.05, 0.2])
@pytest.mark.parametrize("num_inference_steps", [1, 2, 10])
def test_inversion_through_an_untrained_network_is_finite(prediction_type, std, num_inference_steps):
    pipeline = random_pipeline(prediction_type, std)
    result = pipeline.invert(gaussian.draw_actions(2), num_inference_steps, generator=seeded())
    assert result.latents.isfinite().all()
    assert result.residual.isfinite().all()
    assert result.latents.shape == (2, gaussian.SEQ_LEN, 3)
    actions = pipeline(latents=result.latents, num_inference_steps=num_inference_steps, output_type="pt").actions
    assert actions.isfinite().all()


def test_residual_is_what_a_step_of_the_scheduler_misses():
    pipeline, actions = random_pipeline("sample", 0.2), torch.as_tensor(gaussian.draw_actions(3)).float()
    noise = torch.randn(actions.shape, generator=seeded())
    latents, residual = pipeline.invert(actions, 2, noise=noise, return_dict=False)
    target = pipeline.scheduler.add_noise(2 * actions - 1, noise, torch.tensor([499]))
    with torch.no_grad():
        output = pipeline.denoiser(latents, 999).sample
    missed = target - pipeline.scheduler.step(output, 999, latents).prev_sample
    torch.testing.assert_close(missed.square().mean(dim=(1, 2)).sqrt(), residual, rtol=0.01, atol=1e-6)


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
