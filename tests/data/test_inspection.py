"""Figures of a data set beside those that numpy gives of the same arrays, and suspicious windows made by hand."""

import json

import numpy as np
import pytest

from action_ddim.data import dataset as dataset_module
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.features import GESTURE_TYPES, REST, type_shares
from action_ddim.data.inspection import SUSPICIONS, find_rate, find_shared, find_suspicious, inspect, open_to_inspect
from action_ddim.errors import UserError

L = 40


def walk(num_windows, seed=0):
    """Walks that rest now and then, with presses of any length, float32."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.01, (num_windows, L, 2)) * (rng.random((num_windows, L, 1)) < 0.6)
    places = np.clip(0.5 + steps.cumsum(axis=1) + rng.uniform(-0.3, 0.3, (num_windows, 1, 2)), 0, 1)
    press = rng.random((num_windows, L // 5, 1)).repeat(5, axis=1) < 0.4
    return np.concatenate([places, press], axis=2).astype(np.float32)


def save(folder, *arrays):
    folder.mkdir(exist_ok=True)
    for number, array in enumerate(arrays):
        np.save(folder / f"part_{number}_actions.npy", array.reshape(-1, 3))
    return ActionDataset(folder, L)


def runs_of(press):
    """Return the lengths of complete presses of one window, and how many are cut, by walking along it."""
    runs, start = [], None
    for step, down in enumerate([*press, 0]):
        if down and start is None:
            start = step
        elif not down and start is not None:
            runs.append((start, step))
            start = None
    complete = [end - start for start, end in runs if start > 0 and end < len(press)]
    return complete, len(runs) - len(complete)


@pytest.mark.parametrize("rate", [None, 125.0])
def test_figures_are_those_of_numpy(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", 7 * L * 3 * 4)  # pieces end within files
    actions = walk(60)
    found = inspect(save(tmp_path / "data", actions[:25], actions[25:]), rate)
    xy, press = actions[..., :2].astype(np.float64), actions[..., 2]
    lengths = np.hypot(*np.moveaxis(np.diff(xy, axis=1), 2, 0))
    moved = lengths[(np.diff(actions[..., :2], axis=1) != 0).any(axis=2)]
    runs = [runs_of(window) for window in press]
    complete, cut = np.concatenate([lengths for lengths, _ in runs]), sum(number for _, number in runs)
    expected = {
        "press_share": press.mean(),
        "transitions_per_window": (np.diff(press, axis=1) != 0).sum() / 60,
        "cut_press_share": cut / (cut + len(complete)),
        "rest_share": (lengths < REST).mean(),
        "exact_rest_share": 1 - len(moved) / lengths.size,
    }
    time, speed, ms, per_s = ("press_ms", "speed_per_s", 8, 125) if rate else ("press_steps", "speed_per_step", 1, 1)
    for p in (5, 50, 95):
        expected[f"{time}_p{p}"] = np.percentile(complete, p, method="inverted_cdf") * ms
        expected[f"{speed}_p{p}"] = pytest.approx(np.percentile(moved, p, method="inverted_cdf") * per_s, rel=0.003)
    expected[f"{speed}_max"] = lengths.max() * per_s
    for axis, name in enumerate("xy"):
        within, between = xy[..., axis].var(axis=1).mean(), xy[..., axis].mean(axis=1).var()
        assert within + between == pytest.approx(xy[..., axis].var())  # the law of total variance
        expected |= {f"{name}_variance_within": within, f"{name}_variance_between": between}
        expected[f"{name}_variance_between_share"] = between / xy[..., axis].var()
    assert set(found.figures) == set(expected)
    for name, value in expected.items():
        assert found.figures[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    assert list(found.gesture_shares.values()) == pytest.approx(type_shares(actions))
    assert list(found.gesture_shares) == list(GESTURE_TYPES)


STILL_THEN = np.full(L, 0.5)


def path(x, y=STILL_THEN, press=(0,) * 5 + (1,) * 30 + (0,) * 5):
    return np.array([x, y, press]).T


def put(values, *steps, of=STILL_THEN):
    changed = np.array(of, dtype=float)
    changed[list(steps)] = values
    return changed


CURVE = 0.5 + 0.3 * np.sin(np.arange(L) / 4)  # of any speed; at its ends it rests nowhere
STAIRS = np.round(CURVE * 100) / 100
RAMP = np.clip((np.arange(L) - 5) / 30, 0, 1)
TOUCH = put(0, *range(5), *range(35, 40))  # at 0, 0 between touches, as `--idle zero` says
WINDOWS = {
    "a click": (path(STILL_THEN), set()),
    "a stroke that rests at its ends": (path(put(RAMP[5:36], *range(5, 36), of=RAMP)), set()),
    "a slow stroke": (path(0.3 + 0.2 * RAMP**2, 0.3 + 0.2 * RAMP), set()),
    "a fast stroke": (path(np.repeat([0.1, 0.2, 0.5, 0.8, 0.9], [20, 1, 1, 1, 17])), set()),
    "a touch screen": (path(TOUCH, TOUCH), set()),
    "nothing": (path(STILL_THEN, press=(0,) * L), {"constant"}),
    "pressed all the time": (path(STILL_THEN, press=(1,) * L), {"constant"}),
    "a leap": (path(put(0.65, *range(20, 40))), {"jump"}),
    "a small leap": (path(put(0.59, *range(20, 40))), set()),
    "there and back": (path(put(0.9, 20)), {"jump"}),
    "there and back at its end": (path(put(0.9, 38)), {"jump"}),
    "a leap as the finger comes down": (path(put(0.9, *range(5, 40))), set()),
    "jitter": (path(CURVE + 1e-3 * np.cos(np.arange(L) * 2.3)), {"never still"}),
    "a coarse grid": (path(STAIRS), {"coarse grid"}),
    "a grid of pixels": (path(np.round(CURVE * 1920) / 1920, STILL_THEN), {"never still"}),
    "constant speed": (path(RAMP), set()),
    "a press of a step": (path(STILL_THEN, press=[*[0] * 20, 1, *[0] * 19]), {"press flicker"}),
    "a gap of a step": (path(STILL_THEN, press=[*[0] * 10, *[1] * 10, 0, *[1] * 10, *[0] * 9]), {"press flicker"}),
    "a press of two steps": (path(STILL_THEN, press=[*[0] * 20, 1, 1, *[0] * 18]), set()),
    "along an edge": (path(np.repeat([0.5, 1.0], 20), 0.2 + 0.1 * RAMP), {"clipped", "jump"}),
    "at an edge": (path(np.ones(L)), set()),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_suspicious_windows(name):
    window, expected = WINDOWS[name]
    marks = find_suspicious(window[None].astype(np.float32))
    assert set(marks) == set(SUSPICIONS) - {"invalid"}
    assert {kind for kind, mark in marks.items() if mark[0]} == expected


def test_invalid_windows_are_named_and_the_others_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", 3 * L * 3 * 4)
    actions = walk(10)
    spoiled = actions.copy()
    spoiled[1, 7, 0], spoiled[4, 0, 1], spoiled[9, 3, 2] = np.nan, 1.5, 0.5
    found = inspect(save(tmp_path / "data", spoiled[:3], spoiled[3:]))
    assert found.faults == [
        f"part_0_actions.npy, row {L + 7} (window 1): x is nan, not a finite number",
        f"part_1_actions.npy, row {L} (window 1): y is 1.5, outside [0, 1] of the screen",
        f"part_1_actions.npy, row {6 * L + 3} (window 6): press is 0.5, not 0 or 1",
    ]
    assert found.suspicious["invalid"] == 3
    named = found.data.locate(found.named["invalid"])
    assert named == [("part_0_actions.npy", 1), ("part_1_actions.npy", 1), ("part_1_actions.npy", 6)]
    valid = inspect(save(tmp_path / "valid", np.delete(actions, [1, 4, 9], axis=0)))
    assert found.figures == pytest.approx(valid.figures)
    assert found.gesture_shares == valid.gesture_shares


def test_data_of_which_nothing_is_valid_is_inspected(tmp_path):
    found = inspect(save(tmp_path / "data", walk(3) + 2))
    assert (found.figures, found.suspicious["invalid"], len(found.faults)) == ({}, 3, 3)


def test_repeats_and_shared_windows_are_found(tmp_path):
    actions = walk(8)
    first = inspect(save(tmp_path / "a", actions[[0, 1, 2, 1, 3]], actions[[1, 0]]))
    assert first.repeats.tolist() == [[3, 1], [5, 3], [6, 0]]
    changed = actions[4:5].copy()
    changed[0, -1, 0] = np.nextafter(changed[0, -1, 0], np.float32(2))  # by one bit
    folder = tmp_path / "b"
    second = inspect(save(folder, np.concatenate([actions[4:5], changed, actions[2:3]]).astype(np.float64)))
    assert not len(second.repeats)
    assert find_shared(first, second).tolist() == [2]  # as float64 too
    assert not len(find_shared(inspect(save(tmp_path / "c", walk(3, seed=5))), second))


def test_files_that_cannot_be_opened_are_said_and_the_others_read(tmp_path):
    save(tmp_path, walk(3))
    np.save(tmp_path / "odd_actions.npy", np.zeros((L + 1, 3)))
    (tmp_path / "text_actions.npy").write_text("x,y,press")
    data, faults = open_to_inspect(str(tmp_path), L)
    assert len(data) == 3
    assert [fault.partition(" ")[0] for fault in faults] == [str(tmp_path / f"{name}_actions.npy") for name in ("odd", "text")]
    (tmp_path / "part_0_actions.npy").unlink()
    with pytest.raises(UserError, match=rf"odd_actions\.npy has {L + 1} rows.*, and so 1 more$"):
        open_to_inspect(str(tmp_path), L)


@pytest.mark.parametrize(
    ("stated", "given", "expected"),
    [
        (None, None, None),
        (None, 60.0, 60.0),
        (125, None, 125.0),
        (125, 125.0, 125.0),
        (125, 60.0, "--rate is 60, but .* says 125"),
        ("125", None, "says rate_hz '125', not a number"),
        (0, None, "says rate_hz 0, not a number"),
        (True, None, "says rate_hz True, not a number"),
    ],
)
def test_rate_is_what_the_folder_says_or_the_flag(tmp_path, stated, given, expected):
    save(tmp_path, walk(1))
    (tmp_path / "dataset.json").write_text(json.dumps({"sequence_length": L} | ({} if stated is None else {"rate_hz": stated})))
    data = ActionDataset(tmp_path)
    if not isinstance(expected, str):
        assert find_rate(data, given) == expected
        return
    with pytest.raises(UserError, match=expected):
        find_rate(data, given)
