"""The training objective against formulas written out in numpy."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from action_ddim.randomness import draw_noise
from action_ddim.training.loss import PREDICTION_TYPES, balance_weight, diffusion_loss, draw_timesteps, min_snr_weight

TIMESTEPS = torch.tensor([0, 300, 700, 950])
every_prediction_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)


class FixedDenoiser(torch.nn.Module):
    """Answers with a fixed function of the noisy sample."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, sample, timestep, return_dict=True):
        return (self.function(sample),)


def make_scheduler(prediction_type, **changes):
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, **changes)


def test_rest_weight_adds_the_cross_entropy_of_what_moves():
    class Resting(FixedDenoiser):
        def forward(self, sample, timestep, return_dict=True):
            return self.function(sample), logits

    sample, noise = draw_batch()
    sample[:, 3:6, 0] = sample[:, 3:4, 0]
    logits = torch.randn(len(sample), 9, 2, generator=torch.Generator().manual_seed(1))
    settings = {
        "scheduler": make_scheduler("sample"),
        "sample": sample,
        "noise": noise,
        "timesteps": TIMESTEPS,
        "snr_gamma": 5.0,
    }
    plain, loss = (diffusion_loss(Resting(torch.tanh), **settings, rest_weight=weight) for weight in (0, 0.3))
    probability = 1 / (1 + np.exp(-logits.double().numpy()))
    moving = np.ones((len(sample), 9, 2), dtype=bool)
    moving[:, 3:5, 0] = False
    entropy = -np.log(np.where(moving, probability, 1 - probability)).mean(axis=(1, 2))
    np.testing.assert_allclose((loss - plain).numpy(), 0.3 * entropy, rtol=1e-4)


def draw_batch():
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(len(TIMESTEPS), 10, 3, generator=generator) * 2 - 1
    return sample, draw_noise(tuple(sample.shape), generator)


def expected_loss(function, alpha, sample, noise, prediction_type, snr_gamma, velocity_weight):
    """One sequence in float64: error of the prediction, plus that of the implied clean actions' differences."""
    noisy = alpha**0.5 * sample + (1 - alpha) ** 0.5 * noise
    output, snr = function(noisy), alpha / (1 - alpha)
    target, clean, scale, weight = {
        "sample": (sample, output, 1, min(snr, snr_gamma)),
        "epsilon": (noise, (noisy - (1 - alpha) ** 0.5 * output) / alpha**0.5, alpha, min(snr, snr_gamma) / snr),
        "v_prediction": (
            alpha**0.5 * noise - (1 - alpha) ** 0.5 * sample,
            alpha**0.5 * noisy - (1 - alpha) ** 0.5 * output,
            1,
            min(snr, snr_gamma) / (snr + 1),
        ),
    }[prediction_type]
    velocity = np.mean((np.diff(clean, axis=0) - np.diff(sample, axis=0)) ** 2)
    return (weight if snr_gamma < np.inf else 1) * (np.mean((output - target) ** 2) + velocity_weight * scale * velocity)


@every_prediction_type
@pytest.mark.parametrize("velocity_weight", [0.0, 10.0])
@pytest.mark.parametrize("snr_gamma", [None, 5.0])
def test_loss_of_each_sequence_is_that_of_the_formula(prediction_type, velocity_weight, snr_gamma):
    def function(noisy):
        return 0.5 * noisy**2 - 0.1

    scheduler, (sample, noise) = make_scheduler(prediction_type), draw_batch()
    loss = diffusion_loss(
        FixedDenoiser(function), scheduler, sample, noise, TIMESTEPS, snr_gamma=snr_gamma, velocity_weight=velocity_weight
    )
    alphas = scheduler.alphas_cumprod.double()[TIMESTEPS].tolist()
    expected = [
        expected_loss(function, *values, prediction_type, snr_gamma or np.inf, velocity_weight)
        for values in zip(alphas, sample.double().numpy(), noise.double().numpy(), strict=True)
    ]
    assert loss.shape == (len(TIMESTEPS),)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("snr_gamma", [None, 5.0])
@every_prediction_type
def test_balance_divides_the_error_of_clean_actions_by_what_is_expected(prediction_type, snr_gamma):
    """By the root of 1/3 over the mean where nothing is seen, and of 1e-4 where all is; not beside a weight that is given."""
    scheduler, (sample, noise) = make_scheduler(prediction_type), draw_batch()

    def loss(**settings):
        return diffusion_loss(FixedDenoiser(torch.tanh), scheduler, sample, noise, TIMESTEPS, snr_gamma=snr_gamma, **settings)

    plain, balanced = loss(), loss(loss_balance=0.5)
    if prediction_type != "sample" or snr_gamma is not None:
        assert torch.equal(plain, balanced)
        return
    alphas = scheduler.alphas_cumprod.double()[TIMESTEPS].numpy()
    expected = [(0.06 / (1 / (3 + 60 * alpha / (1 - alpha)) + 1e-4)) ** 0.5 for alpha in alphas]
    np.testing.assert_allclose(balanced / plain, expected, rtol=1e-4)
    assert balance_weight(torch.tensor([0.0, 1e9]), 0.5).tolist() == pytest.approx([0.18**0.5, 600**0.5], rel=1e-3)


