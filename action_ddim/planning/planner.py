"""`plan(pipeline, cost)`: DDIM as a learned optimizer, actions that cost little and look like those the model knows.

Candidates are denoised together, all of all tasks: with what the task fixes known beforehand (`inpainting`), along the gradient
of the cost (`guidance`), or both; the best are noised part of the way and denoised again (Diffusion-ES, arXiv 2402.06559,
algorithm 1, where the denoiser is the mutation), which needs no gradient; the best of all by the cost itself is the plan.
"""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from action_ddim.actions import NUM_CHANNELS, PRESS, moves
from action_ddim.guidance import what_it_is
from action_ddim.inpainting import check_known
from action_ddim.planning.costs import Value
from action_ddim.planning.gestures import Gestures
from action_ddim.rests import decode_rests

if TYPE_CHECKING:
    from action_ddim.pipeline import ActionDDIMPipeline

ELITE = 4  # one in so many candidates is a parent in the next round of the search
MOST_REFINE_STEPS = 20


@dataclass
class ActionPlan:
    """Plans of T tasks, and what they took.

    - `actions`: `(T, L, 3)`, press 0 or 1; `costs`: of each, `(T,)`.
    - `candidates`, `candidate_costs`: all that the last round held, `(T, K, L, 3)` and `(T, K)`, the best first.
    - `cost_evaluations`, `gradient_evaluations`, `denoiser_calls`: of actions, for each task.
    - `seconds`: of all tasks together.
    """

    actions: np.ndarray
    costs: np.ndarray
    candidates: np.ndarray
    candidate_costs: np.ndarray
    cost_evaluations: int
    gradient_evaluations: int
    denoiser_calls: int
    seconds: float


@dataclass
class CountedCost:
    """A cost of N = T * K actions `(N, L, 3)`, the candidates of a task together, that counts what it is asked for.

    The cost sees them on the CPU, where its parameters are, whatever the device of the model.
    """

    cost: Value
    num_tasks: int
    evaluations: int = 0
    gradients: int = 0

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        count = len(actions) // self.num_tasks
        self.evaluations += count
        self.gradients += count * actions.requires_grad
        on_cpu = actions.cpu()
        costs = self.cost(on_cpu if self.num_tasks == 1 else on_cpu.unflatten(0, (self.num_tasks, count)))
        if not isinstance(costs, torch.Tensor) or costs.numel() != len(actions):
            found = what_it_is(costs)
            raise ValueError(f"the cost returns {found}, not a tensor with a number for each of {len(actions)} actions")
        return costs.flatten().to(actions.device)

    @torch.no_grad()
    def of(self, actions: np.ndarray) -> np.ndarray:
        """Return the costs `(T, K)` of actions with a press of 0 or 1; what is no number is as bad as can be."""
        costs = self(torch.as_tensor(actions)).double().numpy()
        bad = np.isnan(costs) | ~np.isfinite(actions).all(axis=(1, 2))
        return np.where(bad, np.inf, costs).reshape(self.num_tasks, -1)


