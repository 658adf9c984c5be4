"""Trackers that fail in the middle of a run, in a process of their own: wandb starts a service."""

import csv

import pytest

pytestmark = pytest.mark.slow

# The stages of a run as `train` has them, with something that happens to the trackers after the first epoch.
RUN = """
import shutil, sys
from pathlib import Path
from action_ddim.run_folder import RunFolder
from action_ddim.config import parse_train_config
from action_ddim.monitoring import log_epoch, plot_epoch, validate, validation_indices
from action_ddim.loading import open_data
from action_ddim.run import build, make_accelerator
from action_ddim.training import finish, save, start, train_epoch

config = parse_train_config(sys.argv[1:])
data = open_data(config)
run = build(config, make_accelerator(config), RunFolder(config.save_dir), *data)
start(run, len(data[0]))
for epoch in (1, 2, 3):
    metrics = train_epoch(run, epoch) | validate(run, validation_indices(config, len(run.val_data), everything=True))
    log_epoch(run, epoch, metrics)
    plot_epoch(run, epoch, last=epoch == 3)
    if epoch == 1:
        print("trackers:", *(tracker.name for tracker in run.accelerator.trackers))
        run.accelerator.get_tracker("wandb", unwrap=True).finish()
        run.accelerator.get_tracker("tensorboard", unwrap=True).close()
        shutil.rmtree("run/tensorboard")
        Path("run/tensorboard").touch()  # the writer that opens again finds a file where its folder was
save(run, 3)
finish(run)
"""


def test_trackers_that_fail_warn_once_and_the_run_goes_on(python, flags, tmp_path):
    arguments = flags(save_dir="run", report_to=None, num_epochs=3)
    result = python("-c", RUN, *arguments, "--report_to", "tensorboard", "wandb", WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("model: run/pipeline")
    assert "trackers: wandb tensorboard" in result.stdout
    for name in ("wandb", "tensorboard"):
        assert result.stdout.count(f"warning: {name} fails (") == 1, result.stdout
    assert "metrics.csv and plots/ do" in result.stdout
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert (tmp_path / "run" / "plots" / "reconstructions_epoch_3.png").exists()
    assert (tmp_path / "run" / "pipeline" / "model_index.json").exists()
    (recorded,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"val/temporal_iou" in recorded.read_bytes()
