"""Each action type against its definition, worked out from the actions alone; by a hand and not."""

import hashlib
import itertools
import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import chi2

from action_ddim.actions import find_invalid
from action_ddim.cli.main import generate as generate_verb
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import UserError
from augmentation.action_types import PLANS
from augmentation.gestures import ACTION_TYPES, BLOCK, GestureConfig, draw_plan, generate
from augmentation.strokes import trace
from tests.conftest import one_line

PRESSES = {**dict.fromkeys(ACTION_TYPES, 1), "double_click": 2, "two_stroke": 2}
RESTING = ("click", "long_press", "double_click")
VARIANTS = ({}, {"human": True}, {"screen": (1920, 1080)}, {"human": True, "screen": (1080, 1920)}, {"idle": "zero"})


def draw(count=300, **settings):
    return np.concatenate(list(generate(GestureConfig(count, **settings))))


class Gesture(NamedTuple):
    places: np.ndarray  # (L, 2), in float64
    presses: list[tuple[int, int]]  # first and last step of each


def gestures(actions):
    for sequence in actions:
        edges = np.flatnonzero(np.diff(sequence[:, 2], prepend=0, append=0))
        yield Gesture(
            sequence[:, :2].astype(np.float64), list(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True))
        )


def minimum_jerk(steps):
    t = np.linspace(0, 1, steps)
    return 10 * t**3 - 15 * t**4 + 6 * t**5


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("name", ACTION_TYPES)
def test_every_type_keeps_the_contract_its_presses_and_exact_rests(name, variant):
    actions = draw(200, action_type=name, **variant)
    assert actions.dtype == np.float32
    assert find_invalid(actions.reshape(-1, 3)) is None
    for gesture in gestures(actions):
        assert len(gesture.presses) == PRESSES[name]
        (first, _), (_, last) = gesture.presses[0], gesture.presses[-1]
        assert 1 <= last - first + 1 <= 75
        outside = np.concatenate([gesture.places[:first], gesture.places[last + 1 :]])
        if variant.get("idle") == "zero":
            assert (outside == 0).all()
        else:
            assert (gesture.places[:first] == gesture.places[first]).all()
            assert (gesture.places[last:] == gesture.places[last]).all()
            assert name not in RESTING or (gesture.places == gesture.places[0]).all()


@pytest.mark.parametrize("name", PLANS)
def test_shortest_gesture_of_each_type_is_possible_and_no_shorter(name):
    needed = PLANS[name][1]
    settings = {"action_type": name, "sequence_length": 100, "min_delta_t_pct": 0.01, "max_delta_t_pct": needed / 100}
    for variant in ({}, {"human": True}):
        for gesture in gestures(draw(**settings, **variant)):
            assert len(gesture.presses) == PRESSES[name]
            assert gesture.presses[-1][1] - gesture.presses[0][0] + 1 == needed
    if needed > 1:
        with pytest.raises(UserError, match=rf"--action_type {name} takes at least {needed} steps, and --max_delta_t_pct"):
            GestureConfig(**{**settings, "max_delta_t_pct": (needed - 1) / 100})


def test_long_press_lasts_the_longer_half():
    durations = [
        last - first + 1 for gesture in gestures(draw(2000, action_type="long_press")) for first, last in gesture.presses
    ]
    assert set(durations) == set(range(40, 76))  # of 5 to 75


def test_double_click_has_two_like_presses_and_a_gap_of_a_fifth_to_a_half():
    for gesture in gestures(draw(action_type="double_click")):
        (start, first), (second, end) = gesture.presses
        whole, gap = end - start + 1, second - first - 1
        assert gap >= 1
        assert 0.2 * whole - 1 <= gap <= 0.5 * whole + 1
        one, other = first - start + 1, end - second + 1
        assert abs(one - other) <= 0.2 * (one + other) + 2


