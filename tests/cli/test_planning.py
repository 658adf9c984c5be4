"""`action-ddim gesture`, `plan` and `sample --gesture` as users call them, and their mistakes in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from action_ddim import ActionDDIMPipeline
from action_ddim.actions import find_invalid
from action_ddim.cli.main import main
from action_ddim.data.features import GESTURE_TYPES, gesture_types
from action_ddim.planning.costs import Tap
from action_ddim.planning.planner import plan
from tests.conftest import SEQ_LEN, one_line


def call(*words) -> int:
    return main([str(word) for word in words])


def actions_of(path) -> np.ndarray:
    rows = np.load(path)
    assert rows.dtype == np.float32
    assert find_invalid(rows) is None
    return rows.reshape(-1, SEQ_LEN, 3)


def test_clicks_at_several_places(model, tmp_path, capsys):
    files = ("--out", tmp_path / "clicks.npy", "--plot", tmp_path / "clicks.png")
    words = ("click", "--model", model, "--points", "0.3,0.7", "0.6,0.2", "--num", 2, "--rate", 50, "--duration_ms", 80)
    assert call("gesture", *words, *files) == 0
    assert "4 of click" in capsys.readouterr().out
    actions = actions_of(tmp_path / "clicks.npy")
    assert actions[:, 8:12, 2].all()
    assert actions[:, :, 2].sum() == 4 * 4
    expected = np.float32([[0.3, 0.7], [0.3, 0.7], [0.6, 0.2], [0.6, 0.2]])
    assert (actions[:, 8:12, :2] == expected[:, None]).all()
    assert Image.open(tmp_path / "clicks.png").format == "PNG"


def test_drag_from_where_the_pointer_is(model, tmp_path):
    points = ("0.3,0.7", "0.6,0.2", "0.9,0.9")
    words = ("drag", "--model", model, "--points", *points, "--rate", 50, "--duration_ms", 200, "--start", "0.5,0.5")
    assert call("gesture", *words, "--out", tmp_path / "drag.npy") == 0
    (action,) = actions_of(tmp_path / "drag.npy")
    pressed = np.flatnonzero(action[:, 2])
    assert action[0, :2].tolist() == [0.5, 0.5]
    assert action[pressed[[0, -1]], :2].tolist() == np.float32([[0.3, 0.7], [0.9, 0.9]]).tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("swipe", "--points", "0.1,0.1"), "--points are 1; swipe takes two"),
        (("swipe", "--points", "0.1,0.1", "0.2,0.2", "0.3,0.3"), "--points are 3; swipe takes two"),
        (("click", "--points", "0.1"), "0.1 is no place"),
        (("click", "--points", "1.1,0"), "outside the screen"),
        (("tap", "--points", "0.1,0.1"), "invalid choice"),
        (("click", "--points", "0.1,0.1", "--duration_ms", 900), "an action is 400 ms long"),
        (("click", "--points", "0.1,0.1", "--duration_ms", 0), "--duration_ms is 0"),
        (("click", "--points", "0.1,0.1", "--rate", 0), "--rate is 0"),
        (("click", "--points", "0.1,0.1", "--rate", 1e308), "--rate is 1e+308"),
        (("click", "--points", "0.1,0.1", "--onset_ms", "inf"), "onset_ms is inf"),
        (("swipe", "--points", "0.1,0.1", "0.2,0.2", "--duration_ms", 20), "2 places do not fit into a stroke of 1 steps"),
        (("click", "--points", "0.1,0.1", "--num_inference_steps", 101), "--num_inference_steps is 101"),
    ],
)
def test_gesture_that_cannot_be_is_one_line(words, message, model, tmp_path, capsys):
    assert call("gesture", "--model", model, "--rate", 50, "--out", tmp_path / "out.npy", *words) == 2
    one_line(capsys, message)
    assert not (tmp_path / "out.npy").exists()


def test_plan_says_what_it_took(model, tmp_path, capsys):
    words = ("--cost", "tap", "--target", "0.3,0.7", "--window", 5, 15, "--num_candidates", 3, "--num_inference_steps", 2)
    assert call("plan", "--model", model, *words, "--out", tmp_path / "plan.npy", "--plot", tmp_path / "plan.png") == 0
    said = capsys.readouterr().out
    assert "cost 0, done; 3 evaluations of the cost, 0 of its gradient, 6 of the denoiser" in said
    (action,) = actions_of(tmp_path / "plan.npy")
    pressed = np.flatnonzero(action[:, 2])
    assert 5 <= pressed.min() <= pressed.max() <= 15
    assert (action[pressed, :2] == np.float32([0.3, 0.7])).all()
    assert Image.open(tmp_path / "plan.png").format == "PNG"


def test_flags_of_plan_are_those_of_the_planner(model, tmp_path):
    """Each changes the plan, and to that of the same argument."""
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    words = ("--cost", "tap", "--target", "0.3,0.7", "--window", 5, 15)
    base = {"num_candidates": 4, "num_inference_steps": 3, "seed": 0, "inpaint": False}
    seen = set()
    for change in (
        {},
        {"num_candidates": 2},
        {"num_inference_steps": 2},
        {"seed": 1},
        {"inpaint": True},
        {"search_rounds": 2},
        {"guidance_scale": 50.0},
        {"refine_steps": 3},
    ):
        asked = {**base, **change}
        flags = [word for name, value in asked.items() if name != "inpaint" for word in (f"--{name}", value)]
        flags += [] if asked["inpaint"] else ["--no_inpaint"]
        assert call("plan", "--model", model, *words, *flags, "--out", tmp_path / "plan.npy", "--overwrite") == 0
        generator = torch.Generator().manual_seed(asked.pop("seed"))
        expected = plan(pipeline, Tap((0.3, 0.7), (5, 15)), **asked, generator=generator).actions
        actions = actions_of(tmp_path / "plan.npy")
        np.testing.assert_allclose(actions, expected, atol=1e-6)
        seen.add(actions.round(4).tobytes())
    assert len(seen) == 8


def test_gestures_depend_on_seed_and_steps_and_not_on_the_batch(model, tmp_path):
    words = ("swipe", "--model", model, "--points", "0.3,0.7", "0.6,0.2", "--rate", 50, "--num", 5)
    made = {}
    for name, flags in {
        "plain": (),
        "batch": ("--batch_size", 2),
        "seed": ("--seed", 1),
        "steps": ("--num_inference_steps", 3),
    }.items():
        assert call("gesture", *words, *flags, "--out", tmp_path / f"{name}.npy") == 0
        made[name] = actions_of(tmp_path / f"{name}.npy")
    np.testing.assert_allclose(made["batch"], made["plain"], atol=1e-6)
    assert not np.allclose(made["seed"], made["plain"], atol=1e-3)
    assert not np.allclose(made["steps"], made["plain"], atol=1e-3)
    assert len({action.tobytes() for action in made["plain"]}) == 5


def test_plan_of_every_cost(model, tmp_path):
    ends = ("--begin", "0.1,0.1", "--end", "0.8,0.8")
    costs = {
        "either": ("--targets", "0.1,0.1", "0.9,0.9", "--window", 0, 19),
        "swipe": (*ends, "--duration", 5),
        "drag": ("--points", "0.1,0.1", "0.5,0.8", "0.9,0.1"),
        "detour": (*ends, "--center", "0.5,0.5", "--radius", 0.1, "--guidance_scale", 10, "--refine_steps", 3),
        "timing": ("--target", "0.5,0.5", "--first", 3, "--last", 6, "--search_rounds", 1, "--no_inpaint"),
    }
    for cost, words in costs.items():
        out = tmp_path / f"{cost}.npy"
        assert call("plan", "--model", model, "--cost", cost, *words, "--num_inference_steps", 2, "--out", out) == 0
        assert len(actions_of(out)) == 1


TAP = ("--cost", "tap", "--target", "0.3,0.7")
DETOUR = ("--cost", "detour", "--begin", "0.1,0.1", "--end", "0.8,0.8", "--center", "0.5,0.5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TAP, "--window is part of --cost tap; add it"),
        ((*TAP, "--window", 1, 5, "--radius", 0.1), "--radius is not part of --cost tap; leave it out"),
        ((*TAP, "--window", 1, 5, "--num_candidates", 0), "--num_candidates is 0"),
        ((*TAP, "--window", 1, 5, "--refine_steps", 21), "--refine_steps is 21"),
        ((*TAP, "--window", 15, 5), "--window is 15 5"),
        ((*TAP, "--window", 1, 5, "--guidance_scale", "nan"), "--guidance_scale is nan"),
        ((*TAP, "--window", 1, 5, "--batch_size", 4), "--batch_size is not a flag"),
        ((*DETOUR, "--radius", -1), "--radius is -1"),
        ((*DETOUR, "--radius", "nan"), "--radius is nan"),
        ((*TAP, "--window", 5, 25), "--window is 5 25"),
        (("--cost", "either", "--targets", "0.1,0.1", "--window", 1, 5), "--targets are 1; give two"),
        (("--cost", "drag", "--points", "0.1,0.1"), "--points are 1; give two or more"),
        (("--cost", "timing", "--target", "0,0", "--first", 3, "--last", 2), "--first 3 and --last 2"),
        (("--cost", "timing", "--target", "0,0", "--first", 3, "--last", 6, "--guidance_scale", 1), "no gradient"),
        (("--cost", "swipe", "--begin", "0,0", "--end", "1,1", "--duration", 21), "--duration is 21"),
    ],
)
def test_plan_that_cannot_be_is_one_line(words, message, model, tmp_path, capsys):
    assert call("plan", "--model", model, "--out", tmp_path / "out.npy", *words) == 2
    one_line(capsys, message)
    assert not (tmp_path / "out.npy").exists()


def test_sample_of_a_type_holds_only_that_and_says_how_rare_it_is(model, tmp_path, capsys):
    call("sample", "--model", model, "--num", 60, "--num_inference_steps", 3, "--out", tmp_path / "all.npy")
    types = gesture_types(actions_of(tmp_path / "all.npy"))
    common = int(np.bincount(types).argmax())
    words = ("--num", 5, "--gesture", GESTURE_TYPES[common], "--num_inference_steps", 3, "--batch_size", 20)
    capsys.readouterr()
    assert call("sample", "--model", model, *words, "--out", tmp_path / "some.npy") == 0
    fifth = np.flatnonzero(types == common)[4] + 1
    assert f"5 of {fifth} draws" in capsys.readouterr().out
    assert (gesture_types(actions_of(tmp_path / "some.npy")) == common).all()
    np.testing.assert_allclose(
        actions_of(tmp_path / "some.npy"), actions_of(tmp_path / "all.npy")[types == common][:5], atol=1e-6
    )


def test_type_that_the_model_never_draws_is_one_line(model, tmp_path, capsys):
    call("sample", "--model", model, "--num", 300, "--num_inference_steps", 3, "--out", tmp_path / "all.npy")
    absent = sorted(set(range(len(GESTURE_TYPES))) - set(gesture_types(actions_of(tmp_path / "all.npy")).tolist()))
    assert absent
    words = ("--num", 3, "--gesture", GESTURE_TYPES[absent[0]], "--num_inference_steps", 3)
    capsys.readouterr()
    assert call("sample", "--model", model, *words, "--out", tmp_path / "none.npy") == 2
    one_line(capsys, "--gesture", "0 of 300 draws")
    assert not (tmp_path / "none.npy").exists()
