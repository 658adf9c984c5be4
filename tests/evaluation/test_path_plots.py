import numpy as np
import pytest

from action_ddim.evaluation.path_plots import plot_filled, plot_interpolation
from action_ddim.evaluation.plots import MAX_ROWS, figure_to_image
from action_ddim.inpainting import build_mask
from augmentation.gestures import GestureConfig, generate
from tests.evaluation.test_plots import lines

SEQ_LEN = 30


@pytest.fixture
def actions() -> np.ndarray:
    return next(generate(GestureConfig(num_sequences=7, sequence_length=SEQ_LEN)))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_interpolation_shows_every_action_in_its_order(actions, count):
    figure = plot_interpolation(actions[:count])
    figure_to_image(figure)
    over_time, screen = np.reshape(figure.axes, (2, count))
    for sequence, above, below in zip(actions, over_time, screen, strict=False):
        np.testing.assert_array_equal(lines(above)["x"], sequence[:, 0])
        np.testing.assert_array_equal(lines(above)["y"], sequence[:, 1])
        np.testing.assert_array_equal(lines(below)["whole way"], sequence[:, 1])
        assert below.yaxis_inverted()  # y grows downwards
    assert [axis.get_title() for axis in over_time[[0, -1]]] == (["first", "last"] if count > 1 else ["first", "first"])


@pytest.mark.parametrize(
    "words", [{"start": True, "end": True}, {"prefix": 5}, {"press": True}, {"waypoints": [3], "press": True}], ids=str
)
def test_filled_shows_what_was_given_beside_each_way_to_fill_it_in(actions, words):
    known, mask = actions[0].copy(), build_mask(SEQ_LEN, **words)
    known[~mask] = 0.123  # must not be seen
    figure = plot_filled(known, mask, actions)
    figure_to_image(figure)
    over_time, screen = np.reshape(figure.axes, (2, 1 + MAX_ROWS))  # the seventh is left out
    given = np.where(mask, known, np.nan)
    for above, below in zip(over_time, screen, strict=True):
        np.testing.assert_array_equal(lines(above)["given x"], given[:, 0])
        np.testing.assert_array_equal(lines(above)["given y"], given[:, 1])
        np.testing.assert_array_equal(np.isfinite(lines(above)["given press"]), mask[:, 2])
        np.testing.assert_array_equal(lines(below)["given place"], given[:, 1])
    np.testing.assert_array_equal(lines(over_time[0])["x"], given[:, 0])
    assert "whole way" not in lines(screen[0])
    for sequence, above, below in zip(actions, over_time[1:], screen[1:], strict=False):
        np.testing.assert_array_equal(lines(above)["x"], sequence[:, 0])
        np.testing.assert_array_equal(lines(below)["whole way"], sequence[:, 1])
