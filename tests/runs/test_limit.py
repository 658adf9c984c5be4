"""The benchmark's posterior mean against integration over a grid of places, at toy size."""

import numpy as np
import pytest

from action_ddim import ActionDDIMPipeline
from action_ddim.evaluation.inference import ReconstructionSettings, draw_reconstruction_noise, reconstruct
from action_ddim.evaluation.metrics import reconstruction_metrics
from augmentation.gestures import BLOCK, GestureConfig, Gestures, draw_gestures, generate, render_gestures
from benchmarks.limit import KIND_WEIGHTS, KINDS, enumerate_timings, main, posterior_mean, ratio_and_error
from tests.conftest import SEQ_LEN

LENGTH, SIGMA = 9, 0.15
GRID = np.linspace(-0.8, 1.8, 66)  # wide enough for a flat prior without edges, and fine beside SIGMA


def by_brute_force(noised: np.ndarray, config: GestureConfig) -> np.ndarray:
    """Sum over durations, onsets, kinds and places on the grid, each rendered by the generator, weighed by its likelihood."""
    shortest, longest = config.durations
    total, weighted = 0.0, np.zeros((LENGTH, 3))
    cell = (GRID[1] - GRID[0]) / 0.9  # the prior of a place within a cell: the density is 1 / 0.9

    def axis_sums(y, onset, duration, moves):
        """The axis is independent of the other given the timing: its evidence, and its evidence times its mean."""
        pairs = np.array([(s, e) for s in GRID for e in (GRID if moves else [s])])
        places = np.repeat(pairs[:, :, None], 2, axis=2)
        timing = np.full(len(pairs), onset), np.full(len(pairs), duration)
        u = render_gestures(Gestures(*timing, places[:, 0], places[:, 1]), LENGTH)[..., 0].astype(np.float64)
        likelihood = np.exp(-((y - u) ** 2).sum(axis=1) / (2 * SIGMA**2)) * (cell**2 if moves else cell)
        return likelihood.sum(), likelihood @ u

    for duration in range(shortest, longest + 1):
        for onset in range(LENGTH - duration + 1):
            press = np.isin(np.arange(LENGTH), np.arange(onset, onset + duration))
            prior = 1 / (longest - shortest + 1) / (LENGTH - duration + 1)
            prior *= np.exp(-((noised[:, 2] - press) ** 2).sum() / (2 * SIGMA**2))
            for moves, weight in zip(KINDS, KIND_WEIGHTS[config.action_type], strict=True):
                sums = [axis_sums(noised[:, axis], onset, duration, moves[axis]) for axis in (0, 1)]
                evidence = prior * weight * sums[0][0] * sums[1][0]
                total += evidence
                for axis in (0, 1):
                    weighted[:, axis] += evidence * sums[axis][1] / sums[axis][0]
                weighted[:, 2] += evidence * press
    return weighted / total


@pytest.mark.parametrize("action_type", ["mixed", "click", "swipe"])
def test_posterior_mean_is_what_brute_force_says(action_type):
    config = GestureConfig(3, action_type, min_delta_t_pct=0.2, max_delta_t_pct=0.45, sequence_length=LENGTH)
    actions = render_gestures(Gestures(*(values[:3] for values in draw_gestures(config, 0))), LENGTH)
    noised = actions + SIGMA * np.random.default_rng(1).standard_normal(actions.shape)
    exact = posterior_mean(noised, SIGMA, config, enumerate_timings(config))
    for index in range(3):
        np.testing.assert_allclose(exact[index], by_brute_force(noised[index], config), atol=1e-4)


def test_timings_and_kinds_have_the_weights_of_the_generator():
    config = GestureConfig(sequence_length=20)
    timings = enumerate_timings(config)
    assert np.exp(timings.log_prior).sum() == pytest.approx(1)
    gestures = [draw_gestures(config, block) for block in range(20)]
    duration = np.concatenate([block.duration for block in gestures])
    onset = np.concatenate([block.onset for block in gestures])
    moves = np.concatenate([block.start != block.end for block in gestures])
    count = 20 * BLOCK
    drawn = {
        (o, d): ((onset == o) & (duration == d)).mean() for o, d in set(zip(onset.tolist(), duration.tolist(), strict=True))
    }
    pairs = [(int(press.argmax()), int(press.sum())) for press in timings.press]
    assert set(drawn) <= set(pairs)
    for pair, weight in zip(pairs, np.exp(timings.log_prior), strict=True):
        assert drawn[pair] == pytest.approx(weight, abs=5 * (weight / count) ** 0.5)
    for kind, weight in zip(KINDS, KIND_WEIGHTS["mixed"], strict=True):
        assert (moves == kind).all(axis=1).mean() == pytest.approx(weight, abs=5 * (weight / count) ** 0.5)


