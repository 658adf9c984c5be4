"""Gestures in words are exact whatever the model says: these are of one that was never trained."""

import numpy as np
import pytest
import torch

from action_ddim import ActionDDIMPipeline
from action_ddim.data.features import action_features
from action_ddim.planning.gestures import click, double_click, drag, perform, swipe
from tests.conftest import SEQ_LEN

RATE = 50.0  # 20 ms a step: the 20 steps of the toy model last 400 ms


@pytest.fixture
def pipeline(model) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def done(pipeline, gestures) -> np.ndarray:
    return perform(pipeline, gestures, 3, torch.Generator().manual_seed(0))


def pressed_steps(actions: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(sequence[:, 2]).tolist() for sequence in actions]


def test_clicks_are_at_their_targets_and_press_once(pipeline):
    targets = np.random.default_rng(0).random((100, 2), dtype=np.float32)
    actions = done(pipeline, click(targets, SEQ_LEN, RATE, duration_ms=80, onset_ms=100))
    assert pressed_steps(actions) == [[5, 6, 7, 8]] * 100  # from 100 ms, 80 ms of 20 ms a step
    assert (actions[:, 5:9, :2] == targets[:, None]).all()


def test_click_is_in_the_middle_by_default(pipeline):
    actions = done(pipeline, click((0.3, 0.7), SEQ_LEN, RATE, duration_ms=80))
    assert pressed_steps(actions) == [[8, 9, 10, 11]]


def test_double_click_presses_twice_at_one_place(pipeline):
    actions = done(pipeline, double_click((0.3, 0.7), SEQ_LEN, RATE, duration_ms=40, pause_ms=60, onset_ms=60))
    assert pressed_steps(actions) == [[3, 4, 8, 9]]
    assert (actions[0, 3:10, :2] == np.float32([0.3, 0.7])).all()
    assert action_features(actions)["num_presses"] == 2


def test_swipe_goes_from_place_to_place_in_its_time(pipeline):
    actions = done(pipeline, swipe((0.1, 0.2), [[0.8, 0.9], [0.5, 0.5]], SEQ_LEN, RATE, duration_ms=200, onset_ms=40))
    assert pressed_steps(actions) == [list(range(2, 12))] * 2
    assert (actions[:, 2, :2] == np.float32([0.1, 0.2])).all()
    assert (actions[:, 11, :2] == np.float32([[0.8, 0.9], [0.5, 0.5]])).all()


def test_drag_passes_through_its_points_at_minimum_jerk():
    points = [(0.1, 0.5), (0.3, 0.5), (0.5, 0.5)]
    known, mask = drag(points, 101, 100.0, duration_ms=1010, onset_ms=0)
    # Half of the way at half of the time, as the profile is symmetric.
    assert np.flatnonzero(mask[0, :, 0]).tolist() == [0, 50, 100]
    assert known[0, [0, 50, 100], :2] == pytest.approx(np.array(points))
    known, mask = drag([(0.0, 0.5), (0.1, 0.5), (1.0, 0.5)], 101, 100.0, duration_ms=1010, onset_ms=0)
    (step,) = set(np.flatnonzero(mask[0, :, 0])) - {0, 100}
    tau = step / 100
    assert tau**3 * (10 - 15 * tau + 6 * tau**2) == pytest.approx(0.1, abs=0.02)  # where the profile has a tenth behind it


def test_pointer_starts_where_it_is(pipeline):
    actions = done(pipeline, click((0.3, 0.7), SEQ_LEN, RATE, start=(0.9, 0.1)))
    assert actions[0, 0].tolist() == np.float32([0.9, 0.1, 0]).tolist()


@pytest.mark.parametrize(
    ("gesture", "message"),
    [
        (lambda: click((0.3, 1.7), SEQ_LEN, RATE), "outside"),
        (lambda: click((0.3, float("nan")), SEQ_LEN, RATE), "outside"),
        (lambda: click((0.3, 0.7, 0.1), SEQ_LEN, RATE), "shape"),
        (lambda: click((0.3, 0.7), SEQ_LEN, 0), "rate is 0; give the steps a second"),
        (lambda: click((0.3, 0.7), SEQ_LEN, -500), "rate is -500"),
        (lambda: click((0.3, 0.7), SEQ_LEN, float("nan")), "rate is nan"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, duration_ms=500), "400 ms long"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, onset_ms=380), "from 380 ms on"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, onset_ms=-40), "onset_ms is -40; give milliseconds, 0 or more"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, onset_ms=float("nan")), "onset_ms is nan"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, onset_ms=float("inf")), "onset_ms is inf"),
        (lambda: swipe((0.3, 0.7), (0.6, 0.2), SEQ_LEN, RATE, duration_ms=20), "2 places do not fit into a stroke of 1 steps"),
        (lambda: drag([(0.3, 0.7), (0.6, 0.2), (0.1, 0.1)], SEQ_LEN, RATE, duration_ms=40), "3 places do not fit"),
        (lambda: click((0.3, 0.7), SEQ_LEN, RATE, onset_ms=0, start=(0.1, 0.1)), "step 0"),
    ],
)
def test_impossible_gestures_are_refused(gesture, message):
    with pytest.raises(ValueError, match=message):
        gesture()
