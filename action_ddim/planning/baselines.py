"""What else makes a cost small: gradients, sampling, evolution, and what needs no search; to set beside the planner.

Every search takes a cost of T tasks, starts `(T, K, L, 3)` (actions with a press that may be soft), a budget of cost
evaluations for each task, and a generator; it returns a `Search`. Everything that is asked of the cost is counted, the actions
with a press of 0 or 1 that are proposed on the way among it. `cma` is in the extra `planning`.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from action_ddim.actions import NUM_CHANNELS, PRESS, threshold_press
from action_ddim.errors import UserError
from action_ddim.planning.costs import Value
from action_ddim.planning.gestures import Gestures
from action_ddim.planning.planner import CountedCost
from augmentation.gestures import Gestures as SixParameters
from augmentation.gestures import render_gestures
from augmentation.strokes import minimum_jerk_progress

SPACING = 1.25  # of the numbers of evaluations after which a search proposes what it has
SURE = 0.95  # the press of a start that is pressed, so that its logit is finite
SHARPEST = 16.0  # factor on the logits of the press at the end of a search by gradients, so that it is nearly 0 or 1
DONE = 1e-9  # a cost below which no search goes on: a miss by 3e-5 of the screen
SMOOTHNESS = 1 / 12  # of the L steps: length scale of smooth noise
SPREAD = (0.3, 0.3, 2.0)  # of smooth noise on x, y and the logit of the press, where nothing is known
PRESS_RATE = 10.0  # learning rate of the press, whose logits go from -3 to 3, over that of the places
NUM_SIX = 6
AT_ONCE = 32  # recordings that are evaluated together
COLD = (-1.0, 1.0)  # mean and deviation of the logits of the press, where nothing is known: in few stretches


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


class Baseline(Protocol):
    """A search for actions that cost little."""

    def __call__(self, cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator) -> Search: ...


class _SpentError(Exception):
    """The budget is spent, which an optimizer of a library hears only so."""


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


def raw(actions: torch.Tensor) -> torch.Tensor:
    """Return actions `(..., L, 3)` with the press as a logit, which is what a search moves."""
    return torch.cat([actions[..., :PRESS], actions[..., PRESS:].clamp(1 - SURE, SURE).logit()], dim=-1)


def soft(values: torch.Tensor, sharpness: float = 1.0) -> torch.Tensor:
    """Return raw actions as actions with a soft press."""
    return torch.cat([values[..., :PRESS].clamp(0, 1), (sharpness * values[..., PRESS:]).sigmoid()], dim=-1)


def finished(values: torch.Tensor) -> torch.Tensor:
    """Return raw actions as actions with a press of 0 or 1."""
    return threshold_press(soft(values.detach()))


def smooth_noise(num: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Draw noise `(num, L, 3)` of unit variance that is smooth in time: a Gaussian process of squared-exponential kernel."""
    step = torch.arange(seq_len, dtype=torch.float64)
    kernel = (-0.5 * ((step[:, None] - step) / (SMOOTHNESS * seq_len)).square()).exp()
    root = torch.linalg.cholesky(kernel + 1e-4 * torch.eye(seq_len, dtype=torch.float64)).float()
    return (torch.randn(num, NUM_CHANNELS, seq_len, generator=generator) @ root.T).transpose(1, 2)


