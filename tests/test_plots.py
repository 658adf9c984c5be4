import numpy as np
import pytest
from matplotlib.figure import Figure

from action_ddim.gestures import GestureConfig, generate
from action_ddim.plots import MAX_ROWS, figure_to_image, plot_reconstructions, plot_samples


@pytest.fixture
def actions() -> np.ndarray:
    return next(generate(GestureConfig(num_sequences=7, sequence_length=30)))


def lines(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in axis.get_lines()}


def test_reconstructions_show_the_three_stages_and_both_strokes(actions):
    figure = plot_reconstructions(actions, actions + 0.5, 1 - actions)
    assert isinstance(figure, Figure)
    axes = np.reshape(figure.axes, (MAX_ROWS, 4))  # the seventh sequence is left out
    for row in range(MAX_ROWS):
        for column, shown in enumerate((actions, actions + 0.5, 1 - actions)):
            np.testing.assert_array_equal(lines(axes[row, column])["x"], shown[row, :, 0])
            np.testing.assert_array_equal(lines(axes[row, column])["y"], shown[row, :, 1])
        pressed = actions[row, :, 2] == 1
        stroke = lines(axes[row, 3])["original"]
        np.testing.assert_array_equal(stroke[pressed], actions[row, pressed, 1])
        assert np.isnan(stroke[~pressed]).all()
        assert axes[row, 3].yaxis_inverted()  # y grows downwards


@pytest.mark.parametrize("count", [1, 5, 7])
def test_sample_sheet_shows_each_sequence_once(actions, count):
    figure = plot_samples(actions[:count])
    visible = [axis for axis in figure.axes if axis.get_visible()]
    over_time = [axis for axis in visible if "x" in lines(axis)]
    assert len(visible) == 2 * count
    for axis, sequence in zip(over_time, actions, strict=False):
        np.testing.assert_array_equal(lines(axis)["x"], sequence[:, 0])


def test_presses_are_not_joined_and_each_has_a_start(actions):
    sequence = actions[:1].copy()
    sequence[0, :, 2] = np.isin(np.arange(30), [0, 1, 7, 8, 29])
    sequence[0, :, 0] = np.linspace(0, 1, 30)
    (screen,) = (axis for axis in plot_samples(sequence).axes if "pressed" in lines(axis))
    path, starts = screen.get_lines()
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(path.get_xdata())), [0, 1, 7, 8, 29])
    np.testing.assert_array_equal(starts.get_xdata(), sequence[0, [0, 7, 29], 0])


def test_sequence_that_is_never_pressed_is_drawn(actions):
    actions[..., 2] = 0
    figure_to_image(plot_samples(actions))


def test_image_is_what_trackers_take(actions):
    image = figure_to_image(plot_samples(actions[:1]))
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert image.min() < 100 < image.max()
