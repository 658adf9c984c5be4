"""Steps cut to windows, and shared out."""

from collections import Counter

import numpy as np
import pytest

from action_ddim.errors import UserError
from action_ddim.recordings.split import group_of, held_out_groups
from action_ddim.recordings.trace import Counts, Recording
from action_ddim.recordings.windows import cut, let_idle


def moving(count, presses=()):
    steps = np.stack([np.linspace(0, 1, count), np.full(count, 0.5), np.zeros(count)], axis=1).astype(np.float32)
    steps[list(presses), 2] = 1
    return steps


def test_windows_lie_end_to_end_and_the_last_is_held():
    steps, counts = moving(28, presses=[27]), Counts()
    windows = cut(steps, 10, "all", counts)
    assert (windows[:2].reshape(-1, 3) == steps[:20]).all()
    assert (windows[2, :8] == steps[20:]).all()
    assert (windows[2, 8:] == [steps[27, 0], 0.5, 0]).all()  # a press does not go on beyond what was recorded
    assert not counts.windows_dropped


def test_an_end_of_less_than_half_a_window_is_dropped_unless_it_is_all():
    counts = Counts()
    assert len(cut(moving(24), 10, "all", counts)) == 2
    assert counts.windows_dropped == {"too_short": 1}
    assert len(cut(moving(4), 10, "all", Counts())) == 1


def test_moving_leaves_out_where_nothing_changes():
    steps, counts = moving(30), Counts()
    steps[10:20, 0] = steps[10, 0]
    assert len(cut(steps, 10, "moving", counts)) == 2
    assert counts.windows_dropped == {"at_rest": 1}
    steps[15, 2] = 1
    assert len(cut(steps, 10, "moving", Counts())) == 3
    steps[10:20, 2] = 1  # held all the time, in one place
    assert len(cut(steps, 10, "moving", Counts())) == 2


def test_press_lays_windows_around_presses():
    presses = [*range(5, 9), *range(40, 44), *range(46, 48), *range(99, 100)]
    steps = moving(100, presses)
    for seed in range(20):
        windows = cut(steps, 20, "press", Counts(), (seed,))
        runs = [np.flatnonzero(window[:, 2]) for window in windows]
        assert len(runs[0]) == 4  # whole
        assert sum(map(len, runs)) == len(presses)  # each press step lies in one window
        starts = np.round(windows[:, 0, 0] * 99).astype(int)
        assert (np.diff(starts) >= 20).all()  # and no step in two
    first = {int(np.flatnonzero(cut(steps, 20, "press", Counts(), (seed,))[0, :, 2])[0]) for seed in range(40)}
    assert len(first) > 3  # a press may lie anywhere in its window
    counts = Counts()
    assert len(cut(moving(100), 20, "press", counts)) == 0
    assert counts.windows_dropped == {"no_press": 5}


def test_a_press_longer_than_a_window_is_cut():
    windows = cut(moving(60, range(10, 55)), 20, "press", Counts())
    assert [int(window[:, 2].sum()) for window in windows] == [19, 20, 6]


def test_idle_zero_has_no_place_between_presses():
    windows = cut(moving(10, [3, 4]), 10, "all", Counts())
    assert (let_idle(windows, "hold") == windows).all()
    zero = let_idle(windows, "zero")
    assert (zero[0, [3, 4]] == windows[0, [3, 4]]).all()
    assert not np.delete(zero, [3, 4], axis=1).any()


@pytest.mark.parametrize(
    ("split_by", "groups"),
    [("user", ["ann", "ann", "c", "c"]), ("session", ["ann/1", "ann/2", "c", "c/s"]), ("file", ["a", "b", "c", "c"])],
)
def test_groups_are_persons_sessions_or_files(split_by, groups):
    recordings = [Recording("a", "mouse", "ann", "1"), Recording("b", "mouse", "ann", "2"), Recording("c", "pen")]
    recordings.append(Recording("c", "pen", None, "s"))
    assert [group_of(recording, split_by) for recording in recordings] == groups


def test_held_out_groups_hold_about_the_share():
    sizes = Counter({f"user{i}": 10 + i for i in range(50)})
    for seed in range(20):
        held_out = held_out_groups(sizes, 0.1, seed, "user")
        assert 0.08 < sum(sizes[group] for group in held_out) / sizes.total() < 0.13
    assert len({frozenset(held_out_groups(sizes, 0.1, seed, "user")) for seed in range(20)}) > 15
    assert held_out_groups(Counter(a=1, b=100), 0.01, 0, "user")  # at least one
    assert held_out_groups(sizes, 0, 0, "user") == set()


def test_one_person_cannot_be_shared_out():
    with pytest.raises(UserError, match="--split_by user finds one user"):
        held_out_groups(Counter(ann=5), 0.1, 0, "user")
