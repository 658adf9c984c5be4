"""Metrics against arrays worked out by hand, and where a denominator vanishes."""

import numpy as np
import pytest

from action_ddim.evaluation.metrics import TARGETS, reconstruction_metrics, sequence_statistics, summarize


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
        "mae": (1.0 + 1.0 + 0.2 + 0.1 + 0.6 + 0.1) / 12,
        "coord_mse": 0.75 / 8,
        "press_mse": 0.42 / 4,
        "active_coord_mse": (0.25 + 0.0625 + 0.25 + 0.0625) / 4,  # the two steps in the middle
        "press_accuracy": 3 / 4,
        "mean_snr_db": 10 * np.log10(6 / 1.17),
        "temporal_iou": 1 / 2,
        "spatial_accuracy": 0,
        "spatial_accuracy_fine": 0,
        "gesture_type_accuracy": 0,  # diagonal, then a click: one pressed step has no extent
        "variance_ratio_x": 0.125 / 0.25,
        "variance_ratio_y": 0.25**2 / 0.5**2,
        "variance_ratio_press": 0.095 / 0.25,  # mean 0.4, squares 0.04, 0.25, 0, 0.09
        "smoothness_ratio_x": (1 / 18) / (2 / 9),  # differences (0, 1, 0) and (0.5, 0, 0.5)
        "smoothness_ratio_y": 0.25,  # differences (1, -1, 1) halved
        "smoothness_ratio_press": (0.83 / 3 - 0.1**2 / 9) / (2 / 3),  # (0.7, -0.5, -0.3), and (1, 0, -1)
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


def pressed_at(*steps, length=10):
    return sequence(np.full(length, 0.5), np.full(length, 0.5), np.isin(np.arange(length), steps))


def test_temporal_iou_is_averaged_over_sequences():
    original = np.stack([pressed_at(1, 2, 3), pressed_at(4, 5), pressed_at()])
    again = np.stack([pressed_at(2, 3, 4, 5), pressed_at(4, 5), pressed_at()])
    assert reconstruction_metrics(original, again)["temporal_iou"] == pytest.approx((2 / 5 + 1 + 1) / 3)
    assert reconstruction_metrics(original[2:], again[:1])["temporal_iou"] == 0


def test_spatial_accuracy_is_a_share_of_all_pressed_steps():
    original = np.stack([pressed_at(0, 1, 2, 3), pressed_at(0)])
    again = original.copy()
    again[0, :4, 0] += [0.0, 0.0199, 0.0999, 0.101]
    again[1, 0] += [0.08, 0.08, 0]  # 0.113 away
    metrics = reconstruction_metrics(original, again)
    assert metrics["spatial_accuracy"] == pytest.approx(3 / 5)
    assert metrics["spatial_accuracy_fine"] == pytest.approx(2 / 5)
    squared = 0.0199**2 + 0.0999**2 + 0.101**2 + 2 * 0.08**2
    assert metrics["active_coord_mse"] == pytest.approx(squared / 2 / 5, rel=1e-5)


def test_gesture_type_accuracy_is_a_share_of_sequences():
    click, swipe = pressed_at(1, 2, 3), pressed_at(1, 2, 3)
    swipe[:, 0] = np.linspace(0.1, 0.9, 10)
    original = np.stack([click, click, swipe, pressed_at()])
    again = np.stack([click, swipe, swipe, click])
    assert reconstruction_metrics(original, again)["gesture_type_accuracy"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("original", [0, 0.3, 1])
@pytest.mark.parametrize("reconstruction", [0, 0.3, 1])
@pytest.mark.parametrize("num_sequences", [1, 3])
def test_every_metric_of_constant_sequences_is_finite(original, reconstruction, num_sequences):
    metrics = reconstruction_metrics(constant(original, num_sequences), constant(reconstruction, num_sequences))
    assert all(np.isfinite(value) for value in metrics.values()), metrics


def test_never_pressed_has_nothing_to_miss():
    metrics = reconstruction_metrics(constant(0), constant(0.9))
    assert metrics["active_coord_mse"] == 0
    assert metrics["spatial_accuracy"] == metrics["spatial_accuracy_fine"] == 1
    assert metrics["temporal_iou"] == 0  # but what was pressed that should not have been is seen


def test_targets_are_those_documented():
    good = {"mse": 0.0099, "coord_mse": 0.0049, "press_accuracy": 0.91, "mean_snr_db": 20.1}
    good |= {f"variance_ratio_{axis}": 1.19 for axis in "xy"} | {f"smoothness_ratio_{axis}": 1.9 for axis in "xy"}
    bad = {"mse": 0.01, "coord_mse": 0.005, "press_accuracy": 0.9, "mean_snr_db": 20}
    bad |= {"variance_ratio_x": 0.79, "variance_ratio_y": 1.21, "smoothness_ratio_x": 2, "smoothness_ratio_y": 2.1}
    assert sum(len(target.metrics) for target in TARGETS) == 8
    assert len(TARGETS) == 6
    assert all(target.is_met(good) for target in TARGETS)
    for target in TARGETS:
        for name in target.metrics:
            assert not target.is_met(good | {name: bad[name]}), name
    wanted = ["< 0.01", "< 0.005", "> 0.9", "> 20", "0.8 to 1.2", "< 2"]
    assert [target.wanted for target in TARGETS] == wanted
