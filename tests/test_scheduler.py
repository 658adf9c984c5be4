"""Exact DDIM steps against the closed-form path, and against diffusers' scheduler where that one is right."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from action_ddim.scheduler import ExactDDIMScheduler, coefficients_in_table

SPACINGS = ("trailing", "leading", "linspace")
PREDICTION_TYPES = ("sample", "epsilon", "v_prediction")
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)
every_prediction_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)


def make_scheduler(kind=ExactDDIMScheduler, **changes):
    settings = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "clip_sample": False}
    return kind(**settings | changes)


def public_config(scheduler):
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def worst_error_on_the_path(scheduler):
    """Walk with an oracle that knows the clean sample and the noise; return the largest mse to the exact path.

    The path is sqrt(alpha) clean + sqrt(1 - alpha) noise at each of the timesteps and ends at the clean sample. An
    oracle for the clean sample would end there after any wrong turn, hence every step is compared.
    """
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 6, 3, dtype=torch.float64, generator=generator)
    timesteps = scheduler.timesteps.tolist()
    alphas = [*scheduler.alphas_cumprod.double()[timesteps].tolist(), 1.0]
    sample, worst = alphas[0] ** 0.5 * clean + (1 - alphas[0]) ** 0.5 * noise, 0.0
    for timestep, (alpha, alpha_next) in zip(timesteps, itertools.pairwise(alphas), strict=True):
        answer = {
            "sample": clean,
            "epsilon": noise,
            "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean,
        }[scheduler.config.prediction_type]
        sample = scheduler.step(answer, timestep, sample).prev_sample
        path = alpha_next**0.5 * clean + (1 - alpha_next) ** 0.5 * noise
        worst = max(worst, (sample - path).square().mean().item())
    return worst


@every_spacing
def test_every_number_of_steps_gives_that_many_distinct_timesteps_in_their_places(spacing):
    scheduler = make_scheduler(timestep_spacing=spacing)
    for num_steps in range(1, 1001):
        places = {
            "trailing": 999 - np.arange(num_steps) * 1000 / num_steps,
            "leading": np.arange(num_steps)[::-1] * (1000 // num_steps),
            "linspace": np.linspace(0, 999, num_steps)[::-1],
        }[spacing]
        scheduler.set_timesteps(num_steps)
        timesteps = scheduler.timesteps.numpy()
        assert timesteps.shape == (num_steps,)
        assert np.abs(timesteps - places).max() < 0.5 + 1e-9, num_steps
        assert (np.diff(timesteps) < 0).all()
        assert 0 <= timesteps[-1] <= timesteps[0] < 1000


@every_spacing
@every_prediction_type
def test_oracle_walks_the_exact_path_in_any_number_of_steps(spacing, prediction_type):
    scheduler = make_scheduler(timestep_spacing=spacing, prediction_type=prediction_type)
    for num_steps in [*range(1, 31), 50, 61, 333, 600, 999, 1000]:
        scheduler.set_timesteps(num_steps)
        assert worst_error_on_the_path(scheduler) <= 1e-9, num_steps


@pytest.mark.slow
@every_spacing
@every_prediction_type
def test_oracle_walks_the_exact_path_in_every_number_of_steps(spacing, prediction_type):
    """As above, in numbers instead of tensors: a step is plain arithmetic, and there are half a million of them."""
    scheduler = make_scheduler(timestep_spacing=spacing, prediction_type=prediction_type)
    all_alphas = scheduler.alphas_cumprod.double().numpy()
    clean, noise = np.float64(0.7), np.float64(-1.3)
    for num_steps in range(1, 1001):
        scheduler.set_timesteps(num_steps)
        timesteps = scheduler.timesteps.tolist()
        signal, spread = np.sqrt(all_alphas[timesteps]), np.sqrt(1 - all_alphas[timesteps])
        answers = {
            "sample": np.full(num_steps, clean),
            "epsilon": np.full(num_steps, noise),
            "v_prediction": signal * noise - spread * clean,
        }[prediction_type]
        sample, walked = signal[0] * clean + spread[0] * noise, []
        for timestep, answer in zip(timesteps, answers, strict=True):
            sample = scheduler.step(answer, timestep, sample, return_dict=False)[0]
            walked.append(sample)
        path = np.append(signal[1:] * clean + spread[1:] * noise, clean)
        assert np.square(walked - path).max() <= 1e-9, num_steps


@every_prediction_type
@pytest.mark.parametrize("timesteps", [[499, 399, 17, 0], [999], [0], [800, 799]], ids=str)
def test_oracle_walks_the_exact_path_along_a_list_of_ones_own(timesteps, prediction_type):
    scheduler = make_scheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(timesteps=timesteps)
    assert scheduler.timesteps.tolist() == timesteps
    assert worst_error_on_the_path(scheduler) <= 1e-9


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@every_prediction_type
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_steps_equal_those_of_diffusers_where_the_number_divides_the_schedule(spacing, prediction_type, clip, eta):
    settings = {"timestep_spacing": spacing, "prediction_type": prediction_type, "clip_sample": clip}
    ours, stock = make_scheduler(**settings), make_scheduler(DDIMScheduler, **settings)
    generator = torch.Generator().manual_seed(0)
    for num_steps in (1, 5, 50):
        ours.set_timesteps(num_steps)
        stock.set_timesteps(num_steps)
        assert torch.equal(ours.timesteps, stock.timesteps)
        for timestep in stock.timesteps:
            sample, output = torch.randn(2, 2, 8, 3, generator=generator)
            for use_clipped in {False, clip}:
                (previous, clean), (expected, expected_clean) = (
                    scheduler.step(
                        output, timestep, sample, eta, use_clipped, torch.Generator().manual_seed(1), return_dict=False
                    )
                    for scheduler in (ours, stock)
                )
                # Noise is taken off before it is divided, and what it leaves before that is clipped.
                scale = expected_clean.abs().max()
                if prediction_type == "epsilon":
                    scale = (sample.abs() + output.abs()).max() / stock.alphas_cumprod[timestep].sqrt()
                assert (clean - expected_clean).abs().max() <= 1e-6 * scale
                assert (previous - expected).abs().max() <= 1e-6 * max(sample.abs().max(), expected.abs().max())


def test_noise_at_eta_one_is_that_of_equation_16():
    scheduler, timesteps = make_scheduler(prediction_type="v_prediction"), [999, 300, 20]
    scheduler.set_timesteps(timesteps=timesteps)
    alphas = [*scheduler.alphas_cumprod.double()[timesteps].tolist(), 1.0]
    output, sample = torch.randn(2, 1, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for timestep, (alpha, alpha_prev) in zip(timesteps, itertools.pairwise(alphas), strict=True):
        with_noise, without = (
            scheduler.step(output, timestep, sample, eta=1.0, variance_noise=fill(sample)).prev_sample
            for fill in (torch.ones_like, torch.zeros_like)
        )
        sigma = np.sqrt((1 - alpha_prev) / (1 - alpha)) * np.sqrt(1 - alpha / alpha_prev)
        np.testing.assert_allclose((with_noise - without).numpy(), sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_looked_up_as_on_a_gpu_are_exact_for_every_number_of_steps(dtype, eta):
    """At eta = 1, 1 - alpha' - sigma^2 nearly cancels; multiplied out it is (1 - alpha')^2 alpha / (alpha' (1 - alpha))."""
    scheduler = make_scheduler()
    all_alphas = scheduler.alphas_cumprod.double().numpy()
    for num_steps in range(1, 1001):
        scheduler.set_timesteps(num_steps)
        alpha = all_alphas[scheduler.timesteps.numpy()]
        alpha_prev = np.append(alpha[1:], 1.0)
        share = alpha / (alpha_prev * (1 - alpha)) if eta else 1 / np.maximum(1 - alpha_prev, 1e-300)
        exact = [alpha**0.5, (1 - alpha) ** 0.5, alpha_prev**0.5, (1 - alpha_prev) * share**0.5]
        exact.append(eta * ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5)
        found = coefficients_in_table(scheduler._table_by_timestep(), scheduler.timesteps, eta, dtype)
        for value, expected in zip(found, exact, strict=True):
            assert value.dtype == dtype
            atol = torch.finfo(dtype).smallest_normal
            np.testing.assert_allclose(value.double().numpy(), expected, rtol=torch.finfo(dtype).eps, atol=atol)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_zero_terminal_signal_is_sampled_from_without_a_nan(prediction_type):
    scheduler = make_scheduler(prediction_type=prediction_type, rescale_betas_zero_snr=True)
    scheduler.set_timesteps(10)
    assert scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0
    assert worst_error_on_the_path(scheduler) <= 1e-9


def test_zero_terminal_signal_with_epsilon_is_refused():
    scheduler = make_scheduler(prediction_type="epsilon", rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        scheduler.set_timesteps(10)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_inference_steps": 2, "timesteps": [5, 1]},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1001},
        {"timesteps": []},
        {"timesteps": [1, 5]},
        {"timesteps": [5, 5, 1]},
        {"timesteps": [1000, 5]},
        {"timesteps": [5, -1]},
    ],
    ids=str,
)
def test_impossible_timesteps_are_refused(arguments):
    with pytest.raises(ValueError, match=r"timesteps|num_inference_steps"):
        make_scheduler().set_timesteps(**arguments)


