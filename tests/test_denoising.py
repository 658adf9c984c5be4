"""Noise taken off recordings, against dense linear algebra and noise that is known."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline
from action_ddim.actions import PRESS
from action_ddim.denoising import BEND, bend_variance, estimate_noise, smooth
from augmentation.gestures import GestureConfig, generate
from tests.test_pipeline import SEQ_LEN, Oracle, scheduler

NOISE = 0.02
LENGTH = 250


@pytest.fixture(scope="module")
def gestures() -> np.ndarray:
    return next(generate(GestureConfig(num_sequences=40, sequence_length=LENGTH)))


def noisy(actions: np.ndarray, noise_std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, noise_std, actions[..., :PRESS].shape)
    return np.concatenate([actions[..., :PRESS] + noise, actions[..., PRESS:]], axis=-1).astype(np.float32)


def error(actions: np.ndarray, original: np.ndarray) -> float:
    return float(np.sqrt(((actions - original)[..., :PRESS] ** 2).mean()))


class KnowsTheMotion(Oracle):
    """Says what moves and how far, and of the places themselves nothing: it predicts the clean actions shifted."""

    def forward(self, sample, timestep, return_dict=True):
        return (self.__dict__["clean"] + 0.2,)


def pipeline_of(actions: np.ndarray) -> ActionDDIMPipeline:
    denoiser = KnowsTheMotion(seq_len=actions.shape[1])
    denoiser.__dict__["clean"] = torch.from_numpy(2 * actions - 1)
    pipeline = ActionDDIMPipeline(denoiser, scheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("length", [2, 3, 4, 12])
def test_smoothing_minimises_what_it_says(length):
    rng = np.random.default_rng(0)
    recording, variances = rng.normal(size=(2, length, 2)), rng.gamma(0.3, size=(2, length - 2, 2))
    smoothed = smooth(torch.from_numpy(recording), torch.from_numpy(variances), 0.5).numpy()
    for sequence in range(2):
        for channel in range(2):
            bends = np.diff(np.eye(length), n=2, axis=0)
            precision = bends.T @ np.diag(1 / variances[sequence, :, channel]) @ bends + np.eye(length) / 0.5
            expected = np.linalg.solve(precision, recording[sequence, :, channel] / 0.5)
            np.testing.assert_allclose(smoothed[sequence, :, channel], expected, rtol=0, atol=1e-9)


def test_what_never_bends_becomes_the_straight_line_of_regression_and_what_bends_freely_is_kept():
    recording, steps = np.random.default_rng(0).normal(size=(1, 9, 2)), np.arange(9)
    straight = smooth(torch.from_numpy(recording), torch.zeros(1, 7, 2), 1e-4)[0].numpy()
    lines = np.stack([np.polyval(np.polyfit(steps, recording[0, :, channel], 1), steps) for channel in range(2)], axis=1)
    np.testing.assert_allclose(straight, lines, atol=1e-6)
    free = smooth(torch.from_numpy(recording), torch.full((1, 7, 2), 1e6), 1e-4)
    np.testing.assert_allclose(free.numpy(), recording, atol=1e-9)


def test_an_axis_may_bend_by_a_share_of_the_speed_where_it_moves():
    clean = torch.tensor([[[0.0, 0.0], [0.3, 0.4], [0.3, 0.4], [0.3, 0.4]]])
    np.testing.assert_allclose(bend_variance(clean, None)[0].numpy(), [[0.25 * BEND**2] * 2, [0, 0]])
    logits = torch.tensor([[[40.0, -40.0], [0.0, 0.0], [40.0, 40.0]]])
    np.testing.assert_allclose(bend_variance(clean, logits)[0].numpy(), [[0.25 * BEND**2, 0], [0, 0]], atol=1e-9)


@pytest.mark.parametrize("noise_std", [0.001, 0.005, 0.05])
def test_noise_is_estimated_through_the_motion(gestures, noise_std):
    assert estimate_noise(torch.from_numpy(noisy(gestures, noise_std))) == pytest.approx(noise_std, rel=0.05)


def test_a_recording_without_noise_comes_back_as_it_is(gestures):
    assert estimate_noise(torch.from_numpy(gestures)) == 0
    result = pipeline_of(gestures).denoise(gestures)
    assert result.noise_std == 0
    np.testing.assert_array_equal(result.actions, gestures)


@pytest.mark.parametrize("noise_std", [None, NOISE])
@pytest.mark.parametrize("num_inference_steps", [1, 4])
def test_a_network_that_knows_the_motion_cleans_far_better_than_any_moving_mean(gestures, noise_std, num_inference_steps):
    recording = noisy(gestures, NOISE)
    result = pipeline_of(gestures).denoise(recording, noise_std, num_inference_steps=num_inference_steps)
    assert result.noise_std == pytest.approx(NOISE, rel=0.05)
    windows = np.lib.stride_tricks.sliding_window_view
    means = []
    for half in range(1, 20):
        padded = np.pad(recording, ((0, 0), (half, half), (0, 0)), mode="edge")
        means.append(error(windows(padded, 2 * half + 1, axis=1).mean(axis=-1), gestures))
    assert error(result.actions, gestures) < 0.5 * min(means)
    np.testing.assert_array_equal(result.actions[..., PRESS], gestures[..., PRESS])
    assert result.actions.dtype == np.float32
    assert ((result.actions >= 0) & (result.actions <= 1)).all()


def test_an_axis_that_rests_is_held_whatever_motion_is_predicted():
    """A pointer at rest in noise: a straight line leaves sqrt(2 / L) of it, and following the prediction far more."""
    rest = np.full((20, LENGTH, 3), 0.5, np.float32)
    rest[..., PRESS] = 0
    pipeline = pipeline_of(next(generate(GestureConfig(num_sequences=20, sequence_length=LENGTH, action_type="swipe"))))
    forward, logits = pipeline.denoiser.forward, torch.full((20, LENGTH - 1, 2), -40.0)
    pipeline.denoiser.forward = lambda *words, **settings: (*forward(*words, **settings), logits)
    assert error(pipeline.denoise(noisy(rest, NOISE), NOISE).actions, rest) < 1.3 * NOISE * (2 / LENGTH) ** 0.5


def test_a_noisy_press_is_what_the_network_takes_it_for(gestures):
    recording = noisy(gestures, NOISE)
    recording[:, ::7, PRESS] = 0.4
    pipeline = pipeline_of(gestures)
    pressed = pipeline.denoise(recording, NOISE, press_is_noisy=True).actions[..., PRESS]
    np.testing.assert_array_equal(pressed, gestures[..., PRESS])  # the shift of 0.2 leaves -1 below and 1 above the threshold


def test_no_noise_is_added_and_the_walk_begins_at_the_timestep_of_the_noise(gestures):
    asked = []
    pipeline = pipeline_of(gestures)
    pipeline.denoiser.register_forward_pre_hook(lambda module, given, named: asked.append((given[0], named)), with_kwargs=True)
    recording = noisy(gestures, 0.2)
    pipeline.denoise(recording, 0.2, num_inference_steps=3)
    sample, timestep = asked[0][0], int(asked[0][1]["timestep"])
    alphas = pipeline.scheduler.alphas_cumprod.double()
    levels = ((1 - alphas) / alphas).sqrt() / 2  # in screens, half as wide as model space
    assert levels[timestep - 1] < 0.2 <= levels[timestep]
    torch.testing.assert_close(sample, alphas[timestep].sqrt().float() * (2 * torch.from_numpy(recording) - 1))
    assert len(asked) == 3


def test_other_solvers_clean_too(gestures):
    pipeline = pipeline_of(gestures)
    expected = pipeline.denoise(noisy(gestures, NOISE), NOISE).actions
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    np.testing.assert_allclose(pipeline.denoise(noisy(gestures, NOISE), NOISE).actions, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_std": -0.1}, "noise_std is -0.1"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
        ({"noise_std": 0.001, "num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"noise_std": 0.001, "num_inference_steps": 500}, "num_inference_steps is 500, not in 1..9"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, message):
    actions = np.zeros((1, SEQ_LEN, 3), np.float32)
    with pytest.raises(ValueError, match=message):
        pipeline_of(actions).denoise(actions, **arguments)