def plan(
    pipeline: "ActionDDIMPipeline",
    cost: Value,
    *,
    num_tasks: int = 1,
    num_candidates: int = 4,
    num_inference_steps: int = 10,
    guidance_scale: float = 0.0,
    inpaint: bool = True,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    search_rounds: int = 0,
    search_strength: float = 0.5,
    refine_steps: int = 0,
    warm_start: np.ndarray | None = None,
    generator: torch.Generator | None = None,
) -> ActionPlan:
    """Plan an action for each of T tasks.

    Args:
        cost: Maps actions `(K, L, 3)` to costs `(K,)`, or with several tasks `(T, K, L, 3)` to `(T, K)`; any function, which
            needs a gradient only for guidance and refinement. Those of `costs` know besides what their task fixes.
        num_tasks: T.
        num_candidates: K, drafts a task.
        num_inference_steps: DDIM steps of a draft.
        guidance_scale: Weight of the cost's gradient in each step, about one over the cost that is tolerable; 0 asks for
            no gradient.
        inpaint: Whether what the task fixes is known beforehand, where the cost can say it (`Task.gestures`).
        known, mask: What is known besides, `(L, 3)` or `(T, L, 3)`, and in the place of what the task fixes where both do.
        search_rounds: How often the best are noised and denoised again.
        search_strength: How far, a share of the schedule.
        refine_steps: Steps of L-BFGS on the places of the best, which stay known or at rest where they were; at most 20.
        warm_start: Plans `(T, L, 3)` to begin from instead of noise, those of before for example, shifted by the steps that
            are behind: noised as far as `search_strength`, and denoised.
        generator: Makes the plan repeatable.

    Raises:
        ValueError: an argument is out of its range or does not fit, or the guidance is so strong that no action is finite.
    """
    _check(guidance_scale=(guidance_scale, 0, sys.float_info.max))
    _check(num_tasks=(num_tasks, 1), num_candidates=(num_candidates, 1), search_rounds=(search_rounds, 0))
    _check(refine_steps=(refine_steps, 0, MOST_REFINE_STEPS))
    started = time.perf_counter()
    given = _given(pipeline, cost, num_tasks, num_candidates, inpaint, known, mask, generator)
    drafting = Drafting(pipeline, CountedCost(cost, num_tasks), num_inference_steps, search_strength, guidance_scale, generator)
    if warm_start is None:
        drafts = drafting.drawn(num_tasks * num_candidates, given)
    else:
        begin = np.asarray(warm_start, np.float32).reshape(num_tasks, -1, NUM_CHANNELS)
        drafts = drafting.varied(begin.repeat(num_candidates, axis=0), given)
    for _ in range(search_rounds):
        drafts = drafting.searched(drafts)
    drafts = drafts.best(num_candidates)
    drafting.check_finite(drafts)
    candidates = drafts.actions.reshape(num_tasks, num_candidates, *drafts.actions.shape[1:])
    actions, costs = candidates[:, 0], drafts.costs[:, 0]
    if refine_steps:
        actions, costs = _refined(drafts.best(1), drafting.cost, refine_steps)
    spent = drafting.cost.evaluations, drafting.cost.gradients, drafting.denoiser_calls, time.perf_counter() - started
    return ActionPlan(actions, costs, candidates, drafts.costs, *spent)


def _check(**values: tuple[float, ...]) -> None:
    """Hold each value against its least, and its most if there is one."""
    for name, (value, least, *most) in values.items():
        if not value >= least:  # nor is NaN
            raise ValueError(f"{name} is {value}; give at least {least}")
        if most and value > most[0]:
            raise ValueError(f"{name} is {value}; give at most {most[0]}")


class Drafts(NamedTuple):
    """Actions `(T * M, L, 3)`, M of each task together, their costs `(T, M)`, and what is known of them."""

    actions: np.ndarray
    costs: np.ndarray
    given: Gestures | None

    def _rows(self, columns: np.ndarray) -> "Drafts":
        """Return those of each task that the columns name, `(T, C)`."""
        rows = (columns + self.costs.shape[1] * np.arange(len(self.costs))[:, None]).ravel()
        given = self.given and Gestures(*(values[rows] for values in self.given))
        return Drafts(self.actions[rows], np.take_along_axis(self.costs, columns, axis=1), given)

    def best(self, num: int) -> "Drafts":
        """Return the best of each task, in order."""
        return self._rows(np.argsort(self.costs, axis=1, kind="stable")[:, :num])

    def repeated(self, num: int) -> "Drafts":
        """Return as many of each task, one after another as often as it takes."""
        tasks, count = self.costs.shape
        return self._rows(np.broadcast_to(np.arange(num) % count, (tasks, num)))

    def joined(self, other: "Drafts") -> "Drafts":
        def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            parts = [values.reshape(len(self.costs), -1, *values.shape[1:]) for values in (first, second)]
            return np.concatenate(parts, axis=1).reshape(-1, *first.shape[1:])

        given = self.given and other.given and Gestures(*map(both, self.given, other.given))
        return Drafts(both(self.actions, other.actions), np.concatenate([self.costs, other.costs], axis=1), given)


