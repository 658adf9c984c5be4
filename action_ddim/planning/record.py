"""What a search asks of a cost, counted and timed, and the best that it has proposed so far."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from action_ddim.planning.costs import Value
from action_ddim.planning.planner import CountedCost
from action_ddim.planning.starts import finished

SPACING = 1.25  # of the numbers of evaluations after which a search proposes what it has
DONE = 1e-9  # a cost below which no search goes on: a miss by 3e-5 of the screen


class Snapshot(NamedTuple):
    """What a search has after so many evaluations a task, and seconds of all tasks: costs `(T,)`, actions `(T, L, 3)`."""

    evaluations: float
    gradients: float
    seconds: float
    costs: np.ndarray
    actions: np.ndarray


class Search(NamedTuple):
    """The best so far of T tasks in the course of a search, and all that its restarts ended with, `(T, K, L, 3)`."""

    snapshots: list[Snapshot]
    candidates: np.ndarray


@dataclass
class Record:
    """A cost of T tasks that is asked at most `budget` times a task, and the best actions that were proposed."""

    cost: Value
    num_tasks: int
    budget: int
    snapshots: list[Snapshot] = field(default_factory=list)

    def __post_init__(self):
        self.counted = CountedCost(self.cost, self.num_tasks)
        self.costs = np.full(self.num_tasks, np.inf)
        self.actions: np.ndarray | None = None
        self.due = 1.0
        self.started = time.perf_counter()

    def room(self, count: int) -> bool:
        """Say whether so many evaluations a task are left, and there is a task that is not done to the letter."""
        return self.counted.evaluations + count <= self.budget and bool((self.costs > DONE).any())

    @property
    def progress(self) -> float:
        return self.counted.evaluations / self.budget

    @property
    def is_due(self) -> bool:
        """Whether it is time to propose again, for searches whose evaluations are of other actions."""
        return self.counted.evaluations >= self.due

    def propose(self, raw: torch.Tensor) -> np.ndarray:
        """Evaluate N = T * K raw actions with a press of 0 or 1, keep the best of each task, and return the costs `(T, K)`."""
        return self.propose_actions(finished(raw))

    @torch.no_grad()
    def propose_actions(self, actions: torch.Tensor) -> np.ndarray:
        costs = self.counted.of(actions.numpy())
        best, rows = costs.argmin(axis=1), np.arange(self.num_tasks)
        better = costs[rows, best] < self.costs
        found = actions.numpy().reshape(self.num_tasks, -1, *actions.shape[1:])[rows, best]
        if self.actions is None:
            self.actions = found.copy()
        self.actions[better], self.costs[better] = found[better], costs[rows, best][better]
        if self.is_due:
            self.snap()
        return costs

    def snap(self) -> None:
        assert self.actions is not None
        counted, seconds = self.counted, time.perf_counter() - self.started
        self.snapshots.append(Snapshot(counted.evaluations, counted.gradients, seconds, self.costs.copy(), self.actions.copy()))
        self.due = max(self.due * SPACING, counted.evaluations + 1)

    def ended(self, candidates: torch.Tensor) -> Search:
        """Return the search, with what it ended with, `(T * K, L, 3)`."""
        if not self.snapshots or self.snapshots[-1].evaluations < self.counted.evaluations:
            self.snap()
        return Search(self.snapshots, candidates.numpy().reshape(self.num_tasks, -1, *candidates.shape[1:]))


def joined(searches: Sequence[Search]) -> Search:
    """Return searches of different tasks as one: a task that was done sooner waits, evaluations are means, seconds add up."""
    longest = max(len(search.snapshots) for search in searches)
    weights = np.array([len(search.candidates) for search in searches], np.float64)
    snapshots = []
    for index in range(longest):
        rows = [search.snapshots[min(index, len(search.snapshots) - 1)] for search in searches]
        evaluations = float(np.average([row.evaluations for row in rows], weights=weights))
        gradients = float(np.average([row.gradients for row in rows], weights=weights))
        costs, actions = np.concatenate([row.costs for row in rows]), np.concatenate([row.actions for row in rows])
        snapshots.append(Snapshot(evaluations, gradients, sum(row.seconds for row in rows), costs, actions))
    return Search(snapshots, np.concatenate([search.candidates for search in searches]))