def test_drag_goes_by_straight_minimum_jerk_legs_over_one_to_three_waypoints():
    """In float64, where the slightest movement has a direction: a leg ends where that changes."""
    config, numbers = GestureConfig(action_type="drag", min_delta_t_pct=0.1), []
    plan = draw_plan(config, 0)
    for places, onset, duration in zip(trace(plan.strokes, 250), plan.onset[:, 0], plan.duration[:, 0], strict=True):
        path = places[onset : onset + duration]
        assert path[0] == path[1]  # it holds before it goes, and after
        assert path[-1] == path[-2]
        ways = np.diff(path)
        moving = np.flatnonzero(np.abs(ways) > 1e-9)
        turns = np.abs(np.diff(ways[moving] / np.abs(ways[moving]))) > 1e-4
        stops = [moving[0], *moving[1:][turns], moving[-1] + 1]
        numbers.append(len(stops) - 2)
        for begin, end in itertools.pairwise(stops):
            leg = path[begin : end + 1]
            np.testing.assert_allclose(leg, leg[0] + (leg[-1] - leg[0]) * minimum_jerk(len(leg)), atol=1e-9)
    counts = np.bincount(numbers, minlength=4)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - BLOCK / 3) < 5 * np.sqrt(BLOCK * 2 / 9)).all()


@pytest.mark.parametrize("screen", [None, (1920, 1080), (600, 900)])
def test_circle_is_round_in_pixels_and_goes_round_once_at_minimum_jerk(screen):
    actions = draw(action_type="circle", min_delta_t_pct=0.2, screen=screen)
    size = np.array(screen or (1, 1))
    rounding = 1.5 if screen else 1e-6
    turns = []
    for gesture in gestures(actions):
        ((first, last),) = gesture.presses
        path = gesture.places[first : last + 1] * size
        # The circle through all: x^2 + y^2 = 2 a x + 2 b y + c, by least squares.
        a, b, c = np.linalg.lstsq(np.column_stack([2 * path, np.ones(len(path))]), (path**2).sum(axis=1), rcond=None)[0]
        radius = np.sqrt(c + a * a + b * b)
        assert 0.05 * min(size) - rounding < radius < 0.25 * min(size) + rounding
        offset = (path - (a, b)) @ (1, 1j)
        assert np.abs(np.abs(offset) - radius).max() < rounding
        angle = np.unwrap(np.angle(offset))
        assert abs(abs(angle[-1] - angle[0]) - 2 * np.pi) < 3 * rounding / radius
        np.testing.assert_allclose((angle - angle[0]) / (angle[-1] - angle[0]), minimum_jerk(len(path)), atol=rounding / radius)
        turns.append(angle[-1] > angle[0])
    assert 0.35 < np.mean(turns) < 0.65


def test_scroll_flick_is_straight_up_or_down_and_let_go_at_its_fastest():
    down = []
    for gesture in gestures(draw(action_type="scroll_flick", min_delta_t_pct=0.06)):
        ((first, last),) = gesture.presses
        assert last - first + 1 <= 45  # the shorter half of 15 to 75
        path = gesture.places[first : last + 1]
        assert len(set(gesture.places[:, 0])) == 1
        distance = path[-1, 1] - path[0, 1]
        assert 0.15 - 1e-6 < abs(distance) < 0.6 + 1e-6
        speed = np.diff(path[:, 1]) / distance
        assert (speed > 0).all()
        assert speed[-1] > 0.75 * speed.max()
        down.append(distance > 0)
    assert 0.35 < np.mean(down) < 0.65


def test_two_stroke_draws_two_lines_and_moves_between_them():
    for gesture in gestures(draw(action_type="two_stroke")):
        (start, first), (second, end) = gesture.presses
        for begin, stop in ((start, first), (first, second), (second, end)):
            leg = gesture.places[begin : stop + 1]
            expected = leg[0] + (leg[-1] - leg[0]) * minimum_jerk(len(leg))[:, None]
            np.testing.assert_allclose(leg, expected, atol=1e-6)
            assert stop > begin
        # A gap of 0.15 to 0.35 of what the shortest leaves, and at least a step.
        spare = end - start + 1 - 5
        assert 0.15 * spare - 1 <= second - first - 2 <= 0.35 * spare


