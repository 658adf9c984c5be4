"""Faults in the middle of a run: what it says, and that nothing is lost."""

import csv
import io
import os
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from action_ddim import ActionDDIMPipeline
from action_ddim.cli.main import train
from action_ddim.errors import RunError
from action_ddim.training.checkpoint import PARTIAL, find_damage, list_checkpoints
from tests.conftest import ROOT, fill_disk, forge, reset_accelerator, rows, timeless
from tests.faults import after_steps, not_finite

SETTINGS = {"num_epochs": 3, "plot_epochs": 0, "dropout": 0.1}  # 3 updates an epoch


def weights(folder, update: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{update:06d}" / "model.safetensors")


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("accumulation", "name"), [(1, "muon"), (2, "muon"), (1, "adamw")])
def test_update_that_is_not_finite_is_skipped_and_counted(run, accumulation, name, capsys):
    """Of batches 4 and 5, or of the accumulated 3 and 4: update 4 is lost and 5 too, or update 2."""
    settings = {**SETTINGS, "batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation, "optimizer": name}
    bad = {4, 5} if accumulation == 1 else {8}
    with not_finite(lambda batch: batch in bad):
        folder = run(checkpointing_steps=1, **settings)
    assert same(weights(folder, 3), weights(folder, 4))
    assert same(weights(folder, 4), weights(folder, 5)) == (accumulation == 1)
    assert not same(weights(folder, 2), weights(folder, 3))
    assert not same(weights(folder, 5), weights(folder, 6))
    skipped = [int(row["train/skipped_updates"]) for row in rows(folder)]
    assert skipped == [0, len(bad), 0]
    assert f"{len(bad)} updates of epoch 2 were skipped" in capsys.readouterr().out
    assert all(np.isfinite(float(value)) for row in rows(folder) for value in row.values())
    optimizer = torch.load(folder / "checkpoint-000009" / "optimizer.bin", weights_only=True)
    if name == "muon":
        steps = {group["step"] for group in optimizer["param_groups"]}
    else:
        steps = {state["step"].item() for state in optimizer["state"].values()}
    assert steps == {9 - len(bad)}
    schedule = torch.load(folder / "checkpoint-000009" / "scheduler.bin", weights_only=True)
    assert schedule["last_epoch"] == 9


def test_too_many_in_a_row_end_the_run_with_advice_and_the_last_good_checkpoint(run, tmp_path):
    with not_finite(lambda batch: batch in (2, 4, 5, 6)), pytest.raises(RunError) as caught:
        run(checkpointing_steps=1, max_bad_steps=3, **SETTINGS)
    folder = tmp_path / "run"
    assert re.fullmatch(
        r"the loss or its gradient was not finite in 3 updates in a row, up to update 6, which were skipped;"
        rf" reduce --lr to 1e-5 .*; the last good checkpoint is {folder}/checkpoint-000005",
        str(caught.value),
    )
    assert find_damage(folder / "checkpoint-000005") is None
    assert same(weights(folder, 5), weights(folder, 3))
    # The row goes on where it was: one more is enough.
    reset_accelerator()
    with not_finite(lambda batch: batch == 1), pytest.raises(RunError, match="3 updates in a row, up to update 6"):
        run(checkpointing_steps=1, max_bad_steps=3, resume_from_checkpoint="latest", **SETTINGS)
    run(resume_from_checkpoint="latest", **SETTINGS)
    assert [int(row["train/skipped_updates"]) for row in rows(folder)] == [1, 2, 0]


def test_disk_that_is_full_at_the_start_is_one_line(mount, flags, tmp_path, capsys):
    disk = mount(tmp_path / "disk", "1m")
    fill_disk(disk)
    assert train(flags(save_dir=disk / "run")) == 2
    assert capsys.readouterr().err == (
        f"error: --save_dir {disk}/run cannot be written (No space left on device); make room, or name another folder\n"
    )
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_row_of_skipped_updates_goes_on_over_the_end_of_an_epoch(run):
    """Of the two that the first run skips at its end, no norm is left in the epoch that the other run begins."""
    settings = {**SETTINGS, "max_bad_steps": 3}
    with not_finite(lambda batch: batch in (2, 3)):
        run(**{**settings, "num_epochs": 1})
    with not_finite(lambda batch: batch == 1), pytest.raises(RunError, match="3 updates in a row, up to update 4"):
        run(resume_from_checkpoint="latest", **settings)


@pytest.mark.slow
def test_disk_that_is_full_for_a_while_costs_no_more_than_checkpoints(python, flags, fresh_accelerator, tmp_path):
    """A limit on the size of files stands in for the disk: EFBIG instead of ENOSPC, at the same place."""
    script = f"""
import resource, sys
from action_ddim.cli.main import train
from tests.conftest import reset_accelerator
from tests.faults import after_steps
limit = lambda size: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
with after_steps({{4: limit(2000), 10: limit(resource.RLIM_INFINITY)}}):
    assert train({flags(save_dir="run", checkpointing_epochs=1, **{**SETTINGS, "num_epochs": 4})!r}) == 0
reset_accelerator()
with after_steps({{4: limit(2000)}}):
    sys.exit(train({flags(save_dir="other", checkpointing_epochs=1, **SETTINGS)!r}))
"""
    result = python("-c", script)
    assert result.returncode == 1, result.stderr
    said = [line for line in re.split(r"[\n\r]", result.stderr) if "could not be written" in line]
    assert [line.split(" could not")[0] for line in said[:4]] == [
        *("run/pipeline", "a checkpoint after update 6", "run/pipeline", "a checkpoint after update 9")
    ]
    assert all("is the disk full? The run goes on" in line for line in said)
    run, other = tmp_path / "run", tmp_path / "other"
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-000003", "checkpoint-000012"]
    assert [path.name for path in list_checkpoints(other)] == ["checkpoint-000003"]
    for checkpoint in (*list_checkpoints(run), *list_checkpoints(other)):
        assert find_damage(checkpoint) is None
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3", "4"]
    assert not (other / PARTIAL).exists()
    last = result.stderr.splitlines()[-1]
    assert last == (
        "error: the end of the run could not be saved; the last good checkpoint is other/checkpoint-000003;"
        " make room, and --resume_from_checkpoint latest goes on from there"
    )
    ActionDDIMPipeline.from_pretrained(other / "pipeline")
    assert train(flags(save_dir=other, resume_from_checkpoint="latest", **SETTINGS)) == 0
    assert timeless(other) != []


@pytest.mark.slow
def test_history_is_the_runs_own(run, own_data, tmp_path):
    """metrics.csv cannot be written from the first update on, a figure of somebody else's lies among the run's, and what is
    JSON no longer is."""
    settings = {**SETTINGS, "plot_epochs": 10}
    whole, folder = run("whole", **settings), tmp_path / "run"

    def spoil() -> None:
        folder.joinpath("metrics.csv").mkdir()
        folder.joinpath("plots").mkdir()
        folder.joinpath("plots", "reconstructions_epoch_best.png").touch()
        folder.joinpath("config.json").write_text("{")
        own_data["data_dir"].joinpath("dataset.json").write_text("{")

    with after_steps({1: spoil}):
        run(**own_data, **settings)
    last = folder / "checkpoint-000009"
    assert timeless(last) == timeless(whole)
    saved = (last / "manifest.json").stat().st_mtime_ns
    for name in ("learning_curves", "samples", "error_by_timestep"):  # only shown, so they come last
        assert (folder / "plots" / f"{name}.png").stat().st_mtime_ns > saved
    pipelines = [ModelCard.load(path / "pipeline" / "README.md").data.eval_results for path in (folder, whole)]
    assert pipelines[0] == pipelines[1]


@pytest.mark.slow
def test_run_goes_on_from_the_metrics_of_an_older_version(run, tmp_path):
    """Whose rows lack columns of today's, or hold others, some of them empty."""
    folder = run(**{**SETTINGS, "num_epochs": 2})
    whole = timeless(folder)
    old = [{"epoch": row["epoch"], "update": row["update"], "train/loss": row["train/loss"], "fid": ""} for row in whole]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, old[0])
    writer.writeheader()
    writer.writerows(old)
    forge(folder / "checkpoint-000006", "metrics.csv", text.getvalue().encode())
    run(**{**SETTINGS, "plot_epochs": 10, "num_epochs": 4, "checkpointing_steps": 1}, resume_from_checkpoint="latest")
    table = rows(folder)
    assert [row["train/loss"] for row in table[:2]] == [row["train/loss"] for row in whole]
    assert [row["val/mse"] for row in table[:2]] == ["", ""]
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert (folder / "plots" / "learning_curves.png").exists()
    assert find_damage(folder / "checkpoint-000012") is None


