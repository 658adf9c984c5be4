"""Tasks by lot, of each family of costs, to try a planner on."""

from collections.abc import Callable

import torch

from action_ddim.planning.costs import Detour, Drag, Either, PressTiming, Swipe, Tap, Task

LOW, HIGH = 0.1, 0.9  # of the screen, where places lie
NUM_POINTS = 4  # of a drag
LEAST_WAY = 0.3  # in screens, of a stroke


def sample_tasks(family: str, num_tasks: int, seq_len: int, generator: torch.Generator) -> Task:
    """Draw T tasks of a family, one of `FAMILIES`, as one cost of actions `(T, K, L, 3)`; each of them can be done."""
    return FAMILIES[family](num_tasks, seq_len, generator)


def _places(num: int, count: int, generator: torch.Generator) -> torch.Tensor:
    return LOW + (HIGH - LOW) * torch.rand(num, 1, count, 2, generator=generator)


def _ends(num: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the two ends of strokes, `(T, 1, 2, 2)`, at least `LEAST_WAY` from each other."""
    ends = _places(num, 2, generator)
    while (short := (ends[..., 0, :] - ends[..., 1, :]).norm(dim=-1) < LEAST_WAY).any():
        ends = torch.where(short[..., None, None], _places(num, 2, generator), ends)
    return ends


def _window(num: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Draw windows of a quarter of the steps, `(T, 1, 2)`."""
    first = torch.randint(0, seq_len - seq_len // 4, (num, 1), generator=generator)
    return torch.stack([first, first + seq_len // 4], dim=-1)


def _press(num: int, seq_len: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the first and the last step of presses, `(T, 1)` each."""
    duration = torch.randint(max(2, seq_len // 25), seq_len // 4, (num, 1), generator=generator)
    first = (torch.rand(num, 1, generator=generator) * (seq_len - duration)).long()
    return first, first + duration - 1


def _tap(num: int, seq_len: int, generator: torch.Generator) -> Tap:
    return Tap(_places(num, 1, generator)[..., 0, :], _window(num, seq_len, generator))


def _either(num: int, seq_len: int, generator: torch.Generator) -> Either:
    return Either(_ends(num, generator), _window(num, seq_len, generator))


def _swipe(num: int, seq_len: int, generator: torch.Generator) -> Swipe:
    first, last = _press(num, seq_len, generator)
    begin, end = _ends(num, generator).unbind(dim=-2)
    return Swipe(begin, end, last - first + 1)


def _drag(num: int, seq_len: int, generator: torch.Generator) -> Drag:
    return Drag(_places(num, NUM_POINTS, generator))


def _detour(num: int, seq_len: int, generator: torch.Generator) -> Detour:
    """The disc lies across the straight way, and not on its ends."""
    begin, end = _ends(num, generator).unbind(dim=-2)
    share = 0.4 + 0.2 * torch.rand(num, 1, 1, generator=generator)
    return Detour(begin, end, torch.lerp(begin, end, share), 0.25 * (end - begin).norm(dim=-1))


def _timing(num: int, seq_len: int, generator: torch.Generator) -> PressTiming:
    return PressTiming(_places(num, 1, generator)[..., 0, :], *_press(num, seq_len, generator))


FAMILIES: dict[str, Callable[[int, int, torch.Generator], Task]] = {
    "tap": _tap,
    "either": _either,
    "swipe": _swipe,
    "drag": _drag,
    "detour": _detour,
    "timing": _timing,
}
