"""Searches on costs whose minimum is known, with every call of the cost counted from outside; and tasks in hindsight."""

from functools import partial

import numpy as np
import pytest
import torch

from action_ddim.planning import baselines
from action_ddim.planning.costs import Detour, Parameters
from action_ddim.planning.gestures import Gestures as Known
from action_ddim.planning.record import Search
from action_ddim.planning.regression import Regression, hindsight
from action_ddim.planning.starts import cold_starts, shaken, told_starts
from action_ddim.planning.tasks import FAMILIES, sample_tasks
from augmentation.gestures import GestureConfig, Gestures, generate, render_gestures
from tests.conftest import SEQ_LEN

TASKS, RESTARTS = 3, 2
SEARCHES = {
    "start": baselines.propose_only,
    "adam": partial(baselines.adam, learning_rate=0.03),
    "lbfgs": baselines.lbfgs,
    "cem": baselines.cem,
    "mppi": baselines.mppi,
    "all": baselines.evolve_all,
    "six": baselines.evolve_six,
    "recorded": partial(baselines.recorded, recordings=torch.rand(96, SEQ_LEN, 3, generator=torch.Generator().manual_seed(3))),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bowl(Parameters):
    """A convex cost `(T, K)`, the mean squared distance of the places to one place, least where all of them are there.

    Every action that it is asked for is counted, with and without a gradient.
    """

    def __init__(self, center: torch.Tensor, calls: list[tuple[int, bool]]):
        self.center, self.calls = center, calls  # (T, 1, 2)

    def select(self, rows):
        return Bowl(self.center[rows], self.calls)

    def __call__(self, actions):
        self.calls += [(actions[..., 0, 0].numel(), actions.requires_grad)]
        return (actions[..., :2] - self.center.unsqueeze(-2)).square().sum(dim=-1).mean(dim=-1).reshape(len(self.center), -1)


@pytest.fixture
def bowl() -> Bowl:
    return Bowl(torch.tensor([[[0.3, 0.4]], [[0.6, 0.5]], [[0.5, 0.7]]]), [])


def searched(name: str, cost, budget: int) -> Search:
    starts = cold_starts(TASKS, RESTARTS, SEQ_LEN, seeded())
    return SEARCHES[name](cost, starts, budget, seeded())


@pytest.mark.parametrize("name", SEARCHES)
def test_all_that_is_asked_is_counted_and_within_the_budget(bowl, name):
    last = searched(name, bowl, 96).snapshots[-1]
    assert last.evaluations == sum(count for count, _ in bowl.calls) / TASKS
    assert last.gradients == sum(count for count, differentiated in bowl.calls if differentiated) / TASKS
    assert 0 < last.evaluations <= 96
    assert (last.gradients > 0) == (name in ("adam", "lbfgs"))


@pytest.mark.parametrize("name", SEARCHES)
def test_best_so_far_is_of_actions_and_never_rises(bowl, name):
    search = searched(name, bowl, 96)
    costs, spent = (np.array([snapshot[index] for snapshot in search.snapshots]) for index in (3, 0))
    assert (np.diff(costs, axis=0) <= 0).all()
    assert (np.diff(spent) >= 0).all()
    for snapshot in search.snapshots:
        assert ((snapshot.actions >= 0) & (snapshot.actions <= 1)).all()
        np.testing.assert_allclose(bowl(torch.as_tensor(snapshot.actions)[:, None])[:, 0], snapshot.costs, rtol=1e-4, atol=1e-9)
    if name != "recorded":
        assert set(np.unique(search.candidates[..., 2])) <= {0.0, 1.0}


@pytest.mark.parametrize(("name", "budget", "cost"), [("adam", 600, 1e-6), ("lbfgs", 100, 1e-8), ("six", 800, 1e-5)])
def test_minimum_of_a_convex_cost_is_found(bowl, name, budget, cost):
    last = searched(name, bowl, budget).snapshots[-1]
    assert (last.costs < cost).all()
    near = np.broadcast_to(bowl.center.numpy(), last.actions[..., :2].shape)
    np.testing.assert_allclose(last.actions[..., :2], near, atol=20 * cost**0.5)


@pytest.mark.parametrize(("name", "share"), [("cem", 0.05), ("mppi", 0.05), ("all", 0.6)])
def test_sampling_goes_down_a_convex_cost(bowl, name, share):
    first, last = (searched(name, bowl, budget).snapshots[-1].costs for budget in (33, 1600))
    assert (last < share * first).all()


def test_gradients_stop_where_there_are_none():
    task = sample_tasks("timing", TASKS, SEQ_LEN, seeded())
    for name in ("adam", "lbfgs"):
        assert searched(name, task, 96).snapshots[-1].evaluations < 20


def test_told_starts_do_what_is_told():
    for family in set(FAMILIES) - {"detour"}:
        task = sample_tasks(family, TASKS, 100, seeded(1))
        for minimum_jerk in (False, True):
            given = task.gestures(100, RESTARTS, np.random.default_rng(0))
            starts = told_starts(given, TASKS, minimum_jerk=minimum_jerk)
            assert task.success(starts).all(), family


def test_minimum_jerk_between_two_places_is_that_of_the_generator():
    known, mask = (np.zeros((1, 50, 3), dtype) for dtype in (np.float32, bool))
    known[0, 10, :2], known[0, 29, :2], known[0, 10:30, 2] = (0.2, 0.8), (0.6, 0.3), 1
    mask[0, [10, 29], :2], mask[..., 2] = True, True
    start = told_starts(Known(known, mask), 1)[0, 0]
    wanted = render_gestures(Gestures(*map(np.array, ([10], [20], [[0.2, 0.8]], [[0.6, 0.3]]))), 50)
    np.testing.assert_allclose(start, wanted[0], atol=1e-6)


def test_a_saddle_is_left_by_the_restarts_that_are_shaken():
    detour = Detour(
        torch.tensor([[[0.1, 0.5]]]), torch.tensor([[[0.9, 0.5]]]), torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0.2]])
    )
    starts = told_starts(detour.gestures(100, RESTARTS, np.random.default_rng(0)), 1)
    assert not detour.success(starts).any()
    moved = shaken(starts, 0.05, seeded())
    assert (moved[:, 0] == starts[:, 0]).all()
    found = baselines.lbfgs(detour, starts, 400, seeded())
    assert detour.success(torch.as_tensor(found.snapshots[-1].actions)).all()


