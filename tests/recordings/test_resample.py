"""Steps at a fixed rate, against places worked by hand."""

import numpy as np
import pytest

from action_ddim.recordings.resample import resample
from action_ddim.recordings.trace import Counts, Recording, make_trace, trace_of_strokes

MOUSE, PEN = Recording("m", "mouse"), Recording("p", "pen", strokes=True)


def mouse(time, x, press, **marks):
    marks = {name: np.array(mark, bool) for name, mark in marks.items()}
    return make_trace(MOUSE, time, x, np.full(len(time), 0.25), press, **marks)


def test_places_are_linear_in_time_and_press_is_the_row_before():
    steps = resample(mouse([0, 0.016, 0.032], [0.1, 0.3, 0.4], [0, 1, 0]), 125, 0.016, Counts())
    assert steps.dtype == np.float32
    assert np.allclose(steps, [[0.1, 0.25, 0], [0.2, 0.25, 0], [0.3, 0.25, 1], [0.35, 0.25, 1], [0.4, 0.25, 0]])


def test_a_step_at_the_time_of_a_row_has_its_place():
    generator = np.random.default_rng(0)
    time = np.cumsum(generator.integers(1, 30, 500)) / 1000
    x, press = generator.random(500), generator.random(500) < 0.5
    rows = np.round((time - time[0]) * 1000).astype(int)
    for start, far in ((0, 1e-7), (1.7e9, 3e-4)):  # seconds since 1970 are exact to 2e-7, where a gap may be a millisecond
        steps = resample(mouse(time + start, x, press), 1000, 0.03, Counts())
        assert np.abs(steps[rows, 0] - x).max() < far
        assert (steps[rows, 2] == press).all()


def test_a_mouse_that_sends_nothing_rests_and_sets_out_an_interval_before_the_next_row():
    steps = resample(mouse([0, 0.01, 0.21], [0.1, 0.2, 0.4], [0] * 3), 100, 0.01, Counts())
    assert np.allclose(steps[:2, 0], [0.1, 0.2])
    assert (steps[1:21, 0] == np.float32(0.2)).all()  # to the last bit; a line would be a drift
    assert steps[21, 0] == np.float32(0.4)


def test_strokes_rest_until_the_next_begins():
    strokes = [np.array([[0, 0.1, 0.1], [0.01, 0.2, 0.1]]), np.array([[0.05, 0.8, 0.8], [0.06, 0.9, 0.8]])]
    steps = resample(trace_of_strokes(PEN, strokes), 100, 0.01, Counts())
    assert np.allclose(steps[:, 0], [0.1, 0.2, 0.2, 0.2, 0.2, 0.8, 0.9, 0.9])
    assert steps[:, 2].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]  # the last row of a stroke is seen for an interval


def test_a_dot_is_a_press_of_an_interval():
    steps = resample(trace_of_strokes(PEN, [np.array([[0, 0.5, 0.5]]), np.array([[1, 0.7, 0.7]])]), 100, 0.02, Counts())
    assert np.flatnonzero(steps[:, 2]).tolist() == [0, 1, 100, 101, 102]


def test_a_release_that_no_row_tells_is_a_click_later():
    piece = mouse([0, 0.01, 1, 1.01], [0.5] * 4, [0, 1, 0, 0], lost=[0, 0, 1, 0])
    steps = resample(piece, 100, 0.01, Counts())
    assert np.flatnonzero(steps[:, 2]).tolist() == list(range(1, 9))  # 80 ms
    assert np.flatnonzero(resample(mouse([0, 0.01, 1], [0.5] * 3, [0, 1, 0]), 100, 0.01, Counts())[:, 2]).tolist() == list(
        range(1, 100)
    )


def test_a_press_between_two_steps_takes_the_second():
    counts = Counts()
    steps = resample(mouse([0, 0.011, 0.017, 0.05], [0.5] * 4, [0, 1, 0, 0]), 100, 0.01, counts)
    assert np.flatnonzero(steps[:, 2]).tolist() == [2]
    assert counts.changed == {"short_press": 1}


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(count):
    steps = resample(mouse([3.0] * count, [0.5] * count, [1] * count), 125, 0.01, Counts())
    assert steps.tolist() == [[0.5, 0.25, 1]] * count
