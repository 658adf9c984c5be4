"""Figures of realism against closed forms, scipy's own functions, and data that is known to be the same or not."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from action_ddim.data.features import action_features
from action_ddim.evaluation.realism import (
    MIN_SEQUENCES,
    Described,
    Realism,
    classifier_accuracy,
    describe,
    distances,
    feature_accuracies,
    frechet_distance,
    js_distance,
    measure_realism,
    on_grid,
    sequence_classifier_accuracy,
    without_rests,
)
from augmentation.gestures import GestureConfig, generate
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("small_judges")
VARIANTS = ("", "_on_grid", "_without_rests")
JUDGES = [f"{judge}classifier_accuracy{variant}" for judge in ("", "sequence_") for variant in VARIANTS]


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


@pytest.fixture(scope="module")
def alike(small_judges) -> Realism:
    return measure_realism(gestures(120, seed=2), gestures(240, seed=1))


def test_the_same_distribution_is_at_its_floor(alike):
    assert alike.num_sequences == 120
    assert not alike.reason
    assert set(JUDGES) < set(alike.figures)
    assert set(alike.by_feature) == set(action_features(gestures(1, seed=0)))
    assert list(alike.by_stretch) == ["0 to 9", "10 to 19", "20 to 29", "30 to 39"]
    accuracies = [alike.figures[name] for name in JUDGES] + [*alike.by_feature.values(), *alike.by_stretch.values()]
    for each in accuracies:  # a standard error of one halving is 0.03
        assert 0.35 < each.value < 0.65
        assert 0.35 < each.floor < 0.65


def test_another_distribution_is_far_from_its_floor(alike):
    real = gestures(240, seed=1)
    clicks = measure_realism(gestures(120, seed=2, action_type="click"), real, judged=False)
    assert set(alike.figures) - set(clicks.figures) == set(JUDGES[1:])
    assert clicks.by_feature == clicks.by_stretch == {}
    for name, each in clicks.figures.items():
        assert each.floor == pytest.approx(alike.figures[name].floor, abs=0.1)
    for name in ("classifier_accuracy", "frechet_distance", "js_path_length", "js_peak_speed", "js_gesture_type"):
        assert clicks.figures[name].value > clicks.figures[name].floor + 0.2, name
        assert clicks.figures[name].value > alike.figures[name].value + 0.15, name
    assert clicks.type_shares["drawn"]["click"] == 1
    assert 0.1 < clicks.type_shares["real"]["click"] < 0.5


def straight_lines(count: int, seed: int, length: int = 40) -> np.ndarray:
    """Pressed all the way, at an even speed from one random place to another."""
    start, end = np.random.default_rng(seed).uniform(0.1, 0.9, (2, count, 1, 2))
    xy = start + (end - start) * np.linspace(0, 1, length)[:, None]
    return np.concatenate([xy, np.ones((count, length, 1))], axis=2)


@pytest.mark.slow
def test_only_the_second_judge_sees_where_a_jitter_is_and_names_the_stretch():
    """The same jitter in one of four stretches: in the third in the drawn actions, in any of the others in the real ones."""
    jitter = 0.002 * np.array([0, 0, 1, -1, 1, -1, 1, -1, 0, 0])
    real, drawn = straight_lines(240, seed=1), straight_lines(120, seed=2)
    for sequence, stretch in zip(real, np.random.default_rng(3).choice([0, 1, 3], size=240), strict=True):
        sequence[10 * stretch : 10 * stretch + 10, :2] += jitter[:, None]
    drawn[:, 20:30, :2] += jitter[:, None]
    realism = measure_realism(drawn, real)
    assert realism.figures["classifier_accuracy"].value < 0.65
    assert realism.figures["sequence_classifier_accuracy"].value > 0.85
    assert max(realism.by_stretch, key=lambda name: realism.by_stretch[name].value) == "20 to 29"
    assert realism.by_stretch["20 to 29"].value > realism.by_stretch["20 to 29"].floor + 0.2


def test_feature_that_differs_is_named():
    real, drawn = straight_lines(120, seed=1), straight_lines(120, seed=2)
    rng = np.random.default_rng(3)
    for actions, earliest in ((real, 0), (drawn, 15)):
        for sequence, onset in zip(actions, rng.integers(earliest, earliest + 10, len(actions)), strict=True):
            sequence[:, 2] = (np.arange(40) >= onset) & (np.arange(40) < onset + 8)
    accuracies = feature_accuracies(Described.of(drawn), Described.of(real))
    assert accuracies["onset"] == 1
    assert [name for name, accuracy in accuracies.items() if accuracy > 0.8] == ["onset"]
    assert accuracies["press_time"] == 0.5  # eight steps in all of them


@pytest.mark.slow
def test_grid_hides_what_is_smaller_than_a_pixel():
    """Clicks at whole pixels, beside clicks that tremble by less than half a pixel."""
    real, drawn = straight_lines(240, seed=1), straight_lines(120, seed=2)
    for actions in (real, drawn):
        actions[..., :2] = np.round(actions[:, :1, :2] * (1920, 1080)) / (1920, 1080)
    still = drawn.copy()
    drawn[..., :2] += np.random.default_rng(3).uniform(-0.45, 0.45, (120, 40, 2)) / (1920, 1080)
    np.testing.assert_array_equal(on_grid(drawn), still)
    figures = measure_realism(drawn, real).figures
    for judge in ("classifier_accuracy", "sequence_classifier_accuracy"):
        assert figures[judge].value > 0.95
        assert figures[f"{judge}_on_grid"].value < 0.65


def with_rests(actions: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Hold each step of actions `(N, K, 3)` until the next one's time `(N, K)`, over twice as many steps."""
    steps = np.arange(2 * actions.shape[1])
    held = [np.searchsorted(time, steps, side="right") - 1 for time in times]
    return np.stack([sequence[step] for sequence, step in zip(actions, held, strict=True)])


