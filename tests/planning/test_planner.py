"""The planner on a model that was never trained: what is exact, what is counted, and that effort never makes a plan worse."""

import numpy as np
import pytest
import torch

from action_ddim import ActionDDIMPipeline
from action_ddim.actions import moves
from action_ddim.planning.costs import BlackBox, Tap
from action_ddim.planning.planner import CountedCost, plan
from action_ddim.planning.tasks import FAMILIES, sample_tasks
from tests import gaussian
from tests.conftest import SEQ_LEN


@pytest.fixture
def pipeline(model) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def to_the_right(actions: torch.Tensor) -> torch.Tensor:
    """A user's own cost: how far x is from 1, `(..., L, 3)` to `(...)`."""
    return (1 - actions[..., 0]).square().mean(dim=-1)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "detour"])
def test_what_the_task_fixes_is_done_to_the_letter(pipeline, family):
    tasks = sample_tasks(family, 3, SEQ_LEN, seeded(1))
    planned = plan(pipeline, tasks, num_tasks=3, num_candidates=2, num_inference_steps=2, generator=seeded())
    assert planned.actions.shape == (3, SEQ_LEN, 3)
    assert planned.candidates.shape == (3, 2, SEQ_LEN, 3)
    assert tasks.success(torch.as_tensor(planned.candidates)).all()
    np.testing.assert_allclose(planned.costs, tasks(torch.as_tensor(planned.actions)[:, None])[:, 0], atol=1e-7)


def test_best_is_the_plan_and_all_is_counted(pipeline):
    seen = []

    def cost(actions):
        seen.append((len(actions), actions.requires_grad))
        return to_the_right(actions)

    planned = plan(
        pipeline, cost, num_candidates=5, num_inference_steps=4, guidance_scale=1.0, search_rounds=2, generator=seeded()
    )
    assert planned.cost_evaluations == sum(count for count, _ in seen)
    assert planned.gradient_evaluations == sum(count for count, differentiated in seen if differentiated)
    assert planned.denoiser_calls == 5 * 4 + 2 * 5 * 2  # a draft in four steps, two rounds from half of the schedule
    assert (np.diff(planned.candidate_costs) >= 0).all()
    assert planned.costs[0] == planned.candidate_costs.min()
    assert planned.actions[0].tolist() == planned.candidates[0, 0].tolist()
    assert set(np.unique(planned.actions[..., 2])) <= {0.0, 1.0}


def test_search_needs_no_gradient_and_never_loses_what_it_had(pipeline):
    best = [
        plan(
            pipeline, BlackBox(to_the_right), num_candidates=8, num_inference_steps=4, search_rounds=rounds, generator=seeded()
        )
        for rounds in (0, 1, 4)
    ]
    assert best[0].costs > best[1].costs >= best[2].costs
    assert best[2].gradient_evaluations == 0


def test_guidance_goes_down_the_cost():
    """On Gaussian data, whose denoiser is exact: an untrained network has no slope to go by."""
    free, guided = (
        plan(gaussian.make_pipeline(), to_the_right, num_candidates=8, guidance_scale=scale, generator=seeded())
        for scale in (0.0, 300.0)
    )
    assert guided.candidate_costs.mean() < 0.8 * free.candidate_costs.mean()


def test_refinement_finds_the_minimum_and_keeps_rests_and_what_is_known(pipeline):
    known = np.full((SEQ_LEN, 3), 0.25, np.float32)
    mask = np.zeros_like(known, dtype=bool)
    mask[:5, :2] = True  # the pointer rests there
    words = {"known": known, "mask": mask, "num_candidates": 2, "num_inference_steps": 2}
    rough = plan(pipeline, to_the_right, **words, generator=seeded())
    fine = plan(pipeline, to_the_right, **words, refine_steps=20, generator=seeded())
    assert fine.actions[0, :5, :2].tolist() == known[:5, :2].tolist()
    assert fine.actions[0, 5:, 0] == pytest.approx(1, abs=1e-3)  # where nothing is known, the minimum is x = 1
    assert fine.costs < rough.costs
    resting = ~moves(rough.actions[0])
    assert not moves(fine.actions[0])[resting].any()


