"""Costs of actions: what an agent wants of its next action, as a number that is to be small.

A cost maps actions, a tensor `(..., L, 3)` in [0, 1] with a soft press or one of 0 and 1, to numbers `(...)`; any function
does. Those here are sums of squared misses: of places in screens, of times as shares of the L steps, of presses by number. 0 is
a task that is done to the letter; `success` says of actions with a press of 0 or 1 whether it is done within the tolerance.

Their parameters are tensors that broadcast against the leading dimensions of the actions: with places `(T, 1, 2)` a cost is
that of T tasks at once, for actions `(T, K, L, 3)`, K candidates each.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import numpy as np
import torch

from action_ddim.actions import PRESS, PRESS_THRESHOLD
from action_ddim.planning.gestures import Gestures, strokes

TOLERANCE = 0.01  # of the screen, some 20 pixels: half of a small button
STEPS_TOLERANCE = 2  # of a duration or an onset
TINY = 1e-6
EVENT_DIMS = {"target": 1, "begin": 1, "end": 1, "center": 1, "window": 1, "targets": 2, "points": 2}  # others are numbers
PRESS_SHARES = (0.04, 0.2)  # of the L steps, that a press lasts where a task leaves it open
Value = Callable[[torch.Tensor], torch.Tensor]


class Task(Protocol):
    """A cost that also knows when it is small enough."""

    def __call__(self, actions: torch.Tensor) -> torch.Tensor: ...

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        """Say of actions `(..., L, 3)` with a press of 0 or 1 whether the task is done, `(...)`."""

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what the task fixes of K candidates for each of T tasks, `(T * K, L, 3)`, what it leaves open drawn by lot."""


class Parameters:
    """What the tasks share: parameters that are tensors, of T tasks `(T, 1, ...)`, the second dimension for candidates."""

    def __post_init__(self):
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, torch.as_tensor(getattr(self, field.name), dtype=torch.float32))

    def select(self, rows: torch.Tensor | slice) -> Self:
        """Return some of T tasks."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})  # type: ignore

    def each(self, name: str, num_candidates: int) -> np.ndarray:
        """Return a parameter once for each candidate, `(T * K, ...)`, the candidates of a task together."""
        value = getattr(self, name)
        value = value.reshape(-1, *value.shape[value.ndim - EVENT_DIMS.get(name, 0) :])
        return value.repeat_interleave(num_candidates, dim=0).numpy()


def place_and_press(actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places `(..., L, 2)` and a press `(..., L)` in [0, 1] of actions that a network may predict out of range."""
    return actions[..., :PRESS], actions[..., PRESS].clamp(0, 1)


