"""Synthetic gestures: what is drawn, along which curve, and what is written."""

import json
import os

import numpy as np
import pytest

from action_ddim.data.writer import KNOWN_KEYS, write_dataset
from action_ddim.errors import UserError
from augmentation import gestures
from augmentation.gestures import BLOCK, GestureConfig, generate, write_gestures
from tests.conftest import wait_for


def draw(**settings):
    return np.concatenate(list(generate(GestureConfig(**settings))))


def presses(actions):
    """Return onset and duration `(N,)` of the press of each sequence, after checking that it is one run of ones."""
    press = actions[..., 2]
    edges = np.diff(press, axis=1, prepend=0, append=0)
    assert set(np.unique(press)) == {0, 1}
    assert ((edges == 1).sum(axis=1) == 1).all()
    return np.argmax(edges == 1, axis=1), np.argmax(edges == -1, axis=1) - np.argmax(edges == 1, axis=1)


def write(folder, sequences_per_file=1000, overwrite=False, **settings):
    config = GestureConfig(**{"num_sequences": 5, "sequence_length": 10, "min_delta_t_pct": 0.1} | settings)
    write_gestures(config, folder, sequences_per_file=sequences_per_file, overwrite=overwrite)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_default_press_lasts_every_number_of_steps_from_5_to_75():
    actions = draw(num_sequences=4000)
    assert actions.shape == (4000, 250, 3)
    assert actions.dtype == np.float32
    assert set(presses(actions)[1]) == set(range(5, 76))


@pytest.mark.parametrize(
    ("shortest", "longest", "length", "expected"),
    [
        (0.02, 0.3, 250, (5, 75)),
        (0.07, 0.57, 100, (7, 57)),  # 7.000000000000001 and 56.99999999999999 in floating point
        (0.05, 0.25, 30, (2, 7)),
        (1e-6, 1.0, 10, (1, 10)),
    ],
)
def test_durations_are_the_whole_steps_between_the_fractions(shortest, longest, length, expected):
    config = GestureConfig(min_delta_t_pct=shortest, max_delta_t_pct=longest, sequence_length=length)
    assert config.durations == expected


def test_onset_is_uniform_over_the_places_where_the_press_fits():
    onset, duration = presses(draw(num_sequences=15_000, sequence_length=20, min_delta_t_pct=0.3, max_delta_t_pct=0.3))
    assert set(duration) == {6}
    counts = np.bincount(onset)
    assert len(counts) == 15
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 14 / 15)


def test_places_fill_the_range_from_5_to_95_percent():
    xy = draw(num_sequences=2000, sequence_length=20, min_delta_t_pct=0.1)[..., :2]
    assert 0.05 - 1e-6 <= xy.min() < 0.06
    assert 0.94 < xy.max() <= 0.95 + 1e-6


def test_click_holds_one_place():
    assert np.ptp(draw(num_sequences=50, action_type="click")[..., :2], axis=1).max() == 0


def test_swipe_follows_the_minimum_jerk_curve_between_its_places():
    actions = draw(num_sequences=50, action_type="swipe").astype(np.float64)
    for sequence, onset, duration in zip(actions, *presses(actions), strict=True):
        start, end = sequence[0, :2], sequence[-1, :2]
        stroke = sequence[onset : onset + duration, :2]
        t = np.linspace(0, 1, duration)[:, None]
        np.testing.assert_allclose(stroke, start + (end - start) * (10 * t**3 - 15 * t**4 + 6 * t**5), atol=1e-6)
        assert (stroke[0] == start).all()
        assert (stroke[-1] == end).all()
        assert (start != end).all()


def test_idle_hold_keeps_the_places_and_idle_zero_drops_them():
    hold, zero = (draw(num_sequences=50, idle=idle) for idle in ("hold", "zero"))
    for sequence, onset, duration in zip(hold, *presses(hold), strict=True):
        assert (sequence[:onset, :2] == sequence[onset, :2]).all()
        assert (sequence[onset + duration :, :2] == sequence[onset + duration - 1, :2]).all()
    np.testing.assert_array_equal(zero[..., :2], hold[..., :2] * hold[..., 2:])
    np.testing.assert_array_equal(zero[..., 2], hold[..., 2])


def test_mixed_is_27_percent_clicks_and_the_rest_swipes_in_equal_parts():
    count = 20_000
    actions = draw(num_sequences=count, sequence_length=20, min_delta_t_pct=0.2)
    moves_x, moves_y = (np.ptp(actions[..., :2], axis=1) > 0).T
    kinds = [~moves_x & ~moves_y, moves_x & ~moves_y, ~moves_x & moves_y, moves_x & moves_y]
    share = np.array([0.27, 0.73 / 3, 0.73 / 3, 0.73 / 3])
    np.testing.assert_array_less(np.abs(np.mean(kinds, axis=1) - share), 5 * np.sqrt(share * (1 - share) / count))


def test_smaller_data_set_is_the_beginning_of_a_larger_one():
    larger = draw(num_sequences=2500, sequence_length=10, min_delta_t_pct=0.1)
    for count in (1, BLOCK, 1500):
        np.testing.assert_array_equal(draw(num_sequences=count, sequence_length=10, min_delta_t_pct=0.1), larger[:count])