@dataclass
class Drafting:
    """How drafts are made: with which model, along which cost, in how many steps."""

    pipeline: "ActionDDIMPipeline"
    cost: CountedCost
    num_inference_steps: int
    strength: float
    guidance_scale: float
    generator: torch.Generator | None
    denoiser_calls: int = 0

    def drawn(self, count: int, given: Gestures | None) -> Drafts:
        """Draw so many actions from noise."""
        made = self.pipeline(count, self.num_inference_steps, **self._options(given))
        return self._judged(made, self.num_inference_steps, given)

    def varied(self, actions: np.ndarray, given: Gestures | None) -> Drafts:
        """Noise actions as far as the strength, and denoise them."""
        made = self.pipeline.reconstruct(actions, self.strength, self.num_inference_steps, **self._options(given))
        return self._judged(made, len(self.pipeline.timesteps_below(self.strength, self.num_inference_steps)), given)

    def searched(self, drafts: Drafts) -> Drafts:
        """Vary the best of the drafts, and return the best of old and new, as many as there were."""
        count = drafts.costs.shape[1]
        parents = drafts.best(-(-count // ELITE)).repeated(count)
        return drafts.joined(self.varied(parents.actions, parents.given)).best(count)

    def check_finite(self, drafts: Drafts) -> None:
        """Raise a ValueError where a task has no draft that is finite."""
        if not np.isfinite(drafts.best(1).actions).all():
            raise ValueError(
                f"no candidate is finite; lower guidance_scale, {self.guidance_scale:g}, or mend the cost's gradient"
            )

    def _options(self, given: Gestures | None) -> dict[str, Any]:
        guiding = {"cost": self.cost if self.guidance_scale else None, "guidance_scale": self.guidance_scale}
        return {**guiding, **(given._asdict() if given else {}), "generator": self.generator, "return_dict": False}

    def _judged(self, made: tuple, num_steps: int, given: Gestures | None) -> Drafts:
        actions = made[0]
        self.denoiser_calls += len(actions) // self.cost.num_tasks * num_steps
        return Drafts(actions, self.cost.of(actions), given)


def _given(
    pipeline: "ActionDDIMPipeline",
    cost: Value,
    num_tasks: int,
    num_candidates: int,
    inpaint: bool,
    known: np.ndarray | None,
    mask: np.ndarray | None,
    generator: torch.Generator | None,
) -> Gestures | None:
    """Return what is known of each of the N drafts, `(N, L, 3)`, None where nothing is."""
    if (known is None) != (mask is None):
        raise ValueError("known and mask go together; give both, or neither")
    shape = (num_tasks, num_candidates, pipeline.denoiser.config.seq_len, NUM_CHANNELS)
    fixed = None
    if inpaint and hasattr(cost, "gestures"):
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        fixed = cost.gestures(shape[2], num_candidates, np.random.default_rng(seed))
    if known is None or mask is None:
        return fixed
    if np.asarray(mask).dtype != bool:
        raise ValueError(f"mask holds {np.asarray(mask).dtype}, not booleans")
    parts = [values[None] if values.ndim == 2 else values for values in map(np.asarray, (known, mask))]
    given = Gestures(*(np.broadcast_to(part[:, None], shape).reshape(-1, *shape[2:]).copy() for part in parts))
    return given if fixed is None else Gestures(np.where(given.mask, given.known, fixed.known), given.mask | fixed.mask)


def _refined(drafts: Drafts, cost: CountedCost, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Move the places of T plans down the gradient of the cost, of all together, and keep those that are the better for it.

    What is known stays so. Where an axis rested, it rests again afterwards (`rests.decode_rests`).
    """
    before = torch.as_tensor(drafts.actions)
    places = before[..., :PRESS].clone().requires_grad_()
    given = drafts.given and check_known(*drafts.given)
    free = torch.ones_like(before[..., :PRESS], dtype=torch.bool) if given is None else ~given.mask[..., :PRESS]
    optimizer = torch.optim.LBFGS([places], max_iter=steps, line_search_fn="strong_wolfe")

    def action() -> torch.Tensor:
        moved = torch.where(free, places, before[..., :PRESS]).clamp(0, 1)
        return torch.cat([moved, before[..., PRESS:]], dim=-1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = cost(action()).sum()
        if not value.requires_grad:
            raise ValueError("the cost has no gradient by the places of the actions; leave refine_steps at 0")
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    logits = moves(before).float() * 2 - 1
    after = decode_rests(action().detach(), logits, given).numpy()
    costs = cost.of(after)[:, 0]
    better = costs < drafts.costs[:, 0]
    return np.where(better[:, None, None], after, drafts.actions), np.where(better, costs, drafts.costs[:, 0])