def edges(press: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much each step presses down, and how much each is the last before a release, `(..., L)` in [0, 1]."""
    step = torch.nn.functional.pad(press, (1, 1)).diff(dim=-1)
    return step[..., :-1].clamp(min=0), (-step[..., 1:]).clamp(min=0)


def mean_at(weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the mean of values `(..., L)` where the weight is."""
    return (weight * values).sum(dim=-1) / (weight.sum(dim=-1) + TINY)


def squared_distance(places: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of places `(..., L, 2)` to a target `(..., 2)`, in screens squared, `(..., L)`."""
    return (places - target.unsqueeze(-2)).square().sum(dim=-1)


def one_press(press: torch.Tensor) -> torch.Tensor:
    """Return how far the press-downs are from one alone, squared; a press of no step is a whole one off."""
    return (edges(press)[0].sum(dim=-1) - 1).square()


def single_press(actions: torch.Tensor) -> torch.Tensor:
    """Say of actions with a press of 0 or 1 whether they press exactly once."""
    return edges(actions[..., PRESS])[0].sum(dim=-1) == 1


def _spans_within(seq_len: int, duration: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return presses of these lengths in steps, `(N,)`, that begin anywhere: first and last step, `(N, 1, 2)`."""
    duration = duration.clip(1, seq_len)
    onset = rng.integers(0, seq_len - duration, endpoint=True)
    return np.stack([onset, onset + duration - 1], axis=-1)[:, None]


@dataclass(frozen=True)
class Tap(Parameters):
    """One press at a target `(..., 2)`, in a window of steps `(..., 2)`, first and last."""

    target: torch.Tensor
    window: torch.Tensor

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        places, press = place_and_press(actions)
        outside = mean_at(press, self._outside(press))
        return mean_at(press, squared_distance(places, self.target)) + one_press(press) + outside

    def _outside(self, press: torch.Tensor) -> torch.Tensor:
        """Return how far each step is from the window, as a share of the L steps, `(..., L)`."""
        length = press.shape[-1]
        step = torch.arange(length, device=press.device)
        first, last = self.window.unbind(dim=-1)
        return ((first.unsqueeze(-1) - step).clamp(min=0) + (step - last.unsqueeze(-1)).clamp(min=0)) / length

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task: a still press, at the target, somewhere in the window."""
        first, last = self.each("window", num_candidates).clip(0, seq_len - 1).T
        shortest, longest = (max(1, round(share * seq_len)) for share in PRESS_SHARES)
        duration = np.minimum(rng.integers(shortest, longest, size=first.shape, endpoint=True), last - first + 1)
        onset = np.floor(rng.uniform(first, last - duration + 2 - 1e-6))
        spans = np.stack([onset, onset + duration - 1], axis=-1).astype(int)
        return strokes(self.each("target", num_candidates)[:, None], spans[:, None], seq_len, still=True)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        places, press = place_and_press(actions)
        near = squared_distance(places, self.target) <= TOLERANCE**2
        right = (press < PRESS_THRESHOLD) | (near & (self._outside(press) == 0))
        return single_press(actions) & right.all(dim=-1)


@dataclass(frozen=True)
class Either(Parameters):
    """One press at either of two targets `(..., 2, 2)`, in a window of steps: two modes."""

    targets: torch.Tensor
    window: torch.Tensor

    def _taps(self) -> tuple[Tap, Tap]:
        return Tap(self.targets[..., 0, :], self.window), Tap(self.targets[..., 1, :], self.window)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        first, second = (tap(actions) for tap in self._taps())
        return torch.minimum(first, second)

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task: a tap on either target, drawn by lot."""
        targets, window = self.each("targets", num_candidates), self.each("window", num_candidates)
        chosen = targets[np.arange(len(targets)), rng.integers(2, size=len(targets))]
        return Tap(torch.as_tensor(chosen[:, None]), torch.as_tensor(window[:, None])).gestures(seq_len, 1, rng)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        first, second = (tap.success(actions) for tap in self._taps())
        return first | second

    def mode(self, actions: torch.Tensor) -> torch.Tensor:
        """Say which of the two is nearer to the press, 0 or 1."""
        first, second = (tap(actions) for tap in self._taps())
        return (second < first).long()


@dataclass(frozen=True)
class Swipe(Parameters):
    """One press from a place to another, `(..., 2)` each, of a duration in steps `(...)`."""

    begin: torch.Tensor
    end: torch.Tensor
    duration: torch.Tensor

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        places, press = place_and_press(actions)
        down, up = edges(press)
        missed = mean_at(down, squared_distance(places, self.begin)) + mean_at(up, squared_distance(places, self.end))
        late = (press.sum(dim=-1) - self.duration) / press.shape[-1]
        return missed + one_press(press) + late.square()

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task: the two ends and the press, which begins somewhere."""
        ends = np.stack([self.each(name, num_candidates) for name in ("begin", "end")], axis=1)
        return strokes(ends, _spans_within(seq_len, self.each("duration", num_candidates).astype(int), rng), seq_len)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        places, press = place_and_press(actions)
        down, up = edges(press)
        at = mean_at(down, squared_distance(places, self.begin)), mean_at(up, squared_distance(places, self.end))
        near = (at[0] <= TOLERANCE**2) & (at[1] <= TOLERANCE**2)
        return single_press(actions) & near & ((press.sum(dim=-1) - self.duration).abs() <= STEPS_TOLERANCE)


@dataclass(frozen=True)
class Drag(Parameters):
    """One press that passes, pressed, through each of P places `(..., P, 2)`, down at the first and up at the last."""

    points: torch.Tensor

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        return self._missed(actions).sum(dim=-1) + one_press(place_and_press(actions)[1])

    def _missed(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the squared distance by which each place is missed, `(..., P)`."""
        places, press = place_and_press(actions)
        down, up = edges(press)
        distances = (places.unsqueeze(-3) - self.points.unsqueeze(-2)).square().sum(dim=-1)  # (..., P, L)
        nearest = (distances + (1 - press).unsqueeze(-2)).amin(dim=-1)
        first, last = mean_at(down, distances[..., 0, :]), mean_at(up, distances[..., -1, :])
        return torch.cat([first.unsqueeze(-1), nearest[..., 1:-1], last.unsqueeze(-1)], dim=-1)

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task: the places, and a press of some length that begins somewhere."""
        points = self.each("points", num_candidates)
        shares = rng.uniform(PRESS_SHARES[1], 2 * PRESS_SHARES[1], size=len(points))
        return strokes(points, _spans_within(seq_len, np.rint(shares * seq_len).astype(int), rng), seq_len)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        return single_press(actions) & (self._missed(actions) <= TOLERANCE**2).all(dim=-1)


@dataclass(frozen=True)
class Detour(Parameters):
    """One press from a place to another, `(..., 2)` each, that stays out of a disc: its centre and its radius in screens."""

    begin: torch.Tensor
    end: torch.Tensor
    center: torch.Tensor
    radius: torch.Tensor

    def _drag(self) -> Drag:
        return Drag(torch.stack(torch.broadcast_tensors(self.begin, self.end), dim=-2))

    def _inside(self, actions: torch.Tensor) -> torch.Tensor:
        """Return how deep in the disc each pressed step is, in screens, `(..., L)`."""
        places, press = place_and_press(actions)
        return press * (self.radius.unsqueeze(-1) - (squared_distance(places, self.center) + TINY).sqrt()).clamp(min=0)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        ends = torch.stack(torch.broadcast_tensors(self.begin, self.end), dim=-2)
        return (
            Drag(ends)(actions)
            + self._inside(actions).square().amax(dim=-1)
            + mean_at(place_and_press(actions)[1], self._inside(actions).square())
        )

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task, as of a `Drag` from end to end; nothing of the disc."""
        return self._drag().gestures(seq_len, num_candidates, rng)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        return self._drag().success(actions) & (self._inside(actions).amax(dim=-1) <= TOLERANCE / 2)


@dataclass(frozen=True)
class PressTiming(Parameters):
    """One press from a step to a step `(...)`, both included, at a target `(..., 2)`; cut at 0.5, and so without a gradient."""

    target: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor

    def _wrong(self, actions: torch.Tensor) -> torch.Tensor:
        pressed = actions[..., PRESS] > PRESS_THRESHOLD
        step = torch.arange(actions.shape[-2], device=actions.device)
        asked = (step >= self.first.unsqueeze(-1)) & (step <= self.last.unsqueeze(-1))
        return (pressed != asked).float().mean(dim=-1)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        pressed = (actions[..., PRESS] > PRESS_THRESHOLD).float()
        far = mean_at(pressed, squared_distance(actions[..., :PRESS].detach(), self.target))
        return self._wrong(actions) + far + (pressed.sum(dim=-1) == 0).float()

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        """Return what is known of K candidates a task, which is all of the press."""
        spans = np.stack([self.each("first", num_candidates), self.each("last", num_candidates)], axis=-1).astype(int)
        return strokes(self.each("target", num_candidates)[:, None], spans[:, None], seq_len, still=True)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        places, press = place_and_press(actions)
        near = (press < PRESS_THRESHOLD) | (squared_distance(places, self.target) <= TOLERANCE**2)
        wrong = (self._wrong(actions) * actions.shape[-2]).round()
        return single_press(actions) & near.all(dim=-1) & (wrong <= STEPS_TOLERANCE)


def jerk(actions: torch.Tensor) -> torch.Tensor:
    """Return the mean squared third difference of x and y, in screens squared a step^6 (Flash and Hogan 1985, equation 1)."""
    return actions[..., :PRESS].diff(n=3, dim=-2).square().sum(dim=-1).mean(dim=-1)


def travel_time(actions: torch.Tensor, width: float = 0.05, slope: float = 0.1) -> torch.Tensor:
    """Return by how much the motion is hastier than Fitts's law allows, a share of the L steps, squared.

    The law (MacKenzie 1992, equation 7): a way D to a target of `width` takes slope * log2(D / width + 1), `slope` a share of
    the L steps. The time taken is that of the steps that move, each weighted by how fast.
    """
    steps = (actions[..., 1:, :PRESS] - actions[..., :-1, :PRESS]).norm(dim=-1)
    way = steps.sum(dim=-1)
    taken = way.square() / (steps.square().sum(dim=-1) + TINY) / actions.shape[-2]  # participation ratio of the steps
    return (slope * torch.log2(way / width + 1) - taken).clamp(min=0).square()


@dataclass(frozen=True)
class Sum:
    """A task and further costs, weighted; done where the task is."""

    task: Task
    others: tuple[tuple[float, Value], ...]

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        return self.task(actions) + sum(weight * cost(actions) for weight, cost in self.others)

    def success(self, actions: torch.Tensor) -> torch.Tensor:
        return self.task.success(actions)

    def gestures(self, seq_len: int, num_candidates: int, rng: np.random.Generator) -> Gestures:
        return self.task.gestures(seq_len, num_candidates, rng)


@dataclass(frozen=True)
class BlackBox:
    """A cost without its gradient, as a simulator has none."""

    cost: Value

    @torch.no_grad()
    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        return self.cost(actions.detach())


COSTS: dict[str, type[Parameters]] = {
    "tap": Tap,
    "either": Either,
    "swipe": Swipe,
    "drag": Drag,
    "detour": Detour,
    "timing": PressTiming,
}
