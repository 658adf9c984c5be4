"""Strokes against closed forms, SciPy's lognormal, and a numerical integral of the model."""

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.special import erf
from scipy.stats import lognorm

from augmentation.action_types import PLANS, Canvas
from augmentation.strokes import RATE_HZ, TAIL, TREMOR_HZ, chords, humanize, make_strokes, trace, tremor


def stroke(way=0.4 + 0.3j, begin=10.0, end=60.0, **shape):
    """One stroke from 0.2, 0.1."""
    arrays = {name: np.array([[value]]) for name, value in {"begin": begin, "end": end, **shape}.items()}
    return make_strokes(np.array([0.2 + 0.1j]), np.array([[way]]), **arrays)


def plan(name, count=200, length=250, shortest=30, longest=80, seed=0):
    return PLANS[name][0](Canvas(count, length, (1, 1)), np.random.default_rng(seed), shortest, longest)


def test_straight_stroke_is_minimum_jerk_and_rests_before_and_after():
    places = trace(stroke(), 80)[0]
    t = np.clip((np.arange(80) - 10) / 50, 0, 1)
    np.testing.assert_allclose(places, 0.2 + 0.1j + (0.4 + 0.3j) * (10 * t**3 - 15 * t**4 + 6 * t**5), atol=1e-12)
    assert len(set(places[:11])) == 1
    assert len(set(places[60:])) == 1


def test_stroke_that_is_cut_ends_at_its_whole_way_in_motion():
    places = trace(stroke(cut=0.5), 80)[0]
    t = np.linspace(0, 0.5, 51)
    expected = 0.2 + 0.1j + (0.4 + 0.3j) * (10 * t**3 - 15 * t**4 + 6 * t**5) / 0.5  # half of the way is behind at 0.5
    np.testing.assert_allclose(places[10:61], expected, atol=1e-12)
    speed = np.abs(np.diff(places[10:61]))
    assert np.argmax(speed) == 49


@pytest.mark.parametrize("sigma", [0.2, 0.35])
def test_speed_of_a_lognormal_stroke_is_that_of_scipy(sigma):
    """On 5,000 steps, by central differences; the time after its begin at which `TAIL` sigmas are over is its end."""
    length, begin, end = 5000, 400, 4400
    places = trace(stroke(way=0.5, begin=begin, end=end, sigma=sigma), length)[0]
    scale = (end - begin) * np.exp(-TAIL * sigma)
    curve = lognorm(s=sigma, scale=scale)
    time = np.arange(length) - begin
    within = (time > 0) & (time < end - begin)
    np.testing.assert_allclose((places.real[within] - 0.2) / 0.5, curve.cdf(time[within]) / curve.cdf(end - begin), atol=1e-12)
    speed = np.gradient(places.real)
    inner = (time > 1) & (time < end - begin - 1)
    np.testing.assert_allclose(speed[inner], 0.5 * curve.pdf(time[inner]) / curve.cdf(end - begin), atol=1e-3 * speed.max())
    assert abs(time[np.argmax(speed)] - scale * np.exp(-(sigma**2))) < 2  # the mode of a lognormal


def test_arc_is_the_integral_of_the_model():
    """The speed and direction of the paper, integrated: a stroke of 0.6 that begins at 50 degrees and turns by -100."""
    sigma, length, begin, end, theta, turn = 0.3, 20_001, 1000, 19_000, np.deg2rad(50), np.deg2rad(-100)
    strokes = stroke(way=0.6 * np.exp(1j * theta), begin=begin, end=end, sigma=sigma, turn=turn)
    mu = np.log(end - begin) - TAIL * sigma
    t = np.linspace(1e-9, end - begin, 200_001)
    whole = (1 + erf(TAIL / np.sqrt(2))) / 2
    speed = 0.6 / (sigma * np.sqrt(2 * np.pi) * t) * np.exp(-((np.log(t) - mu) ** 2) / (2 * sigma**2)) / whole
    direction = theta + turn * (1 + erf((np.log(t) - mu) / (sigma * np.sqrt(2)))) / 2 / whole
    path = 0.2 + 0.1j + cumulative_trapezoid(speed * np.exp(1j * direction), t, initial=0)
    steps = np.arange(begin + 1, end)
    expected = np.interp(steps - begin, t, path.real) + 1j * np.interp(steps - begin, t, path.imag)
    np.testing.assert_allclose(trace(strokes, length)[0][steps], expected, atol=1e-6)
    np.testing.assert_allclose(0.2 + 0.1j + chords(strokes)[0, 0], path[-1], atol=1e-6)