def test_refinement_that_makes_it_worse_is_dropped(pipeline):
    """A cost whose gradient leads elsewhere than down."""

    def misleading(actions):
        return to_the_right(actions) if actions.requires_grad else -to_the_right(actions)

    words = {"num_candidates": 2, "num_inference_steps": 2}
    rough, refined = (plan(pipeline, misleading, **words, refine_steps=steps, generator=seeded()) for steps in (0, 5))
    assert refined.gradient_evaluations > 0
    assert refined.actions.tolist() == rough.actions.tolist()
    assert refined.costs == rough.costs


def test_what_is_known_besides_joins_what_the_task_fixes(pipeline):
    tap = Tap((0.3, 0.7), (8, 12))
    known, mask = np.full((SEQ_LEN, 3), 0.9, np.float32), np.zeros((SEQ_LEN, 3), bool)
    mask[0, :2] = True  # where the pointer is
    planned = plan(pipeline, tap, known=known, mask=mask, num_inference_steps=2, search_rounds=1, generator=seeded())
    assert tap.success(torch.as_tensor(planned.candidates[0])).all()
    assert (planned.candidates[0, :, 0, :2] == np.float32(0.9)).all()


def test_what_is_no_number_is_as_bad_as_can_be():
    actions = np.full((3, SEQ_LEN, 3), 0.5, np.float32)
    actions[1, 4, 0] = np.nan
    counted = CountedCost(lambda given: given[..., 2].mean(dim=-1), 1)  # which does not look at x
    assert counted.of(actions).tolist() == [[0.5, np.inf, 0.5]]
    with pytest.raises(ValueError, match="no candidate is finite; lower guidance_scale, 1e\\+38"):
        plan(gaussian.make_pipeline(), to_the_right, guidance_scale=1e38, generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_plan_on_a_gpu(pipeline):
    tap = Tap((0.3, 0.7), (8, 12))
    planned = plan(pipeline.to("cuda"), tap, guidance_scale=10.0, refine_steps=2, generator=torch.Generator("cuda"))
    assert tap.success(torch.as_tensor(planned.candidates)).all()


def test_plan_goes_on_from_one_before(pipeline):
    tasks = sample_tasks("tap", 2, SEQ_LEN, seeded(1))
    first = plan(pipeline, tasks, num_tasks=2, num_inference_steps=4, generator=seeded())
    again = plan(
        pipeline, tasks, num_tasks=2, num_inference_steps=4, warm_start=first.actions, search_strength=0.25, generator=seeded()
    )
    assert again.denoiser_calls == first.denoiser_calls / 4
    assert tasks.success(torch.as_tensor(again.candidates)).all()


def test_several_tasks_are_planned_by_their_own_costs():
    """Where each task has a place of its own, known from the cost alone, guidance leads each to its own."""
    targets = torch.tensor([0.1, 0.9]).view(2, 1, 1)

    def cost(actions):  # (T, K, L, 3)
        return (actions[..., 0] - targets).square().mean(dim=-1)

    planned = plan(gaussian.make_pipeline(), cost, num_tasks=2, guidance_scale=300.0, generator=seeded())
    means = planned.actions[..., 0].mean(axis=1)
    assert means[0] < means[1] - 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"num_tasks": 0}, "num_tasks is 0"),
        ({"search_rounds": -1}, "search_rounds is -1"),
        ({"refine_steps": 21}, "at most 20"),
        ({"known": np.zeros((SEQ_LEN, 3))}, "go together"),
        ({"search_rounds": 1, "search_strength": 1.5}, "strength"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"cost": lambda actions: actions.mean()}, "the shape \\(\\), not a tensor with a number for each of 4 actions"),
        ({"cost": lambda actions: actions.mean(dim=1)}, "the shape \\(4, 3\\)"),
        ({"cost": lambda actions: actions.numpy().mean(axis=(1, 2))}, "a ndarray"),
        ({"cost": BlackBox(to_the_right), "refine_steps": 3}, "no gradient"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline, words, message):
    with pytest.raises(ValueError, match=message):
        plan(pipeline, **{"cost": to_the_right, **words})