@pytest.mark.parametrize("name", ACTION_TYPES)
def test_hand_presses_and_begins_as_without_and_moves_otherwise(name):
    plain, hand = (draw(action_type=name, min_delta_t_pct=0.1, human=human) for human in (False, True))
    np.testing.assert_array_equal(hand[..., 2], plain[..., 2])
    if name in RESTING:
        np.testing.assert_array_equal(hand, plain)
        return
    moving = np.ptp(plain[..., :2], axis=1).max(axis=1) > 0
    assert (hand[moving] != plain[moving]).any(axis=(1, 2)).all()
    inside = ((hand[..., :2] > 0.02) & (hand[..., :2] < 0.98)).all(axis=(1, 2))  # those that the screen does not hold back
    np.testing.assert_allclose(hand[inside, 0], plain[inside, 0], atol=1e-6)
    assert inside.mean() > 0.7


def test_hand_bends_a_swipe_and_is_fastest_early():
    """A straight stroke has no sagitta and its highest speed at one half."""
    sagittas, peaks = [], []
    for gesture in gestures(draw(action_type="swipe", human=True, min_delta_t_pct=0.2)):
        ((first, last),) = gesture.presses
        path = gesture.places[first : last + 1] @ (1, 1j)
        chord = path[-1] - path[0]
        sagittas.append(np.abs(((path - path[0]) / chord).imag).max())
        peaks.append(np.argmax(np.abs(np.diff(path))) / (last - first))
    assert 0.01 < np.median(sagittas) < 0.1
    assert 0.2 < np.median(peaks) < 0.45


def test_screen_has_pixels():
    for screen in ((1920, 1080), (37, 53)):
        pixels = draw(100, action_type=("mixed", "drag"), human=True, screen=screen)[..., :2].astype(np.float64) * screen
        np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-4)
        plain = draw(100, action_type="swipe", screen=screen)[..., :2] - draw(100, action_type="swipe")[..., :2]
        assert (np.abs(plain) <= 0.5 / np.array(screen) + 1e-6).all()


def test_mixture_holds_the_sequences_of_its_types_in_shares_by_their_weights():
    names, weights = ("mixed", "circle", "double_click", "drag"), np.array([3, 1, 2, 0.5])
    settings = {"sequence_length": 40, "min_delta_t_pct": 0.3, "max_delta_t_pct": 0.6, "seed": 4}
    count = 3 * BLOCK + 17
    mixture = draw(count, action_type=names, weights=tuple(weights), **settings)
    alone = np.stack([draw(count, action_type=name, **settings) for name in names])
    same = (alone == mixture).all(axis=(2, 3))
    assert (same.sum(axis=0) == 1).all()
    counts, expected = same.sum(axis=1), count * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < chi2(len(names) - 1).ppf(0.999)
    same = (alone == draw(count, action_type=names, **settings)).all(axis=(2, 3)).sum(axis=1)
    assert ((same - count / 4) ** 2 / (count / 4)).sum() < chi2(len(names) - 1).ppf(0.999)


def test_sequence_depends_on_seed_and_index_alone():
    settings = {"action_type": tuple(ACTION_TYPES), "human": True, "sequence_length": 60, "max_delta_t_pct": 0.5}
    larger = draw(BLOCK + 40, **settings)
    np.testing.assert_array_equal(draw(30, **settings), larger[:30])
    other = draw(BLOCK + 40, seed=1, **settings)
    assert not (larger == other).all(axis=(1, 2)).any()
    assert not (larger[BLOCK:] == larger[:40]).all(axis=(1, 2)).any()


def test_weights_of_any_size_are_shares():
    huge = draw(50, action_type=("click", "swipe"), weights=(1e308, 1e308))
    np.testing.assert_array_equal(huge, draw(50, action_type=("click", "swipe"), weights=(1, 1)))