def test_seeds_give_different_sequences():
    one, other = (draw(num_sequences=BLOCK + 1, sequence_length=10, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one[:BLOCK], other[:BLOCK])
    assert not np.array_equal(one[-1], other[-1])


def test_blocks_come_one_at_a_time_so_that_memory_is_bounded():
    assert len(next(generate(GestureConfig(num_sequences=10**12)))) == BLOCK
    assert [len(block) for block in generate(GestureConfig(num_sequences=BLOCK + 6))] == [BLOCK, 6]


@pytest.mark.parametrize("sequences_per_file", [300, BLOCK, 1500, 5000])
def test_size_of_the_files_does_not_change_the_sequences(tmp_path, sequences_per_file):
    write(tmp_path, sequences_per_file, num_sequences=2500, seed=3)
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == -(-2500 // sequences_per_file)
    expected = draw(num_sequences=2500, sequence_length=10, min_delta_t_pct=0.1, seed=3)
    np.testing.assert_array_equal(np.concatenate([np.load(file) for file in files]), expected.reshape(-1, 3))


def test_written_folder_holds_flat_float32_parts_and_what_they_are(tmp_path):
    write(tmp_path / "new" / "folder", sequences_per_file=2, seed=3, idle="zero")
    folder = tmp_path / "new" / "folder"
    parts = [f"part_0000{part}_actions.npy" for part in range(3)]
    assert names_in(folder) == ["dataset.json", *parts]
    arrays = [np.load(folder / part) for part in parts]
    assert [(array.shape, array.dtype) for array in arrays] == [((rows, 3), np.float32) for rows in (20, 20, 10)]
    info = json.loads((folder / "dataset.json").read_text())
    expected = {"num_sequences": 5, "action_type": "mixed", "sequence_length": 10, "seed": 3, "idle": "zero"}
    assert {name: info[name] for name in expected} == expected
    assert "generate_click_dataset" in info["source"]


def test_existing_data_is_kept_without_overwrite(tmp_path):
    write(tmp_path, seed=0)
    before = (tmp_path / "part_00000_actions.npy").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        write(tmp_path, seed=1)
    assert (tmp_path / "part_00000_actions.npy").read_bytes() == before


def test_overwrite_removes_the_parts_of_a_larger_set_and_nothing_else(tmp_path):
    write(tmp_path, sequences_per_file=1)
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, overwrite=True, num_sequences=2)
    assert names_in(tmp_path) == ["dataset.json", "notes.txt", "part_00000_actions.npy"]
    assert len(np.load(tmp_path / "part_00000_actions.npy")) == 20


def test_a_generation_that_is_killed_leaves_no_data_and_is_made_again(start, tmp_path):
    words = ("--output_dir", tmp_path / "d", "--num_sequences", 50_000, "--human", "--sequences_per_file", 100)
    process = start("-m", "augmentation.generate_click_dataset", *words)
    wait_for(lambda: len(list((tmp_path / "d").glob(".partial-*/part_*"))) > 3, process)
    process.kill()
    process.wait()
    assert not list((tmp_path / "d").glob("*_actions.npy"))
    (left,) = (tmp_path / "d").iterdir()
    os.utime(left, (0, 0))  # long ago
    write(tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["dataset.json", "part_00000_actions.npy"]


def test_of_two_at_once_the_slower_is_refused_and_the_faster_is_whole(tmp_path):
    def slow():
        yield np.zeros((3, 10, 3), np.float32)
        write(tmp_path / "d", num_sequences=7)
        yield np.zeros((2, 10, 3), np.float32)

    with pytest.raises(UserError, match="holds a data set"):
        write_dataset(tmp_path / "d", slow(), 5, {"sequence_length": 10, "num_sequences": 5})
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["dataset.json", "part_00000_actions.npy"]
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["num_sequences"] == 7
    assert len(np.load(tmp_path / "d" / "part_00000_actions.npy")) == 7 * 10


def test_what_cannot_be_made_takes_the_place_of_nothing(tmp_path, monkeypatch):
    write_gestures(GestureConfig(num_sequences=2), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(*arguments):
        raise MemoryError

    monkeypatch.setattr(gestures, "generate_rows", broken)
    with pytest.raises(UserError, match="no memory for sequences of 900000 steps"):
        write_gestures(GestureConfig(num_sequences=1, sequence_length=900_000), tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_data_of_another_origin_is_never_touched(tmp_path, overwrite):
    (tmp_path / "recorded_actions.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"recorded_actions\.npy"):
        write(tmp_path, overwrite=overwrite)
    assert names_in(tmp_path) == ["recorded_actions.npy"]
    assert (tmp_path / "recorded_actions.npy").read_bytes() == b"mine"


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_dir .*file"):
        write(tmp_path / "file")


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--num_sequences", {"num_sequences": 0}),
        ("--sequence_length", {"sequence_length": 0}),
        ("--seed", {"seed": -1}),
        ("--action_type", {"action_type": "tap"}),
        ("--idle", {"idle": "drift"}),
        ("--min_delta_t_pct", {"min_delta_t_pct": 0.0}),
        ("--min_delta_t_pct", {"min_delta_t_pct": float("nan")}),
        ("--min_delta_t_pct", {"min_delta_t_pct": 0.4, "max_delta_t_pct": 0.3}),
        ("--max_delta_t_pct", {"max_delta_t_pct": 1.1}),
        ("--max_delta_t_pct", {"max_delta_t_pct": 0.3, "sequence_length": 3}),
        ("--sequences_per_file", {"sequences_per_file": 0}),
    ],
    ids=str,
)
def test_impossible_setting_is_refused_by_its_flag_before_anything_is_written(tmp_path, flag, settings):
    with pytest.raises(UserError, match=flag):
        write(tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


def test_dataset_json_holds_keys_that_a_data_set_knows(tmp_path):
    write(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text()).keys() <= KNOWN_KEYS