def test_posterior_mean_beats_every_other_estimate_it_is_held_against():
    """The mean squared error is below that of the same estimate under a wrong noise level, and of no estimate."""
    config = GestureConfig(400, sequence_length=40)
    timings = enumerate_timings(config)
    actions = render_gestures(Gestures(*(values[:400] for values in draw_gestures(config, 0))), 40)
    noised = actions + 0.5 * np.random.default_rng(0).standard_normal(actions.shape)
    errors = {sigma: ((posterior_mean(noised, sigma, config, timings) - actions) ** 2).mean() for sigma in (0.2, 0.5, 1.2)}
    assert errors[0.5] < min(errors[0.2], errors[1.2]) < 0.25


def test_press_that_never_shows_its_end_is_a_place():
    config = GestureConfig(1, "swipe", min_delta_t_pct=0.1, max_delta_t_pct=0.1, sequence_length=10)
    timings = enumerate_timings(config)
    last = int(np.argmax([press.argmax() for press in timings.press]))
    only = type(timings)(*(values[last : last + 1] for values in timings))
    noised = np.random.default_rng(0).random((1, 10, 3))
    mean = posterior_mean(noised, 0.1, config, only)
    np.testing.assert_allclose(mean[0, :, :2], np.broadcast_to(noised[0, :, :2].mean(axis=0), (10, 2)))


def test_standard_error_of_a_ratio_is_that_of_repetitions():
    rng = np.random.default_rng(0)
    shared = rng.gamma(4, size=(2000, 50))
    others = shared + rng.gamma(2, size=shared.shape)
    results = [ratio_and_error(values + 0.3, paired) for values, paired in zip(shared, others, strict=True)]
    ratios, errors = np.array(results).T
    assert errors.mean() == pytest.approx(ratios.std(), rel=0.05)


def test_script_sets_the_model_beside_the_limit_on_the_same_sequences(model, monkeypatch, capsys):
    words = ["--model", model, "--num_sequences", 5, "--sequence_length", SEQ_LEN, "--strengths", 0.5, "--batch_size", 3]
    monkeypatch.setattr("sys.argv", ["limit.py", *map(str, words)])
    main()
    lines = capsys.readouterr().out.replace("exact DDIM ", "exact ").splitlines()
    rows = {row[1]: row for row in map(str.split, lines[1:4])}
    gestures = GestureConfig(5, sequence_length=SEQ_LEN, seed=1)
    actions, indices = next(generate(gestures)), np.arange(5)
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    settings = ReconstructionSettings(seed=0, strength=0.5, num_inference_steps=10)
    mse = reconstruction_metrics(actions, reconstruct(pipeline, actions, indices, settings))["mse"]
    noise = draw_reconstruction_noise(actions, indices, 0)
    alpha_bar = pipeline.scheduler.alphas_cumprod[49].item()  # half of the toy schedule's 100 timesteps
    sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5
    mean = posterior_mean(actions + sigma / 2 * noise.numpy(), sigma / 2, gestures, enumerate_timings(gestures)).clip(0, 1)
    limit, exact, measured = (float(rows[name][2]) for name in ("limit", "exact", "model"))
    assert limit == pytest.approx(((mean - actions) ** 2).mean(), abs=2e-6)
    assert measured == pytest.approx(mse, abs=1e-6)
    assert float(rows["model"][5]) == pytest.approx(measured / limit, rel=1e-3)
    assert float(rows["model"][8]) == pytest.approx(measured / exact, rel=1e-3)
    timesteps = [row for row in map(str.split, lines) if row and row[0] in ("0", "10", "69")]
    for timestep, *values in timesteps:
        (x_limit, x_model, x_input), (press_limit, _, press_input) = np.split(np.array(values, dtype=float), 2)
        assert x_limit < min(x_model, x_input), timestep
        assert press_limit <= press_input
    assert len(timesteps) == 3
    assert 0 < limit < exact < measured  # which was never trained
