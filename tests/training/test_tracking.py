"""Trackers that fail in the middle of a run, in a process of their own: wandb starts a service."""

import csv
import shlex
import sys

import pytest

from tests.conftest import TRAINER

pytestmark = pytest.mark.slow

# To a reader that goes away, to a disk that is full, and to nowhere; buffered, as Python is where nobody says otherwise.
PIPED = """
set -o pipefail
unset PYTHONUNBUFFERED
eval "$PYTHON $WORDS --save_dir a" | head -n 1 || exit
eval "$PYTHON $WORDS --save_dir b" > /dev/full 2>&1 || exit
eval "$PYTHON $WORDS --save_dir c" >&- || exit
eval "$PYTHON -m action_ddim --help" | true
(( ${PIPESTATUS[0]} == 0 || ${PIPESTATUS[0]} == 141 ))
"""

# A run as it is, but for what happens to its trackers after the first epoch.
RUN = """
import shutil, sys
from pathlib import Path
from action_ddim.cli.train import parse_train_config
from action_ddim.training import loop

plot_epoch = loop.plot_epoch

def plot_then_break(run, epoch, *, final):
    plot_epoch(run, epoch, final=final)
    if epoch == 1:
        print("trackers:", *(tracker.name for tracker in run.accelerator.trackers))
        run.accelerator.get_tracker("wandb", unwrap=True).finish()
        run.accelerator.get_tracker("tensorboard", unwrap=True).close()
        shutil.rmtree("run/tensorboard")
        Path("run/tensorboard").touch()  # the writer that opens again finds a file where its folder was

loop.plot_epoch = plot_then_break
loop.train(parse_train_config(sys.argv[1:]))
"""


def test_trackers_that_cannot_start_are_left_out(python, flags, tmp_path):
    """A file where wandb's folder should be, and a setting of its own that is none; the run is what it would be."""
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard" / "strokes").touch()
    arguments = flags(
        save_dir="run", report_to=None, num_epochs=1, plot_epochs=1, wandb_project="strokes", resume_from_checkpoint="latest"
    )
    words = [*arguments, "--report_to", "tensorboard", "wandb"]
    result = python(TRAINER, *words, WANDB_MODE="ofline", MPLBACKEND="module://none_such")
    assert result.returncode == 0, result.stderr
    for name in ("wandb", "tensorboard"):
        assert result.stdout.count(f"warning: {name} cannot start (") == 1, result.stdout
    assert (tmp_path / "run" / "pipeline" / "model_index.json").exists()
    assert len(list((tmp_path / "run" / "plots").iterdir())) > 3


def test_a_run_goes_on_whose_lines_nobody_reads(python, flags, tmp_path):
    command = f"import subprocess, sys; print(subprocess.run({PIPED!r}, shell=True, executable='/bin/bash').returncode)"
    words = shlex.join([str(TRAINER), *flags(save_dir=None, num_epochs=1, plot_epochs=0)])
    result = python("-c", command, PYTHON=sys.executable, WORDS=words)
    assert result.stdout.endswith("\n0\n"), result.stderr
    assert not any(word in result.stderr for word in ("Traceback", "Exception ignored")), result.stderr
    for name in "abc":
        assert (tmp_path / name / "pipeline" / "model_index.json").exists()


def test_trackers_that_fail_warn_once_and_the_run_goes_on(python, flags, tmp_path):
    arguments = flags(save_dir="run", report_to=None, num_epochs=3, plot_epochs=1)
    result = python("-c", RUN, *arguments, "--report_to", "tensorboard", "wandb", WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("model: run/pipeline")
    assert "trackers: tensorboard wandb\n" in result.stdout
    for name in ("wandb", "tensorboard"):
        assert result.stdout.count(f"warning: {name} fails (") == 1, result.stdout
    assert "metrics.csv and plots/ do" in result.stdout
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert (tmp_path / "run" / "plots" / "reconstructions_epoch_3.png").exists()
    assert (tmp_path / "run" / "pipeline" / "model_index.json").exists()
    (recorded,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"val/temporal_iou" in recorded.read_bytes()