def test_hand_comes_to_the_same_end_in_two_overlapping_bent_strokes():
    strokes = plan("two_stroke").strokes
    by_hand = humanize(strokes, np.random.default_rng(1))
    assert by_hand.way.shape[1] == 2 * strokes.way.shape[1]
    plain, hand = trace(strokes, 250), trace(by_hand, 250)
    for step in (0, -1):
        np.testing.assert_allclose(hand[:, step], plain[:, step], atol=1e-12)
    first, second = (slice(0, 3), slice(3, 6))
    assert (by_hand.begin[:, second] < by_hand.end[:, first]).all()
    assert (by_hand.end[:, second] == strokes.end).all()
    assert ((by_hand.sigma >= 0.2) & (by_hand.sigma <= 0.35)).all()
    # Bent by chance, to either side: the first strokes turn as a normal of deviation 0.25 does.
    assert abs(by_hand.turn[:, first].std() - 0.25) < 5 * 0.25 / np.sqrt(2 * 600)


def test_circle_of_a_hand_goes_round_once_and_does_not_quite_close():
    strokes = plan("circle").strokes
    path = trace(humanize(strokes, np.random.default_rng(2)), 250)
    radius = np.abs(strokes.way[:, 0]) / (2 * np.pi)
    gap = np.abs(path[:, -1] - path[:, 0]) / radius
    assert 0.02 < np.median(gap) < 0.5
    centre = ((path.real.max(axis=1) + path.real.min(axis=1)) + 1j * (path.imag.max(axis=1) + path.imag.min(axis=1))) / 2
    turned = np.unwrap(np.angle(path - centre[:, None]), axis=1)
    np.testing.assert_allclose((turned[:, -1] - turned[:, 0]) / strokes.turn[:, 0], 1, atol=0.15)
    distance = np.abs(path - centre[:, None]) / radius[:, None]
    assert 0.6 < distance.min() < distance.max() < 1.3
    assert abs(np.median(distance) - 0.94) < 0.04  # arcs reach .94 of their way


def test_tremor_has_its_frequency_and_size_and_is_exactly_none_at_rest():
    strokes = stroke(begin=100, end=1100)
    strokes = type(strokes)(*(np.repeat(values, 200, axis=0) for values in strokes))
    shaking = tremor(strokes, 1300, np.random.default_rng(0), np.arange(200))
    assert (shaking[:, :101] == 0).all()
    assert (shaking[:, 1100:] == 0).all()
    frequency = np.fft.rfftfreq(1300, 1 / RATE_HZ)
    for axis in (shaking.real, shaking.imag):
        power = (np.abs(np.fft.rfft(axis)) ** 2).sum(axis=0)
        near = (frequency > TREMOR_HZ[0] - 0.5) & (frequency < TREMOR_HZ[1] + 0.5)
        assert power[near].sum() > 0.99 * power.sum()
        assert 9.5 < (frequency * power).sum() / power.sum() < 10.5
        # In the middle, three sines of a third of 0.0003 to 0.0012 each: their mean square is size^2 / 6.
        expected = (0.0012**3 - 0.0003**3) / 3 / 0.0009 / 6
        assert np.mean(axis[:, 600] ** 2) == pytest.approx(expected, rel=0.5)
    resting = plan("double_click").strokes
    assert (tremor(resting, 250, np.random.default_rng(0), np.arange(200)) == 0).all()