def test_six_parameters_are_those_of_the_generator():
    values = np.array([[0.1, 0.2, 0.7, 0.8, 0.5, 1.0]])
    action = baselines.six_parameters(values, 90)[0]
    pressed = np.flatnonzero(action[:, 2])
    assert pressed.tolist() == list(range(30, 60))  # a third of the steps, in the middle
    np.testing.assert_allclose(action[[30, 59], :2], [[0.1, 0.2], [0.7, 0.8]], atol=1e-6)


def test_searches_are_repeatable(bowl):
    for name in SEARCHES:
        first, second = (searched(name, bowl, 64).snapshots[-1] for _ in range(2))
        assert (first.actions == second.actions).all(), name


@pytest.fixture(scope="module")
def recordings() -> np.ndarray:
    return np.concatenate(list(generate(GestureConfig(num_sequences=400, sequence_length=60))))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"detour"}))
def test_recordings_do_their_tasks_in_hindsight(recordings, family):
    task, rows = hindsight(family, recordings, seeded())
    assert len(rows) > 30
    assert task.success(torch.as_tensor(recordings[rows])[:, None]).all()


def test_regression_learns_where_to_press():
    recordings = np.concatenate(list(generate(GestureConfig(num_sequences=1000, sequence_length=60))))
    regression = Regression("timing", recordings, seeded(), num_updates=400)
    held_out = np.concatenate(list(generate(GestureConfig(num_sequences=200, sequence_length=60, seed=1))))
    task, rows = hindsight("timing", held_out, seeded())
    wanted = torch.as_tensor(held_out[rows])
    planned = regression(task, wanted[..., 2])
    assert (planned[..., :2] - wanted[..., :2]).abs().mean() < 0.02  # of the screen, where .2 is that of a constant
    assert (planned[..., 2] == wanted[..., 2]).all()
    assert regression.seconds > 0


def test_regression_without_a_recording_of_a_task_says_so(recordings):
    with pytest.raises(ValueError, match="none of the recordings"):
        Regression("tap", np.zeros_like(recordings[:5]), seeded(), num_updates=1)
