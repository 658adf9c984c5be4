"""Planning as regression (after arXiv 2512.01809): a network from a task to an action, with labels in hindsight.

A recording does some task to the letter: the one of which it is the action. `hindsight` takes the parameters of tasks from
recordings, and `Regression` learns the way back, once for each family. A task may leave open when the press is, and the mean of
all such actions presses never: so the network is told the press too, of the recording, or by lot as the planner is
(`Task.gestures`).
"""

import time
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from action_ddim.actions import PRESS
from action_ddim.data.features import action_features
from action_ddim.planning.costs import (
    TOLERANCE,
    Detour,
    Drag,
    Either,
    Parameters,
    PressTiming,
    Swipe,
    Tap,
)
from action_ddim.planning.tasks import NUM_POINTS

STILL_FAMILIES = ("tap", "either", "timing")  # done by a press that stays where it is
LEAST_STROKE = 0.05  # of the screen: what counts as a stroke
IN_STEPS = ("window", "duration", "first", "last")
WIDTH = 512
BATCH = 128
LEARNING_RATE = 1e-3
NUM_UPDATES = 1000


def hindsight(family: str, actions: np.ndarray, generator: torch.Generator) -> tuple[Any, np.ndarray]:
    """Return tasks of a family that recordings `(N, L, 3)` do, and the rows of those that do one.

    What a recording leaves open is drawn: where in its window a tap lies, which place the other of two is, and a disc across
    the straight way, which no recording was asked to avoid.
    """
    pressed = actions[..., PRESS] > 0.5
    length, once = actions.shape[1], action_features(actions)["num_presses"] == 1
    first, last = pressed.argmax(axis=1), length - 1 - pressed[:, ::-1].argmax(axis=1)
    row = np.arange(len(actions))
    ends = [actions[row, step, :PRESS] for step in (first, last)]
    away = np.where(pressed, np.linalg.norm(actions[..., :PRESS] - ends[0][:, None], axis=-1), 0).max(axis=1)
    if family in STILL_FAMILIES:
        done = once & (away <= TOLERANCE) & (last - first <= length // 4)
    else:
        done = once & (np.linalg.norm(ends[1] - ends[0], axis=-1) >= LEAST_STROKE)
    rows = np.flatnonzero(done)
    begin, end, opened, closed = (torch.as_tensor(values[rows])[:, None] for values in (*ends, first, last))
    count = len(rows)
    if family == "timing":
        return PressTiming(begin, opened, closed), rows
    if family == "swipe":
        return Swipe(begin, end, closed - opened + 1), rows
    if family == "drag":
        return Drag(torch.as_tensor(_passed(actions[rows], first[rows], last[rows]))[:, None]), rows
    if family == "detour":
        share = 0.4 + 0.2 * torch.rand(count, 1, 1, generator=generator)
        return Detour(begin, end, torch.lerp(begin, end, share), 0.25 * (end - begin).norm(dim=-1)), rows
    width = length // 4
    earliest, latest = (closed - width).clamp(min=0), opened.clamp(max=length - 1 - width)
    opens = earliest + (torch.rand(count, 1, generator=generator) * (latest - earliest + 1)).long()
    window = torch.stack([opens, opens + width], dim=-1)
    if family == "tap":
        return Tap(begin, window), rows
    other = 0.1 + 0.8 * torch.rand(count, 1, 2, generator=generator)
    swapped = torch.rand(count, 1, 1, generator=generator) < 0.5
    targets = torch.stack([torch.where(swapped, other, begin), torch.where(swapped, begin, other)], dim=-2)
    return Either(targets, window), rows


def _passed(actions: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the places at equal shares of the pressed way, `(N, P, 2)`."""
    step = np.arange(actions.shape[1] - 1)
    inside = (step >= first[:, None]) & (step < last[:, None])
    way = (np.linalg.norm(np.diff(actions[..., :PRESS], axis=1), axis=-1) * inside).cumsum(axis=1)
    wanted = np.linspace(0, 1, NUM_POINTS) * way[:, -1:]  # (N, P)
    at = (way[:, None] < wanted[..., None] - 1e-9).sum(axis=-1) + 1
    at[:, 0], at[:, -1] = first, last
    return np.take_along_axis(actions[..., :PRESS], at[..., None].clip(0, actions.shape[1] - 1), axis=1)


def task_vectors(task: Parameters, press: torch.Tensor) -> torch.Tensor:
    """Return the parameters of T tasks, and the first and the last step of presses `(T, L)`, `(T, D)`; times as shares of L."""
    seq_len = press.shape[1]
    first, last = press.argmax(dim=1), seq_len - 1 - press.flip(1).argmax(dim=1)
    parts = [torch.stack([first, last], dim=1) / seq_len]
    for parameter in fields(task):  # type: ignore[arg-type]
        value = getattr(task, parameter.name)
        parts.append(value.reshape(len(value), -1) / (seq_len if parameter.name in IN_STEPS else 1))
    return torch.cat(parts, dim=1)


class Regression:
    """A network of two hidden layers from the tasks of a family and their presses to the places, trained in hindsight.

    By squared error, on recordings `(N, L, 3)`; `seconds` says how long the training took.

    Raises:
        ValueError: no recording does a task of the family.
    """

    def __init__(self, family: str, recordings: np.ndarray, generator: torch.Generator, num_updates: int = NUM_UPDATES):
        started = time.perf_counter()
        self.seq_len = recordings.shape[1]
        tasks, rows = hindsight(family, recordings, generator)
        if not len(rows):
            raise ValueError(f"none of the recordings is one of {family}")
        done = torch.as_tensor(recordings[rows]).float()
        inputs, targets = task_vectors(tasks, done[..., PRESS]), done[..., :PRESS]
        with torch.random.fork_rng():  # layers are drawn from the generator that everybody shares
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.network = nn.Sequential(
                *(nn.Linear(inputs.shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()),
                *(nn.Linear(WIDTH, self.seq_len * PRESS), nn.Unflatten(1, (self.seq_len, PRESS))),
            )
        optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
        for _ in tqdm(range(num_updates), desc=f"regression, {family}", unit="update", disable=None, leave=False):
            chosen = torch.randint(len(rows), (BATCH,), generator=generator)
            optimizer.zero_grad()
            nn.functional.mse_loss(self.network(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
            schedule.step()
        self.seconds = time.perf_counter() - started

    @torch.no_grad()
    def __call__(self, tasks: Any, press: torch.Tensor) -> torch.Tensor:
        """Return an action for each of T tasks and presses `(T, L)`, `(T, L, 3)`."""
        return torch.cat([self.network(task_vectors(tasks, press)).clamp(0, 1), press[..., None]], dim=-1)