def cold_starts(num_tasks: int, num_restarts: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Draw smooth actions `(T, K, L, 3)` around places that lie anywhere, of which the press is soft: nothing is known."""
    count = num_tasks * num_restarts
    values = smooth_noise(count, seq_len, generator) * torch.tensor([0.1, 0.1, COLD[1]])
    values[..., PRESS] += COLD[0]
    values[..., :PRESS] += torch.rand(count, 1, 2, generator=generator)
    return soft(values).unflatten(0, (num_tasks, num_restarts))


def told_starts(given: Gestures, num_tasks: int, *, minimum_jerk: bool = True) -> torch.Tensor:
    """Return what a task fixes, of N = T * K actions, as actions `(T, K, L, 3)`: joined at minimum jerk, or by straight lines.

    The pointer rests before the first place that is known and after the last.
    """
    actions = given.known.copy()
    step = np.arange(actions.shape[1])
    for action, mask in zip(actions, given.mask[..., 0], strict=True):
        known = np.flatnonzero(mask)
        places = action[known, :PRESS]
        if minimum_jerk and len(known) > 1:  # one movement from the first to the last, which passes the others at their steps
            tau = np.interp(step, known[[0, -1]], [0, 1])
            at = minimum_jerk_progress(tau)
        else:
            at = step.astype(np.float64)
        action[:, :PRESS] = np.stack([np.interp(at, at[known], places[:, axis]) for axis in range(2)], axis=-1)
    return torch.as_tensor(actions).unflatten(0, (num_tasks, -1))


def shaken(starts: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """Return starts of which all restarts but the first of each task are moved by smooth noise of so many screens.

    Where a start is a saddle of the cost, as a straight way through the middle of a disc is, a gradient alone stays on it.
    """
    moved = starts.clone()
    others = moved[:, 1:, :, :PRESS]
    noise = smooth_noise(others.shape[0] * others.shape[1], starts.shape[2], generator)[..., :PRESS]
    others += size * noise.reshape(others.shape)
    return moved.clamp(0, 1)


def recorded(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, recordings: torch.Tensor) -> Search:
    """Take the best of as many recordings `(N, L, 3)` as the budget has evaluations; the starts say T alone."""
    record, num_tasks = Record(cost, len(starts), budget), len(starts)
    for part in recordings[torch.randperm(len(recordings), generator=generator)].split(AT_ONCE):
        if record.room(len(part)):
            record.propose_actions(part.expand(num_tasks, *part.shape).flatten(0, 1))
    assert record.actions is not None
    return record.ended(torch.as_tensor(record.actions))


def propose_only(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator) -> Search:
    """Take the best of the starts as they are."""
    record = Record(cost, len(starts), budget)
    actions = threshold_press(starts.flatten(0, 1))
    record.propose_actions(actions)
    return record.ended(actions)


def adam(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, learning_rate: float = 0.01) -> Search:
    """Go down the gradient by Adam from every start at once, the press ever sharper."""
    num_restarts = starts.shape[1]
    record, values = Record(cost, len(starts), budget), raw(starts.flatten(0, 1))
    places, logits = (part.clone().requires_grad_() for part in (values[..., :PRESS], values[..., PRESS:]))
    groups = [{"params": [places], "lr": learning_rate}, {"params": [logits], "lr": PRESS_RATE * learning_rate}]
    optimizer = torch.optim.Adam(groups)
    record.propose(values)
    while record.room(3 * num_restarts):
        optimizer.zero_grad()
        total = record.counted(soft(torch.cat([places, logits], dim=-1), SHARPEST**record.progress)).sum()
        if not total.requires_grad:  # a cost without a gradient
            break
        total.backward()
        optimizer.step()
        with torch.no_grad():
            places.clamp_(0, 1)  # a place beyond the edge would feel no gradient
        if record.is_due:
            record.propose(torch.cat([places, logits], dim=-1))
    values = torch.cat([places, logits], dim=-1)
    record.propose(values)
    return record.ended(finished(values))


def lbfgs(cost: Any, starts: torch.Tensor, budget: int, generator: torch.Generator) -> Search:
    """Go down the gradient by L-BFGS with a strong Wolfe line search, each task by itself, its restarts together.

    In three stages, the press sharper in each.
    """
    if len(starts) > 1:
        alone = range(len(starts))
        return joined([lbfgs(cost.select(slice(row, row + 1)), starts[[row]], budget, generator) for row in alone])
    record, values = Record(cost, 1, budget), raw(starts.flatten(0, 1)).requires_grad_()
    count = starts.shape[1]
    record.propose(values)
    for stage, sharpness in enumerate((1.0, SHARPEST**0.5, SHARPEST)):
        end = budget * (stage + 1) / 3
        optimizer = torch.optim.LBFGS(
            [values], max_iter=budget, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure(optimizer=optimizer, sharpness=sharpness, end=end) -> torch.Tensor:
            if not record.room(3 * count) or record.counted.evaluations > end:
                raise _SpentError
            optimizer.zero_grad()
            total = record.counted(soft(values, sharpness)).sum()
            if not total.requires_grad:
                raise _SpentError
            total.backward()
            if record.is_due:
                record.propose(values)
            return total

        with contextlib.suppress(_SpentError):
            optimizer.step(closure)
        if record.room(2 * count):
            record.propose(values)
    return record.ended(finished(values))


def _sampled(mean: torch.Tensor, deviation: torch.Tensor | float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw raw actions `(T, N, L, 3)` around a mean `(T, L, 3)`, which is the first of them."""
    num_tasks, seq_len, _ = mean.shape
    noise = smooth_noise(num_tasks * count, seq_len, generator).unflatten(0, (num_tasks, count))
    noise[:, 0] = 0
    return mean[:, None] + noise * (deviation[:, None] if torch.is_tensor(deviation) else deviation * torch.tensor(SPREAD))


def _best(samples: torch.Tensor, costs: np.ndarray, count: int) -> torch.Tensor:
    """Return the best of the samples of each task, `(T, count, L, 3)`, in order."""
    rows = torch.as_tensor(np.argsort(costs, axis=1, kind="stable")[:, :count])
    return samples[torch.arange(len(samples))[:, None], rows]


def cem(
    cost: Value,
    starts: torch.Tensor,
    budget: int,
    generator: torch.Generator,
    *,
    population: int = 32,
    elite: int = 6,
    least: float = 0.02,
) -> Search:
    """Search by the cross-entropy method around the first start, with smooth noise (iCEM, arXiv 2008.06389)."""
    record, mean = Record(cost, len(starts), budget), raw(starts[:, 0])
    deviation = torch.tensor(SPREAD).expand_as(mean)
    best = samples = mean[:, None]
    while record.room(population):
        samples = _sampled(mean, deviation, population, generator)
        costs = record.propose(samples.flatten(0, 1))
        best = _best(samples, costs, elite)
        mean, deviation = best.mean(dim=1), best.std(dim=1).clamp(min=least)
    return record.ended(finished(best[:, : starts.shape[1]].flatten(0, 1)))


def mppi(
    cost: Value,
    starts: torch.Tensor,
    budget: int,
    generator: torch.Generator,
    *,
    population: int = 32,
    deviation: float = 0.5,
    temperature: float = 0.1,
) -> Search:
    """Search by path integrals around the first start (Williams et al. 2017, IEEE ICRA, algorithm 2), with smooth noise.

    The temperature is in deviations of the costs of a population; the noise falls to a twentieth over the budget.
    """
    record, mean = Record(cost, len(starts), budget), raw(starts[:, 0])
    best = mean[:, None]
    while record.room(population):
        samples = _sampled(mean, deviation * 0.05**record.progress, population, generator)
        costs = record.propose(samples.flatten(0, 1))
        spread = costs.std(axis=1, keepdims=True) + 1e-12
        weights = torch.as_tensor(-(costs - costs.min(axis=1, keepdims=True)) / (temperature * spread)).softmax(dim=1).float()
        mean = torch.einsum("tn,tnlc->tlc", weights, samples)
        best = _best(samples, costs, starts.shape[1])
    return record.ended(finished(best.flatten(0, 1)))


def six_parameters(values: np.ndarray, seq_len: int) -> torch.Tensor:
    """Return gestures told in six numbers, `(N, 6)` in [0, 1], as actions `(N, L, 3)`: one press, straight, at minimum jerk.

    The numbers are the places of press-down and release, the onset and the duration as shares of what is possible.
    """
    values = values.clip(0, 1)
    duration = 1 + np.rint(values[:, 5] * (seq_len // 3 - 1))
    onset = np.rint(values[:, 4] * (seq_len - duration))
    return torch.as_tensor(render_gestures(SixParameters(onset, duration, values[:, :2], values[:, 2:4]), seq_len))


def _evolved(
    record: Record,
    first: Callable[[int], np.ndarray],
    render: Callable[[np.ndarray], torch.Tensor],
    deviation: float,
    generator: torch.Generator,
    **options: Any,
) -> Search:
    """Run CMA-ES of the library `cma` for every task in step; one that has converged begins again elsewhere.

    Args:
        first: Where task t begins, a vector.
        render: From vectors `(N, D)` to actions `(N, L, 3)`.
    """
    try:
        import cma
    except ImportError as error:
        raise UserError('CMA-ES needs cma, which is missing: pip install "action-ddim[planning]"') from error

    def begin(task: int) -> Any:
        seed = int(torch.randint(1, 2**31, (), generator=generator))
        return cma.CMAEvolutionStrategy(first(task), deviation, {"seed": seed, "verbose": -9, **options})

    tasks = range(record.num_tasks)
    running = [begin(task) for task in tasks]
    done: list[list[tuple[np.ndarray, float]]] = [[] for _ in tasks]
    size = running[0].popsize
    while record.room(size):
        asked = [strategy.ask() for strategy in running]
        actions = render(np.concatenate(asked))
        costs = record.propose_actions(actions)
        for task in tasks:
            running[task].tell(asked[task], costs[task].tolist())
            if costs[task].min() < 1e-6 or running[task].stop():
                done[task].append((running[task].result.xbest, running[task].result.fbest))
                running[task] = begin(task)
    for task in tasks:
        if running[task].countiter or not done[task]:
            done[task].append((running[task].result.xbest, running[task].result.fbest))
    kept = 4
    best = [sorted(results, key=lambda result: result[1])[:kept] for results in done]
    chosen = [result[index % len(result)][0] for result in best for index in range(kept)]
    return record.ended(render(np.stack(chosen)))


def evolve_six(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, deviation: float = 0.3) -> Search:
    """Search by CMA-ES among gestures told in six numbers (`six_parameters`), from anywhere; the starts say the shape alone."""
    seq_len = starts.shape[2]

    def first(_: int) -> np.ndarray:
        return torch.rand(NUM_SIX, generator=generator).double().numpy()

    record = Record(cost, len(starts), budget)
    return _evolved(
        record, first, lambda values: six_parameters(values, seq_len), deviation, generator, bounds=[0, 1], tolx=1e-5
    )


def evolve_all(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, deviation: float = 0.1) -> Search:
    """Search by CMA-ES with a diagonal covariance among all 3 L numbers, from the first start."""
    values = raw(starts[:, 0])
    scale = torch.tensor(SPREAD)

    def render(vectors: np.ndarray) -> torch.Tensor:
        return finished(torch.as_tensor(vectors, dtype=torch.float32).unflatten(1, (-1, NUM_CHANNELS)) * scale)

    def first(task: int) -> np.ndarray:
        return (values[task] / scale).flatten().double().numpy()

    return _evolved(Record(cost, len(starts), budget), first, render, deviation, generator, CMA_diagonal=True)