def test_step_without_timesteps_is_refused():
    with pytest.raises(ValueError, match="set_timesteps"):
        make_scheduler().step(torch.zeros(1, 4, 3), 999, torch.zeros(1, 4, 3))


def test_step_from_a_timestep_that_was_not_chosen_is_refused():
    scheduler = make_scheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep 998 "):
        scheduler.step(torch.zeros(1, 4, 3), 998, torch.zeros(1, 4, 3))


@pytest.mark.parametrize(("saved_as", "loaded_as"), [(ExactDDIMScheduler, DDIMScheduler), (DDIMScheduler, ExactDDIMScheduler)])
def test_stock_and_exact_scheduler_load_each_others_folder(saved_as, loaded_as, tmp_path):
    saved = make_scheduler(saved_as, prediction_type="v_prediction", num_train_timesteps=500)
    saved.save_pretrained(tmp_path)
    loaded = loaded_as.from_pretrained(tmp_path)
    assert type(loaded) is loaded_as
    assert public_config(loaded) == public_config(saved)
    assert torch.equal(loaded.alphas_cumprod, saved.alphas_cumprod)


def test_another_scheduler_takes_over_and_gives_back():
    exact = make_scheduler(prediction_type="sample", clip_sample_range=2.0)
    solver = DPMSolverMultistepScheduler.from_config(exact.config)
    assert solver.config.prediction_type == "sample"
    assert torch.equal(solver.alphas_cumprod, exact.alphas_cumprod)
    assert public_config(ExactDDIMScheduler.from_config(solver.config)) == public_config(exact)
