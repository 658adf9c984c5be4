"""Figures of realism against closed forms, scipy's own functions, and data that is known to be the same or not."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.linalg import sqrtm

from action_ddim.evaluation.realism import (
    MIN_SEQUENCES,
    classifier_accuracy,
    describe,
    distances,
    frechet_distance,
    js_distance,
    measure_realism,
)
from augmentation.gestures import GestureConfig, generate
from tests.conftest import ROOT


def gestures(count: int, seed: int, **config) -> np.ndarray:
    return np.concatenate(list(generate(GestureConfig(count, seed=seed, sequence_length=40, **config))))


def test_frechet_distance_of_gaussians_that_differ_in_mean_and_scale():
    features = np.random.default_rng(0).standard_normal((500, 3))
    features = (features - features.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(features, rowvar=False))).T
    assert frechet_distance(features, features + np.array([1, 2, 0])) == pytest.approx(5)
    assert frechet_distance(features, 3 * features) == pytest.approx(3 * (3 - 1) ** 2)  # a channel each, (3 - 1)^2
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_that_of_the_matrix_root():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((200, 4)) @ rng.random((4, 4)), rng.standard_normal((200, 4)) @ rng.random((4, 4))
    C1, C2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(axis=0) - second.mean(axis=0)
    expected = shift @ shift + np.trace(C1 + C2 - 2 * sqrtm(C1 @ C2).real)
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_with_features_that_never_vary():
    constant = np.ones((50, 2))
    assert frechet_distance(constant, constant + np.array([0.5, 0])) == pytest.approx(0.25)


@pytest.mark.parametrize(("first", "second", "expected"), [([3, 1], [6, 2], 0), ([5, 0], [0, 7], 1), ([4], [9], 0)])
def test_js_distance_at_its_ends(first, second, expected):
    assert js_distance(np.array(first), np.array(second)) == pytest.approx(expected)


def test_js_distance_worked_by_hand():
    # P = (1, 0), Q = (1/2, 1/2), M = (3/4, 1/4): divergence (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2.
    divergence = (np.log2(4 / 3) + (np.log2(2 / 3) + 1) / 2) / 2
    assert js_distance(np.array([8, 0]), np.array([5, 5])) == pytest.approx(divergence**0.5)


def test_classifier_sees_what_there_is_to_see():
    rng = np.random.default_rng(0)
    same = rng.standard_normal((2, 150, 3))
    assert classifier_accuracy(*same) == pytest.approx(0.5, abs=0.1)  # four standard errors are 0.12
    assert classifier_accuracy(same[0], same[1] + np.array([9, 0, 0])) == 1


def test_description_and_distances_worked_by_hand():
    """A click and a horizontal stroke that presses twice, beside two clicks; x of the stroke moves in 3 of its 4 steps."""
    click = np.array([[0.5, 0.5, press] for press in (0, 1, 1, 0, 0)])
    stroke = np.array([[0.1, 0.5, 1], [0.3, 0.5, 1], [0.5, 0.5, 0], [0.7, 0.5, 1], [0.7, 0.5, 0]])
    drawn, real = np.stack([click, stroke]), np.stack([click, click])
    types = {"none": 0, "click": 0.5, "horizontal": 0.5, "vertical": 0, "diagonal": 0}
    assert describe(drawn) == pytest.approx({**types, "one_press": 0.5, "exact_rests": 13 / 16})
    measured = distances(drawn, real)
    assert measured.pop("frechet_distance") > 1
    assert measured == pytest.approx({"type_distance": 0.5, "one_press_gap": 0.5, "exact_rests_gap": 3 / 16})
    assert distances(drawn, drawn) == pytest.approx(dict.fromkeys(distances(drawn, drawn), 0), abs=1e-9)
    assert np.isnan(distances(drawn, real[:1])["frechet_distance"])


def test_the_same_distribution_is_at_its_floor_and_another_is_not():
    real = gestures(240, seed=1)
    alike = measure_realism(gestures(120, seed=2), real)
    assert alike.num_sequences == 120
    assert not alike.reason
    assert alike.figures["classifier_accuracy"].value < 0.65
    clicks = measure_realism(gestures(120, seed=2, action_type="click"), real)
    for name, each in clicks.figures.items():
        assert each.floor == pytest.approx(alike.figures[name].floor, abs=0.1)
    for name in ("classifier_accuracy", "frechet_distance", "js_path_length", "js_peak_speed", "js_gesture_type"):
        assert clicks.figures[name].value > clicks.figures[name].floor + 0.2, name
        assert clicks.figures[name].value > alike.figures[name].value + 0.15, name
    assert clicks.type_shares["drawn"]["click"] == 1
    assert 0.1 < clicks.type_shares["real"]["click"] < 0.5


@pytest.mark.parametrize(
    ("drawn", "held_out"), [(MIN_SEQUENCES - 1, 2 * MIN_SEQUENCES), (MIN_SEQUENCES, 2 * MIN_SEQUENCES - 1)]
)
def test_too_few_sequences_are_said_to_be_too_few(drawn, held_out):
    realism = measure_realism(gestures(drawn, seed=2), gestures(held_out, seed=1))
    assert realism.figures == {}
    assert f"not computed from {drawn} drawn and {held_out} real sequences" in realism.reason
    assert sum(realism.type_shares["drawn"].values()) == pytest.approx(1)


@pytest.mark.parametrize("package", ["scipy", "sklearn"])
def test_missing_package_is_one_line(package, tmp_path):
    """In a process in which the package cannot be imported; the rest of the package can do without."""
    script = f"""
import sys
sys.modules["{package}"] = None
import numpy as np
from action_ddim.errors import UserError
from action_ddim.evaluation.realism import measure_realism
try:
    measure_realism(np.zeros((2, 9, 3)), np.zeros((2, 9, 3)))
except UserError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'pip install "action-ddim[eval]"' in result.stdout
    assert result.stdout.count("\n") == 1