@pytest.mark.parametrize(
    ("settings", "digest", "projection"),
    [
        ({}, "f34583eab66232e4f759adce70bedb58743d21144c63d520aac58b998e107c8d", 192.02170686942947),
        (
            {"action_type": "click", "seed": 3},
            "21036fc58b22104c94d8302fc349d63fd8666887264e5c7ace4a30261ca23fa2",
            441.7494742357852,
        ),
        (
            {"action_type": "swipe", "idle": "zero", "seed": 2, "sequence_length": 100},
            "39978326297737ebd82192a01be3ffa6ea1f0b84eeff54bbf030637b0c77d1ea",
            -4.279201278950133,
        ),
    ],
    ids=str,
)
def test_what_version_0_1_wrote_is_written_still(settings, digest, projection, tmp_path):
    """`dataset.json` and presses byte for byte; places but for their last bits, which are the processor's."""
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert generate_verb(["--output_dir", str(tmp_path / "d"), "--num_sequences", "1100", *words]) == 0
    rows = np.concatenate([np.load(path) for path in sorted((tmp_path / "d").glob("*.npy"))]).astype(np.float64)
    exact = (tmp_path / "d" / "dataset.json").read_bytes() + rows[:, 2].astype(np.uint8).tobytes()
    assert hashlib.sha256(exact).hexdigest() == digest
    weights = np.random.default_rng(0).normal(size=rows[:, :2].shape)
    assert (rows[:, :2] * weights).sum() == pytest.approx(projection, rel=0, abs=1e-4)


def test_dataset_json_names_every_setting_and_the_reader_knows_them(tmp_path, capsys):
    folder = tmp_path / "d"
    words = [
        "--action_type",
        "drag",
        "circle",
        "--weights",
        "2",
        "1",
        "--human",
        "--screen",
        "1920x1080",
        "--num_sequences",
        "9",
    ]
    assert generate_verb(["--output_dir", str(folder), *words]) == 0
    info = json.loads((folder / "dataset.json").read_text())
    expected = {"action_type": ["drag", "circle"], "weights": [2, 1], "human": True, "screen": [1920, 1080], "rate_hz": 100}
    assert {name: info[name] for name in expected} == expected
    config = GestureConfig(9, ("drag", "circle"), weights=(2, 1), human=True, screen=(1920, 1080))
    capsys.readouterr()
    data = ActionDataset(folder)
    assert "mean nothing here" not in capsys.readouterr().err
    np.testing.assert_array_equal(data.read(range(9)).numpy(), next(generate(config)))
    assert replace(config, action_type=["drag"], weights=[5]).action_type == "drag"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--action_type", "tap"], "invalid choice: 'tap'"),
        (["--action_type", "drag", "drag"], "--action_type names drag twice; give its share by --weights"),
        (
            ["--action_type", "drag", "circle", "--weights", "1"],
            "--weights 1 are 1, of 2 types; give one for each --action_type",
        ),
        (["--weights", "1", "2"], "--weights 1 2 are 2, of 1 types"),
        (["--action_type", "drag", "circle", "--weights", "1", "0"], "--weights are 1 0; give numbers above 0"),
        (["--action_type", "drag", "circle", "--weights", "1", "nan"], "--weights are 1 nan; give numbers above 0"),
        (["--weights", "much"], "--weights: invalid float value: 'much'"),
        (["--screen", "1920"], "--screen: 1920 is no size; give width and height in pixels, as 1920x1080"),
        (["--screen", "1920x-1"], "--screen: 1920x-1 is no size"),
        (["--screen", "1x1080"], "--screen is 1x1080; give 2 to 65536 pixels a side"),
        (
            ["--action_type", "circle", "--sequence_length", "20"],
            "--action_type circle takes at least 9 steps, and --max_delta_t",
        ),
    ],
    ids=str,
)
def test_bad_flag_is_one_line_that_names_it(words, message, tmp_path, capsys):
    assert generate_verb(["--output_dir", str(tmp_path / "d"), *words]) == 2
    one_line(capsys, message)
    assert not (tmp_path / "d").exists()
