"""The examples run as they are, where a reader would start them."""

import re
import runpy
import shutil

import numpy as np
import pytest

from ..conftest import ROOT

EXAMPLES = ROOT / "examples"
SIGNATURE = b"\x89PNG"


@pytest.mark.slow
def test_minimal_training_learns_and_draws(python, tmp_path):
    result = python(EXAMPLES / "minimal_training.py")
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (.*)$", result.stdout, re.MULTILINE)]
    assert len(losses) == 10
    assert losses[-1] < 0.6 * losses[0]
    assert (tmp_path / "minimal_training.png").read_bytes().startswith(SIGNATURE)


def test_minimal_training_is_short_and_takes_no_flags():
    text = (EXAMPLES / "minimal_training.py").read_text()
    assert len(text.splitlines()) <= 60
    assert "argv" not in text
    assert "argparse" not in text


def test_fill_in_keeps_what_is_given(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "checkpoints" / "pipeline")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(EXAMPLES / "fill_in.py")
    filled = np.load(tmp_path / "filled_actions.npy")
    count, length, _ = filled.shape
    first, last = length // 3, 2 * length // 3
    assert count == 5
    np.testing.assert_array_equal(filled[:, first, :2], np.tile(np.float32([0.2, 0.8]), (5, 1)))
    np.testing.assert_array_equal(filled[:, last, :2], np.tile(np.float32([0.7, 0.3]), (5, 1)))
    pressed = np.zeros(length)
    pressed[first : last + 1] = 1
    np.testing.assert_array_equal(filled[..., 2], np.tile(pressed, (5, 1)))
    assert (filled[0] != filled[1]).any()
    assert (tmp_path / "filled.png").read_bytes().startswith(SIGNATURE)


@pytest.mark.parametrize("name", ["fill_in.py", "plan.py"])
def test_example_says_what_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(EXAMPLES / name)
    assert ended.value.code == (
        "checkpoints/pipeline is missing; train a model first (README.md, Train), and start this where its checkpoints/ lies"
    )


def test_plan_goes_from_corner_to_corner_around_the_middle(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "checkpoints" / "pipeline")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(EXAMPLES / "plan.py")
    ((x, y, press),) = np.load(tmp_path / "planned_actions.npy").transpose(0, 2, 1)
    (pressed,) = np.nonzero(press)
    assert np.diff(pressed).tolist() == [1] * 7  # 8 of 20 steps, 200 of 500 ms
    assert [x[pressed[0]], y[pressed[0]], x[pressed[-1]], y[pressed[-1]]] == np.float32([0.2, 0.8, 0.8, 0.2]).tolist()
    assert np.hypot(x - 0.5, y - 0.5).min() > 0.14
    assert (tmp_path / "planned.png").read_bytes().startswith(SIGNATURE)
