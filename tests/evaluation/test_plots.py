import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from action_ddim.evaluation.metrics import TARGETS
from action_ddim.evaluation.plots import (
    MAX_ROWS,
    figure_to_image,
    image_to_png,
    plot_distributions,
    plot_error_by_timestep,
    plot_giveaways,
    plot_learning_curves,
    plot_noise_comparison,
    plot_reconstructions,
    plot_samples,
)
from action_ddim.evaluation.realism import Comparison
from augmentation.gestures import GestureConfig, generate


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
    whole, path, starts = screen.get_lines()
    np.testing.assert_array_equal(whole.get_xydata(), sequence[0, :, :2])
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(path.get_xdata())), [0, 1, 7, 8, 29])
    np.testing.assert_array_equal(starts.get_xdata(), sequence[0, [0, 7, 29], 0])


def test_sequence_that_is_never_pressed_is_drawn(actions):
    actions[..., 2] = 0
    figure_to_image(plot_samples(actions))


def test_noise_maps_share_one_colour_scale(actions):
    true, predicted = np.random.default_rng(0).standard_normal((2, *actions.shape))
    figure = plot_noise_comparison(true, predicted, 499)
    maps = [axis.get_images()[0] for axis in figure.axes if axis.get_images()]
    assert len(maps) == 9
    assert {each.get_clim() for each in maps} == {(-3, 3)}
    for channel in range(3):
        shown = [each.get_array() for each in maps[3 * channel : 3 * channel + 3]]
        np.testing.assert_allclose(shown[0], true[..., channel])
        np.testing.assert_allclose(shown[1], predicted[..., channel])
        np.testing.assert_allclose(shown[2], (predicted - true)[..., channel])
    assert "499" in figure.get_suptitle()


def make_history(counts: list[int]) -> list[dict[str, float]]:
    """Return the metrics of a run that validated so many sequences in each of its epochs."""
    names = [name for target in TARGETS for name in target.metrics]
    return [
        {"epoch": epoch, "val/num_sequences": count, "train/loss": 1 / epoch, "val/loss": 2 / epoch}
        | {f"val/{name}": 0.5 / epoch for name in names}
        for epoch, count in enumerate(counts, 1)
    ]


@pytest.mark.parametrize("num_epochs", [1, 12])
def test_learning_curves_show_every_target_and_the_documented_rise(num_epochs):
    history = make_history([256] * num_epochs)
    figure = plot_learning_curves(history)
    figure_to_image(figure)
    panels = {axis.get_title().split(",")[0]: axis for axis in figure.axes if axis.get_title()}
    assert set(panels) == {"loss", *(target.name for target in TARGETS)}
    for target in TARGETS:
        axis = panels[target.name]
        curves = [line for line in axis.get_lines() if line.get_label() != "documented rise"]
        assert len(curves) == len(target.metrics)
        np.testing.assert_allclose(curves[0].get_ydata(), [0.5 / epoch for epoch in range(1, num_epochs + 1)])
        (shade,) = axis.patches
        low, high = shade.get_y(), shade.get_y() + shade.get_height()
        for bound, edge in ((target.above, low), (target.below, high)):
            if np.isfinite(bound):
                assert edge == pytest.approx(bound)
        assert axis.get_ylim()[0] <= low < high <= axis.get_ylim()[1]
    rise = lines(panels["mean_snr_db"])["documented rise"]
    assert list(rise) == [5, 10]


def test_learning_curves_show_realism_where_it_was_looked_at():
    names = ("frechet_distance", "type_distance", "one_press_gap", "exact_rests_gap")
    history = make_history([256] * 4)
    for row in history[1::2]:
        row |= {f"val/realism/{name}": place / row["epoch"] for place, name in enumerate(names)}
    figure = plot_learning_curves(history)
    figure_to_image(figure)
    panel = lines(next(axis for axis in figure.axes if axis.get_title().startswith("drawn beside real")))
    assert {name: list(values) for name, values in panel.items()} == {
        name.replace("_", " "): [place / 2, place / 4] for place, name in enumerate(names)
    }


def test_epochs_that_were_measured_on_all_sequences_stand_apart():
    """The last one, and that of a run which was then continued with more epochs."""
    figure = plot_learning_curves(make_history([256, 1000, 256, 1000]))
    panels = {axis.get_title().split(",")[0]: lines(axis) for axis in figure.axes if axis.get_title()}
    assert list(panels["mse"]["measured"]) == pytest.approx([0.5, 0.5 / 3])
    assert list(panels["mse"]["measured, all 1000 sequences"]) == pytest.approx([0.5 / 2, 0.5 / 4])
    assert len(panels["loss"]["train/loss"]) == 4
    assert len(panels["loss"]["val/loss"]) == 2


@pytest.mark.parametrize("stretches", [{"0 to 9": 0.55, "10 to 19": 0.7}, {}])
def test_giveaways_are_sorted_features_and_stretches_in_order_of_time(stretches):
    by_feature = {"start_x": Comparison(0.5, 0.4), "rest": Comparison(0.9, 0.5), "onset": Comparison(0.6, 0.55)}
    figure = plot_giveaways(by_feature, {name: Comparison(value, 0.5) for name, value in stretches.items()})
    figure_to_image(figure)
    shown = {"feature": ["start x", "onset", "rest"], "stretch": ["10 to 19", "0 to 9"]}  # from the bottom
    for axis, kind in zip(figure.axes, ["feature", "stretch"] if stretches else ["feature"], strict=True):
        assert f"one {kind}" in axis.get_title()
        assert [label.get_text() for label in axis.get_yticklabels()] == shown[kind]
        assert not axis.yaxis_inverted()
    values, floors = (
        {line.get_label(): line.get_xdata() for line in figure.axes[0].get_lines()}[label]
        for label in ("drawn beside real", "real beside real, the floor")
    )
    assert list(values) == [0.5, 0.6, 0.9]
    assert list(floors) == [0.4, 0.55, 0.5]


def test_error_by_timestep_shows_both_curves_and_their_ceilings():
    figure = plot_error_by_timestep(
        [0, 500, 999],
        {"coord": [0.1, 0.2, 0.3], "press": [0.4, 0.5, 0.6], "copied_coord": [0.7] * 3, "copied_press": [0.8] * 3},
        {"coord": 1, "press": 2},
    )
    shown = lines(figure.axes[0])
    assert list(shown["x and y"]) == [0.1, 0.2, 0.3]
    assert list(shown["press"]) == [0.4, 0.5, 0.6]
    assert list(shown["x and y, input copied"]) == [0.7] * 3
    assert list(shown["press, always the mean"]) == [2, 2]


def test_distributions_are_shares_over_the_same_bins():
    rng = np.random.default_rng(0)
    drawn, real = {"way": rng.random(50), "rest": np.zeros(50)}, {"way": rng.random(200) + 0.5, "rest": np.zeros(200)}
    figure = plot_distributions(drawn, real)
    assert [axis.get_xlabel() for axis in figure.axes] == ["way", "rest"]
    for axis in figure.axes:
        first, second = (patch.get_data() for patch in axis.patches)
        np.testing.assert_array_equal(first.edges, second.edges)
        assert first.values.sum() == pytest.approx(1)
        assert second.values.sum() == pytest.approx(1)


def test_png_holds_the_image(actions):
    image = figure_to_image(plot_samples(actions[:1]))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image_to_png(image)))), image)


def test_image_is_what_trackers_take(actions):
    image = figure_to_image(plot_samples(actions[:1]))
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert image.min() < 100 < image.max()