@every_prediction_type
def test_loss_of_a_perfect_answer_is_zero(prediction_type):
    scheduler, (sample, noise) = make_scheduler(prediction_type), draw_batch()
    alpha = scheduler.alphas_cumprod[TIMESTEPS].view(-1, 1, 1)
    answer = {
        "sample": sample,
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * sample,
    }[prediction_type]
    loss = diffusion_loss(
        FixedDenoiser(lambda _: answer), scheduler, sample, noise, TIMESTEPS, snr_gamma=5.0, velocity_weight=10.0
    )
    assert loss.max() < 1e-10


def test_loss_draws_nothing_and_depends_on_its_arguments_only():
    scheduler, (sample, noise) = make_scheduler("sample"), draw_batch()
    before = torch.get_rng_state()
    first, second = (diffusion_loss(FixedDenoiser(torch.tanh), scheduler, sample, noise, TIMESTEPS) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_loss_is_finite_where_no_signal_is_left(prediction_type):
    scheduler, (sample, noise) = make_scheduler(prediction_type, rescale_betas_zero_snr=True), draw_batch()
    last = torch.full_like(TIMESTEPS, 999)
    assert scheduler.alphas_cumprod[999] == 0
    loss = diffusion_loss(FixedDenoiser(torch.tanh), scheduler, sample, noise, last, snr_gamma=5.0, velocity_weight=1.0)
    assert loss.isfinite().all()


@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [
        ("sample", [0, 0.5, 5, 5]),
        ("epsilon", [1, 1, 1, 0.05]),  # the limit at snr = 0, where the formula is 0/0
        ("v_prediction", [0, 0.5 / 1.5, 5 / 6, 5 / 101]),
    ],
)
def test_min_snr_weight_is_that_of_its_formula_and_finite_at_zero(prediction_type, expected):
    snr = torch.tensor([0, 0.5, 5, 100])
    np.testing.assert_allclose(min_snr_weight(snr, prediction_type, 5.0).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("num_sequences", [1, 8, 250])
def test_timesteps_fall_one_into_each_stratum(num_sequences):
    timesteps = draw_timesteps(num_sequences, 1000, torch.Generator().manual_seed(0))
    assert timesteps.dtype == torch.int64
    assert sorted((timesteps * num_sequences // 1000).tolist()) == list(range(num_sequences))


@pytest.mark.parametrize(("num_sequences", "num_train_timesteps"), [(7, 10), (64, 10), (3, 1)])
def test_timesteps_stay_in_range_where_the_strata_do_not_fit(num_sequences, num_train_timesteps):
    timesteps = draw_timesteps(num_sequences, num_train_timesteps, torch.Generator().manual_seed(0))
    assert timesteps.shape == (num_sequences,)
    assert set(timesteps.tolist()) <= set(range(num_train_timesteps))


def test_timestep_of_a_single_sequence_is_uniform():
    """Stratified over the batch, yet no sequence may learn some noise levels more than others."""
    generator, num_draws = torch.Generator().manual_seed(0), 5000
    first = [draw_timesteps(4, 10, generator)[0].item() for _ in range(num_draws)]
    five_sigma = 5 * np.sqrt(num_draws * 0.1 * 0.9)
    assert np.abs(np.bincount(first, minlength=10) - num_draws / 10).max() < five_sigma


@pytest.mark.parametrize("mean", [0, 0.6])
def test_logit_of_a_timestep_is_normal_but_for_a_uniform_share(mean):
    """The share below each timestep is that of the normal at its logit and of the uniform, within a stratum of each."""
    num_sequences, T = 4000, 1000
    timesteps = draw_timesteps(num_sequences, T, torch.Generator().manual_seed(0), "logit_normal", mean).numpy()
    assert timesteps.min() >= 0
    assert timesteps.max() < T
    for edge in (20, 100, 500, 731, 950):
        share = 0.7 * NormalDist(mean).cdf(math.log(edge / (T - edge))) + 0.3 * edge / T
        assert (timesteps < edge).mean() == pytest.approx(share, abs=2 / num_sequences)


def test_draws_follow_their_generator_alone():
    draws = [
        (draw_noise((2, 5, 3), generator), draw_timesteps(4, 10**6, generator))
        for generator in (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
    ]
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(draws[0][1], draws[2][1])