@pytest.fixture
def own_data(tmp_path, data):
    """Files of the run's own, for spoiling: reads of 4 sequences, from the disk each time."""
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        for path in (data / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    return {"data_dir": tmp_path / "train", "val_data_dir": tmp_path / "val"}


@pytest.mark.parametrize("name", ["data_dir", "val_data_dir"])
def test_file_that_shrinks_ends_the_run_where_it_is(run, own_data, name, tmp_path):
    whole = run("whole", **SETTINGS)
    path = sorted(own_data[name].glob("*_actions.npy"))[0]
    content = path.read_bytes()
    with after_steps({4: lambda: os.truncate(path, 200)}), pytest.raises(RunError) as caught:
        run(**own_data, **SETTINGS, data_memory_gb=0)
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(f"; the last good checkpoint is {newest}")
    assert (
        newest.name in ("checkpoint-000004", "checkpoint-000005") if name == "data_dir" else newest.name == "checkpoint-000006"
    )
    path.write_bytes(content)
    folder = run(resume_from_checkpoint="latest", **own_data, **SETTINGS)
    assert timeless(folder) == timeless(whole)


def test_file_that_is_removed_is_read_on(run, own_data):
    whole = run("whole", **SETTINGS)
    with after_steps({4: sorted(own_data["data_dir"].glob("*_actions.npy"))[0].unlink}):
        folder = run(**own_data, **SETTINGS)
    assert timeless(folder) == timeless(whole)


@pytest.mark.slow
def test_update_that_one_process_cannot_make_is_skipped_by_both(launch, flags, tmp_path):
    script = tmp_path / "spoiled.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from action_ddim.cli.main import train\n"
        "from tests.faults import not_finite\n"
        "with not_finite(lambda batch: os.environ['RANK'] == '1' and batch == 2):\n"
        "    sys.exit(train(sys.argv[1:]))\n"
    )
    folder = tmp_path / "run"
    process = launch(*flags(save_dir=folder, batch_size=2, checkpointing_steps=1, **SETTINGS), script=script)
    assert process.wait(300) == 0, process.output()
    assert same(weights(folder, 1), weights(folder, 2))
    assert not same(weights(folder, 2), weights(folder, 4))
    assert [int(row["train/skipped_updates"]) for row in rows(folder)] == [1, 0, 0]