@pytest.mark.slow
def test_cutting_the_rests_hides_what_lies_only_in_them():
    """The same motion: the real pointer rests on its way, at random, the drawn one at the end."""
    rng = np.random.default_rng(3)
    moving = [straight_lines(count, seed, length=20) for seed, count in ((1, 240), (2, 120))]
    for actions in moving:
        actions[..., :2] += 0.02 * rng.uniform(size=actions[..., :2].shape)
        actions[..., 2] = (np.arange(20) >= 5) & (np.arange(20) < 15)
    on_the_way = np.stack([np.sort(np.append(0, 1 + rng.permutation(39)[:19])) for _ in range(240)])
    at_the_end = np.tile(np.arange(20), (240, 1))
    rested = with_rests(moving[0], on_the_way)
    np.testing.assert_allclose(without_rests(rested), without_rests(with_rests(moving[0], at_the_end)))
    figures = measure_realism(with_rests(moving[1], at_the_end[:120]), rested).figures
    for judge in ("classifier_accuracy", "sequence_classifier_accuracy"):
        assert figures[judge].value > 0.95
        assert figures[f"{judge}_without_rests"].value < 0.65


def test_actions_on_a_grid_and_without_rests_worked_by_hand():
    actions = np.zeros((1, 5, 3), np.float32)
    actions[0, :, 0] = [0, 0.0001, 0.5, 0.5, 1]
    actions[0, :, 2] = [0, 0, 0, 1, 1]
    expected = actions.astype(np.float64)
    expected[0, :, 0] = [0, 0, 0.5, 0.5, 1]
    np.testing.assert_array_equal(on_grid(actions), expected)
    expected[0, :, 0] = [0, 0.375, 0.5, 0.625, 1]  # steps 0, 2, 3 and 4 are left; now a step is three quarters of theirs
    np.testing.assert_allclose(without_rests(actions), expected)


def test_nothing_is_cut_where_nothing_rests_and_all_but_the_place_where_nothing_happens():
    actions = straight_lines(5, seed=1)
    np.testing.assert_array_equal(without_rests(actions), actions)
    still = np.tile(actions[:, :1], (1, 40, 1))
    np.testing.assert_array_equal(without_rests(still), still)


@pytest.mark.slow
def test_figures_are_a_pure_function_and_leave_the_shared_generator_and_the_threads_as_they_were(alike):
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    again = measure_realism(gestures(120, seed=2), gestures(240, seed=1))
    np.testing.assert_array_equal(np.random.random(3), expected)
    assert torch.get_num_threads() == 1  # as tests/conftest.py says
    assert again == alike


def test_short_sequences_are_left_to_the_first_judge():
    """A kernel of MiniRocket is of nine steps."""
    realism = measure_realism(*(straight_lines(count, seed=1, length=8) for count in (MIN_SEQUENCES, 2 * MIN_SEQUENCES)))
    assert realism.by_stretch == {}
    assert set(JUDGES) & set(realism.figures) == set(JUDGES[:3])
    assert realism.by_feature
    assert realism.reason == "MiniRocket takes sequences of at least 9 steps, and these are of 8."


@pytest.mark.parametrize("length", [9, 40])
def test_sequences_that_never_change_are_all_alike_to_the_judges(length):
    actions = np.full((51, length, 3), 0.5, np.float32)
    assert sequence_classifier_accuracy(actions, actions, seed=2**32 - 1) == 0.5
    described = Described.of(without_rests(actions))
    assert set(feature_accuracies(described, described).values()) == {0.5}
    np.testing.assert_array_equal(without_rests(actions), actions)


def test_second_judge_sees_what_there_is_to_see():
    same = straight_lines(150, seed=1), straight_lines(150, seed=2)
    assert sequence_classifier_accuracy(*same) == pytest.approx(0.5, abs=0.1)
    turned = same[1].copy()
    turned[..., 0] += 0.05 * np.sin(np.arange(40))
    assert sequence_classifier_accuracy(same[0], turned) > 0.95


@pytest.mark.parametrize(
    ("drawn", "held_out"), [(MIN_SEQUENCES - 1, 2 * MIN_SEQUENCES), (MIN_SEQUENCES, 2 * MIN_SEQUENCES - 1)]
)
def test_too_few_sequences_are_said_to_be_too_few(drawn, held_out):
    realism = measure_realism(gestures(drawn, seed=2), gestures(held_out, seed=1))
    assert realism.figures == {}
    assert f"not computed from {drawn} drawn and {held_out} real sequences" in realism.reason
    assert sum(realism.type_shares["drawn"].values()) == pytest.approx(1)


@pytest.mark.parametrize("package", ["scipy", "sklearn", "aeon"])
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
