"""What the benchmarks work out themselves, and that the one of the planner runs."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from action_ddim.planning.costs import Either
from action_ddim.planning.record import Search
from augmentation.gestures import GestureConfig, generate
from tests.conftest import ROOT


def toy_actions(seq_len: int, seed: int) -> np.ndarray:
    return np.concatenate(list(generate(GestureConfig(num_sequences=200, sequence_length=seq_len, seed=seed))))


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scaling():
    return load("scaling")


@pytest.fixture(scope="module")
def planning():
    return load("planning")


def test_exponent_is_that_of_a_power_law(scaling):
    def rows(size, time):
        return [scaling.Row(size, value, 8, time(value), 0.0) for value in (1, 2, 4, 8, 16)]

    assert scaling.exponents(rows("length", lambda n: 3 * n**2)) == pytest.approx((2, 2))
    assert scaling.exponents(rows("patch_size", lambda n: 5 / n)) == pytest.approx((-1, -1))
    whole, upper = scaling.exponents(rows("batch_size", lambda n: 10 + n))  # what does not grow hides what does
    assert whole < upper < 1


def test_fastest_round_is_taken_row_by_row(scaling):
    rounds = [[scaling.Row("length", 250, 8, time, 0.0) for time in times] for times in ((3.0, 5.0), (4.0, 2.0))]
    assert [row.step_ms for row in scaling.fastest(rounds)] == [3.0, 2.0]


def test_curves_are_read_off_at_what_another_took(planning):
    curve = {"evaluations": [4.0, 10.0, 30.0], "ms": [1.0, 2.0, 9.0], "median": [0.5, 1e-3, 1e-5]}
    assert [planning.at(curve, "evaluations", value) for value in (3, 4, 29, 1000)] == [None, 0, 1, 2]
    assert [planning.time_to(curve, cost) for cost in (1, 1e-3, 1e-4, 1e-6)] == [1.0, 2.0, 9.0, float("inf")]


def test_time_to_target_is_beside_the_soonest_that_knows_as_much(planning):
    def arm(name, told):
        return planning.Arm(name, told, None)

    arms = [arm("slow", True), arm("quick", True), arm("ours: x", True), arm("blind", False)]
    ends = {"slow": (8.0, 1e-2), "quick": (4.0, 0.04), "ours: x": (2.0, 1e-3), "blind": (1.0, 0.5)}
    found = {"tap": {name: {"ms": [ms], "median": [cost]} for name, (ms, cost) in ends.items()}}
    table, targets = planning.time_table(found, arms, 64)
    assert [row[2] for row in table.rows] == ["8.00 (1)", "never", "2.00 (4)", "1.00 (1)"]
    assert targets["tap"] == {"told": {"cost": 1e-2, "ms": 8.0}, "cost only": {"cost": 0.5, "ms": 1.0}}


def test_diversity_counts_modes_that_are_done(planning):
    either = Either(
        torch.tensor([[[0.2, 0.2], [0.8, 0.8]]]).repeat(3, 1, 1)[:, None], torch.tensor([[[0, 19]]]).repeat(3, 1, 1)
    )
    candidates = torch.full((3, 4, 20, 3), 0.2)
    candidates[..., 2] = 0
    candidates[..., 5:9, 2] = 1
    candidates[0, 2:, :, :2] = 0.8  # half and half; one mode; one mode, and another place
    candidates[2, 2:, :, :2] = 0.5
    found = planning.diversity(Search([], candidates.numpy()), either)
    assert found == {"both": pytest.approx(1 / 3), "entropy": pytest.approx(1 / 3)}


@pytest.mark.slow
def test_planning_benchmark_at_toy_size(planning, model, tmp_path, capsys, monkeypatch, small_judges):
    monkeypatch.setattr(planning, "LEAST_JUDGED", 10)
    monkeypatch.setattr(planning, "read_actions", lambda _, seq_len, folder, count, seed: toy_actions(seq_len, seed))
    sizes = "--num_tasks 12 --batch_size 8 --budget 64 --num_updates 5 --families tap either"
    planning.main(["--model", str(model), "--out", str(tmp_path), *sizes.split()])
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "planning.json").read_text())
    arms = found["families"]["tap"]
    assert len(arms) == 19
    assert all(name in text for name in arms)
    assert arms["minimum jerk"]["success"] == [1.0]
    assert arms["minimum jerk"]["median"][-1] < 1e-9
    assert all(max(curve["evaluations"]) <= 80 for curve in arms.values())  # 64, and 16 drafts and their variants
    assert set(found["realism"]["tap"]) == {"held-out actions", *arms}
    assert (tmp_path / "planning_ms.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_gpu_benchmark_says_where_there_is_none(python):
    result = python(ROOT / "benchmarks" / "gpu.py")
    assert (result.returncode, result.stdout) == (0, "no GPU\n")
