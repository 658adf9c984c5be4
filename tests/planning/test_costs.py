"""Costs against examples worked by hand, finite differences, and one task at a time."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from action_ddim.cli.planning import PARAMETERS
from action_ddim.planning import costs
from action_ddim.planning.tasks import FAMILIES, sample_tasks

L = 10


def action(press: tuple[int, int] | None, places: dict[int, tuple[float, float]] | None = None) -> torch.Tensor:
    """Actions `(1, L, 3)` at .5, .5 but for the steps named, pressed from a step to a step."""
    actions = torch.full((1, L, 3), 0.5)
    actions[..., 2] = 0
    if press is not None:
        actions[:, press[0] : press[1] + 1, 2] = 1
    for step, place in (places or {}).items():
        actions[:, step, :2] = torch.tensor(place)
    return actions


def value(cost, actions) -> float:
    return cost(actions).item()


def test_tap_counts_place_window_and_presses():
    tap = costs.Tap((0.5, 0.6), (2, 5))
    assert value(tap, action((3, 4))) == pytest.approx(0.01, rel=1e-4)  # .1 off in y
    assert value(tap, action((3, 6))) == pytest.approx(0.01 + 0.1 / 4, rel=1e-4)  # one of four steps, one step late
    twice = action((3, 3))
    twice[:, 5, 2] = 1
    assert value(tap, twice) == pytest.approx(0.01 + 1, rel=1e-4)
    assert value(tap, action(None)) == pytest.approx(1)
    here = costs.Tap((0.5, 0.5), (2, 5))
    assert here.success(torch.cat([action((3, 4)), action((1, 4)), twice, action(None)])).tolist() == [
        True,
        False,
        False,
        False,
    ]
    edge = costs.Tap((0.5, 0.5 + costs.TOLERANCE * 1.01), (0, 9))
    assert not edge.success(action((3, 4))).item()


def test_either_takes_the_nearer():
    either = costs.Either(((0.5, 0.7), (0.5, 0.51)), (0, 9))
    assert value(either, action((3, 4))) == pytest.approx(1e-4, rel=1e-2)
    assert either.mode(action((3, 4))).item() == 1
    assert either.success(action((3, 4), {3: (0.5, 0.505), 4: (0.5, 0.505)})).item()


def test_swipe_counts_both_ends_and_the_duration():
    swipe = costs.Swipe((0.5, 0.5), (0.8, 0.9), 4)
    assert value(swipe, action((2, 5), {5: (0.8, 0.9)})) == pytest.approx(0, abs=1e-5)
    assert value(swipe, action((2, 5))) == pytest.approx(0.25, rel=1e-4)
    assert value(swipe, action((2, 6), {6: (0.8, 0.9)})) == pytest.approx(0.01, rel=1e-3)  # a tenth of the steps too long
    ends = [action((2, 5), {5: (0.8, 0.9)}), action((2, 8), {8: (0.8, 0.9)}), action((2, 5))]
    assert swipe.success(torch.cat(ends)).tolist() == [True, False, False]


def test_drag_passes_through_its_points_while_pressed():
    drag = costs.Drag(((0.5, 0.5), (0.6, 0.5), (0.7, 0.5)))
    way = {3: (0.6, 0.5), 4: (0.7, 0.5)}
    assert value(drag, action((2, 4), way)) == pytest.approx(0, abs=1e-5)
    assert value(drag, action((2, 4), {4: (0.7, 0.5)})) == pytest.approx(0.01, rel=1e-3)  # the middle one missed by .1
    before = action((2, 4), {1: (0.6, 0.5), 4: (0.7, 0.5)})  # passed, but not pressed
    assert value(drag, before) == pytest.approx(0.01, rel=1e-3)
    assert drag.success(torch.cat([action((2, 4), way), before])).tolist() == [True, False]


def test_detour_counts_how_deep_in_the_disc_it_goes():
    detour = costs.Detour((0.5, 0.5), (0.9, 0.5), (0.7, 0.5), 0.1)
    through = action((2, 4), {3: (0.7, 0.5), 4: (0.9, 0.5)})
    assert value(detour, through) == pytest.approx(0.01 + 0.01 / 3, rel=3e-2)  # the deepest step, and the mean of three
    around = action((2, 4), {3: (0.7, 0.65), 4: (0.9, 0.5)})
    assert value(detour, around) == pytest.approx(0, abs=1e-5)
    assert detour.success(torch.cat([through, around])).tolist() == [False, True]
    grazing = [action((2, 4), {3: (0.7, 0.5 + 0.1 - depth), 4: (0.9, 0.5)}) for depth in (0.004, 0.006)]
    assert detour.success(torch.cat(grazing)).tolist() == [True, False]  # half the tolerance of a place


def test_press_timing_counts_wrong_steps_and_has_no_gradient():
    timing = costs.PressTiming((0.5, 0.5), 2, 5)
    assert value(timing, action((2, 5))) == pytest.approx(0, abs=1e-6)
    assert value(timing, action((3, 6))) == pytest.approx(0.2, rel=1e-4)  # two of ten steps
    assert value(timing, action(None)) == pytest.approx(0.4 + 1)
    assert timing.success(torch.cat([action((3, 6)), action((4, 7))])).tolist() == [True, False]
    assert timing.success(torch.cat([action((2, 7)), action((2, 8))])).tolist() == [True, False]  # two steps off, three
    assert not timing(action((2, 5)).requires_grad_()).requires_grad


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "timing"])
def test_gradient_is_that_of_finite_differences(family):
    generator = torch.Generator().manual_seed(0)
    task = sample_tasks(family, 1, 20, generator)
    for field in fields(task):
        object.__setattr__(task, field.name, getattr(task, field.name).double())
    actions = torch.rand(1, 1, 20, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(task, (actions,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_together_are_those_alone_and_can_be_done(family):
    tasks = sample_tasks(family, 5, 50, torch.Generator().manual_seed(0))
    known, mask = tasks.gestures(50, 3, np.random.default_rng(0))
    actions = torch.as_tensor(known).unflatten(0, (5, 3))
    together = tasks(actions)
    assert together.shape == (5, 3)
    for index in range(5):
        alone = tasks.select(slice(index, index + 1))
        torch.testing.assert_close(alone(actions[index]).flatten(), together[index])
    # What is not known is at 0, 0 here, far from every disc: what the task fixes does it.
    assert tasks.success(actions).all()
    assert (mask[..., 2]).all()
    assert not mask[..., :2].all()


def test_jerk_of_a_cubic():
    time = torch.arange(L, dtype=torch.float64)
    actions = torch.stack([1e-3 * time**3, torch.zeros(L), torch.zeros(L)], dim=-1)[None]
    assert costs.jerk(actions).item() == pytest.approx((6e-3) ** 2)  # its third difference is 3! times the factor


def test_travel_that_is_as_slow_as_fitts_law_costs_nothing():
    steady = torch.stack([torch.linspace(0, 0.35, 101), torch.zeros(101), torch.zeros(101)], dim=-1)[None]
    assert costs.travel_time(steady).item() == 0  # log2(8) = 3 tenths of the time are enough, and it takes all of it
    jump = torch.zeros(1, 101, 3)
    jump[:, 50:, 0] = 0.35
    assert costs.travel_time(jump).item() == pytest.approx((0.1 * math.log2(8) - 1 / 101) ** 2, rel=1e-3)


def test_sum_weighs_and_black_box_hides_the_gradient():
    tap = costs.Tap((0.5, 0.6), (2, 5))
    both = costs.Sum(tap, ((2.0, costs.jerk), (3.0, lambda actions: actions[..., 0].mean(dim=-1))))
    actions = action((3, 4))
    assert value(both, actions) == pytest.approx(value(tap, actions) + 3 * 0.5, rel=1e-5)
    assert both.success(actions).equal(tap.success(actions))
    hidden = costs.BlackBox(tap)
    assert not hidden(actions.requires_grad_()).requires_grad
    assert value(hidden, actions) == value(tap, actions)


def test_command_line_names_the_parameters_of_each_cost():
    assert {name: tuple(field.name for field in fields(cost)) for name, cost in costs.COSTS.items()} == PARAMETERS
    assert set(FAMILIES) == set(PARAMETERS)
