"""Metrics against arrays worked out by hand, and where a denominator vanishes."""

import numpy as np
import pytest

from action_ddim.metrics import reconstruction_metrics, sequence_statistics, summarize


def sequence(x, y, press):
    return np.array([x, y, press], dtype=np.float32).T


def constant(value, num_sequences=1):
    return np.full((num_sequences, 8, 3), value, dtype=np.float32)


def test_every_metric_of_one_sequence_worked_by_hand():
    original = sequence([0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0])
    reconstruction = sequence([0, 0.5, 0.5, 1], [0.25, 0.75, 0.25, 0.75], [0.2, 0.9, 0.4, 0.1])
    # Squared errors: x 0.5, y 0.25, press 0.04 + 0.01 + 0.36 + 0.01, in all 1.17; signal 2 + 2 + 2.
    expected = {
        "mse": 1.17 / 12,
        "coord_mse": 0.75 / 8,
        "press_accuracy": 3 / 4,
        "mean_snr_db": 10 * np.log10(6 / 1.17),
        "variance_ratio_x": 0.125 / 0.25,
        "variance_ratio_y": 0.25**2 / 0.5**2,
        "smoothness_ratio_x": (1 / 18) / (2 / 9),  # differences (0, 1, 0) and (0.5, 0, 0.5)
        "smoothness_ratio_y": 0.25,  # differences (1, -1, 1) halved
    }
    assert reconstruction_metrics(original[None], reconstruction[None]) == pytest.approx(expected)


def test_decibels_are_averaged_over_sequences():
    original = constant(1.0, num_sequences=2)
    reconstruction = original - np.array([0.1, 0.01]).reshape(2, 1, 1)
    assert reconstruction_metrics(original, reconstruction)["mean_snr_db"] == pytest.approx((20 + 40) / 2)


def test_ratios_are_ratios_of_means():
    step, still, half = [0, 0, 1, 1], [0.5] * 4, [0, 0.5, 0.5, 1]
    original = np.stack([sequence(step, step, still), sequence(still, still, still)])
    reconstruction = np.stack([sequence(half, half, still), sequence(step, step, still)])
    metrics = reconstruction_metrics(original, reconstruction)
    assert metrics["variance_ratio_x"] == pytest.approx((0.125 + 0.25) / 0.25)
    assert metrics["smoothness_ratio_y"] == pytest.approx((1 / 18 + 2 / 9) / (2 / 9))


@pytest.mark.parametrize(
    ("original", "reconstruction", "decibels"), [(1, 1, 100), (0.1, 0.1, 80), (0, 0, 0), (0, 1, -100), (1, 0, 0)]
)
def test_decibels_stay_finite_where_error_or_signal_vanishes(original, reconstruction, decibels):
    metrics = reconstruction_metrics(constant(original), constant(reconstruction))
    assert metrics["mean_snr_db"] == pytest.approx(decibels, abs=1e-4)


def test_perfect_reconstruction_of_a_sequence_that_is_never_pressed():
    original = sequence(np.linspace(0.1, 0.9, 10), np.linspace(0.9, 0.1, 10) ** 2, np.zeros(10))[None]
    metrics = reconstruction_metrics(original, original)
    assert metrics["mse"] == metrics["coord_mse"] == 0
    assert metrics["press_accuracy"] == 1
    assert metrics["variance_ratio_x"] == metrics["smoothness_ratio_y"] == 1


def test_ratio_is_one_where_nothing_moves_in_either():
    metrics = reconstruction_metrics(constant(0.3), constant(0.7))
    assert metrics["variance_ratio_x"] == metrics["smoothness_ratio_x"] == 1


def test_ratio_is_large_but_finite_where_only_the_reconstruction_moves():
    moving = constant(0.3)
    moving[:, ::2, 0] = 0.4
    metrics = reconstruction_metrics(constant(0.3), moving)
    assert 1e6 < metrics["variance_ratio_x"] < np.inf
    assert 1e6 < metrics["smoothness_ratio_x"] < np.inf


def test_statistics_gathered_from_several_processes_give_the_metrics_of_the_whole():
    original, reconstruction = np.random.default_rng(0).random((2, 10, 20, 3))
    parts = [sequence_statistics(original[part], reconstruction[part]) for part in (slice(0, 3), slice(3, 10))]
    gathered = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert all(values.shape == (10,) for values in gathered.values())
    assert summarize(gathered) == pytest.approx(reconstruction_metrics(original, reconstruction), rel=1e-12)
