"""What else makes a cost small: gradients, sampling, evolution, and what needs no search; to set beside the planner.

Every search takes a cost of T tasks, starts `(T, K, L, 3)` (see `starts`), a budget of cost evaluations for each task, and a
generator; it returns a `Search` (see `record`). Everything that is asked of the cost is counted, the actions with a press of 0
or 1 that are proposed on the way among it. `cma` is in the extra `planning`.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from action_ddim.actions import NUM_CHANNELS, PRESS, threshold_press
from action_ddim.errors import UserError
from action_ddim.planning.costs import Value
from action_ddim.planning.record import Record, Search, joined
from action_ddim.planning.starts import finished, raw, shaken, smooth_noise, soft
from augmentation.gestures import Gestures as SixParameters
from augmentation.gestures import render_gestures

SHARPEST = 16.0  # factor on the logits of the press at the end of a search by gradients, so that it is nearly 0 or 1
SPREAD = (0.3, 0.3, 2.0)  # of smooth noise on x, y and the logit of the press, where nothing is known
PRESS_RATE = 10.0  # learning rate of the press, whose logits go from -3 to 3, over that of the places
NUM_SIX = 6
SHAKE = 0.05  # of the screen, by which all restarts but the first are moved
AT_ONCE = 32  # recordings that are evaluated together


class Baseline(Protocol):
    """A search for actions that cost little."""

    def __call__(self, cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator) -> Search: ...


class _SpentError(Exception):
    """The budget is spent, which an optimizer of a library hears only so."""


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


def _begun(record: Record, starts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Propose the starts as they are, and return what a search by gradients moves: raw, and shaken where more is to be done."""
    record.propose(raw(starts.flatten(0, 1)))
    return raw((shaken(starts, SHAKE, generator) if record.room(1) else starts).flatten(0, 1))


def adam(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, learning_rate: float = 0.01) -> Search:
    """Go down the gradient by Adam from every start at once, the press ever sharper."""
    num_restarts = starts.shape[1]
    record = Record(cost, len(starts), budget)
    values = _begun(record, starts, generator)
    places, logits = (part.clone().requires_grad_() for part in (values[..., :PRESS], values[..., PRESS:]))
    groups = [{"params": [places], "lr": learning_rate}, {"params": [logits], "lr": PRESS_RATE * learning_rate}]
    optimizer = torch.optim.Adam(groups)
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
    if record.room(num_restarts):
        record.propose(values)
    return record.ended(finished(values))


def lbfgs(cost: Any, starts: torch.Tensor, budget: int, generator: torch.Generator) -> Search:
    """Go down the gradient by L-BFGS with a strong Wolfe line search, each task by itself, its restarts together.

    In three stages, the press sharper in each.
    """
    if len(starts) > 1:
        alone = range(len(starts))
        return joined([lbfgs(cost.select(slice(row, row + 1)), starts[[row]], budget, generator) for row in alone])
    record, count = Record(cost, 1, budget), starts.shape[1]
    values = _begun(record, starts, generator).requires_grad_()
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
    elite: int = 4,
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
    deviation: float = 1.0,
    temperature: float = 0.03,
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


def evolve_six(cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, deviation: float = 0.1) -> Search:
    """Search by CMA-ES among gestures told in six numbers (`six_parameters`), from anywhere; the starts say the shape alone."""
    seq_len = starts.shape[2]

    def first(_: int) -> np.ndarray:
        return torch.rand(NUM_SIX, generator=generator).double().numpy()

    record = Record(cost, len(starts), budget)
    return _evolved(
        record, first, lambda values: six_parameters(values, seq_len), deviation, generator, bounds=[0, 1], tolx=1e-5
    )


def evolve_all(
    cost: Value, starts: torch.Tensor, budget: int, generator: torch.Generator, *, deviation: float = 0.03
) -> Search:
    """Search by CMA-ES with a diagonal covariance among all 3 L numbers, from the first start."""
    values = raw(starts[:, 0])
    scale = torch.tensor(SPREAD)

    def render(vectors: np.ndarray) -> torch.Tensor:
        return finished(torch.as_tensor(vectors, dtype=torch.float32).unflatten(1, (-1, NUM_CHANNELS)) * scale)

    def first(task: int) -> np.ndarray:
        return (values[task] / scale).flatten().double().numpy()

    return _evolved(Record(cost, len(starts), budget), first, render, deviation, generator, CMA_diagonal=True)
