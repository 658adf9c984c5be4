"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import json
import math
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from action_ddim.cli.main import train as train_verb
from action_ddim.cli.train import parse_train_config
from action_ddim.errors import RunStopped, UserError
from action_ddim.training.checkpoint import find_damage, list_checkpoints, update_of
from action_ddim.training.config import TrainConfig
from action_ddim.training.resume import check_identity, data_digest
from augmentation.gestures import GestureConfig, write_gestures
from augmentation.transforms import TRANSFORMS
from tests.conftest import one_line, reset_accelerator, rows, timeless, wait_for
from tests.faults import after_evaluations, after_steps

# 12 sequences in batches of 2: 6 batches, an update of 4 and one of 2, or six of 1; dropout draws from the global generator.
SETTINGS = {"batch_size": 2, "dropout": 0.1, "lr": 1e-3, "num_epochs": 2, "plot_epochs": 0, "ema_decay": 0.9}


def send(number: int):
    return lambda: os.kill(os.getpid(), number)


def state(checkpoint) -> tuple[dict, list]:
    """Return the sha256 of all in a checkpoint but times: weights, moments, schedule, random states, progress; the metrics."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items() if name != "metrics.csv"}, timeless(checkpoint)


@pytest.fixture
def run_until(run, tmp_path):
    """Train with `SETTINGS`, changed, until SIGTERM comes after so many updates; return the checkpoint it leaves."""

    def train_until(update: int, save_dir: str = "run", **changes):
        newest = max((int(path.name[-6:]) for path in (tmp_path / save_dir).glob("checkpoint-*")), default=0)
        with after_steps({update - newest: send(signal.SIGTERM)}), pytest.raises(RunStopped) as stopped:
            run(save_dir, **{**SETTINGS, **changes})
        assert stopped.value.exit_code == 143
        assert f"after update {update} (SIGTERM)" in str(stopped.value)
        return tmp_path / save_dir / f"checkpoint-{update:06d}"

    return train_until


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({}, [(1, 2), (1, 11), (5, 7), (6, 8), (7, 9)]),
        ({"gradient_accumulation_steps": 4}, [(1, 3), (2, 3)]),
        ({"config": "augmented.json"}, [(1, 8), (6, 8)]),
    ],
    ids=["", "accumulated", "augmented"],
)
def test_stopped_and_resumed_it_is_the_run_that_never_stopped(run, run_until, changes, updates, monkeypatch, tmp_path):
    """Stopped in the middle of an epoch, before its last update and at its end, of 6 updates or 2; compared in a middle."""
    monkeypatch.chdir(tmp_path)
    Path("augmented.json").write_text(json.dumps({"augment": TRANSFORMS}))
    settings = {**SETTINGS, **changes}
    whole = run("whole", checkpointing_steps=1, **settings)
    for stop, end in updates:
        name = f"from_{stop}_to_{end}"
        run_until(stop, name, **settings)
        resumed = run_until(end, name, resume_from_checkpoint="latest", **settings)
        assert state(resumed) == state(whole / resumed.name)


def test_stopped_again_and_again_to_the_end(run, run_until):
    whole = run("whole", **SETTINGS)
    for update in (2, 6, 7, 11, 12):
        run_until(update, resume_from_checkpoint="latest")
    folder = run(resume_from_checkpoint="latest", **SETTINGS)
    assert state(folder / "checkpoint-000012") == state(whole / "checkpoint-000012")
    assert timeless(folder) == timeless(whole)
    assert len(rows(folder)) == 2


FORWARDS = 6  # of a batch of validation: five DDIM steps of a reconstruction, and the loss
VALIDATION = {"eval_batch_size": 1, "eval_sequences": 2}  # of five
STOPPING = {"early_stopping_patience": 9, "early_stopping_metric": "val/mse"}


@pytest.mark.parametrize(
    ("batch", "epoch", "changes"),
    [(1, 0, {}), (2, 0, {}), (4, 1, {}), (1, 0, STOPPING), (4, 1, STOPPING), (7, 1, STOPPING)],
    ids=["first", "last of it", "of all", "first, of some", "second, of some", "second, of all"],
)
def test_stopped_in_a_validation_it_ends_at_once_and_only_measures_again(run, batch, epoch, changes, tmp_path):
    """With early stopping the last epoch validates some, then all. What was interrupted is the validation of one batch."""
    settings = {**SETTINGS, **VALIDATION, **changes}
    whole, evaluated = run("whole", **settings), []
    watched = {count: partial(evaluated.append, count) for count in range(1, 100)}
    watched[FORWARDS * (batch - 1) + 2] = send(signal.SIGTERM)
    with after_evaluations(watched), pytest.raises(RunStopped) as stopped:
        run(**settings)
    update = 6 * (epoch + 1)
    last_of_it = (batch, epoch) == (2, 0)
    assert f"after update {update} (SIGTERM)" in str(stopped.value)
    assert evaluated[-1] == FORWARDS * batch  # the batch at which it came is finished, and no other
    progress = json.loads((tmp_path / "run" / f"checkpoint-{update:06d}" / "progress.json").read_text())
    assert (progress["epoch"], progress["batch"], progress["update"]) == ((1, 0, 6) if last_of_it else (epoch, 6, update))
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1

    steps = []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    folder = run(resume_from_checkpoint="latest", **settings)
    hook.remove()
    assert len(steps) == 12 - update
    assert state(folder / "checkpoint-000012") == state(whole / "checkpoint-000012")
    assert timeless(folder) == timeless(whole)
    for best in folder.glob("pipeline-best/denoiser/*"):
        assert best.read_bytes() == (whole / best.relative_to(folder)).read_bytes()


def test_before_all_is_validated_there_is_a_checkpoint(run, tmp_path):
    def look() -> None:
        assert find_damage(checkpoint) is None
        progress.append(json.loads((checkpoint / "progress.json").read_text()))

    checkpoint, progress = tmp_path / "run" / "checkpoint-000012", []
    with after_evaluations({2 * FORWARDS + 1: look}):
        run(**SETTINGS, **VALIDATION)
    assert [(entry["epoch"], entry["batch"], entry["update"]) for entry in progress] == [(1, 6, 12)]


@pytest.mark.slow
def test_long_validation_is_stopped_and_killed_and_nothing_is_trained_again(launch, flags, tmp_path):
    """301 sequences one by one, of which the second process has one batch less; only one process is told."""
    write_gestures(GestureConfig(301, sequence_length=20, seed=3), tmp_path / "long")
    settings = {**SETTINGS, "val_data_dir": tmp_path / "long", "num_epochs": 1, "eval_batch_size": 1}
    whole = launch(*flags(save_dir=tmp_path / "whole", **settings))
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoint-000003"

    process = launch(*flags(save_dir=folder, **settings))
    wait_for(checkpoint.exists, process)
    os.kill(int((folder / ".lock").read_text()), signal.SIGTERM)
    assert process.wait(60) != 0
    assert f"the run stops after update 3 (SIGTERM); the last good checkpoint is {checkpoint}" in process.output()
    assert find_damage(checkpoint) is None
    assert not (folder / "metrics.csv").exists()

    process = launch(*flags(save_dir=folder, resume_from_checkpoint="latest", **settings))
    before = checkpoint.stat().st_ino
    wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_ino != before, process)  # it is saved before all is validated
    os.kill(int((folder / ".lock").read_text()), signal.SIGKILL)
    assert process.wait(120) != 0
    assert not (folder / "metrics.csv").exists()

    process = launch(*flags(save_dir=folder, resume_from_checkpoint="latest", **settings))
    assert process.wait(300) == 0, process.output()
    assert whole.wait(300) == 0, whole.output()
    assert state(checkpoint) == state(tmp_path / "whole" / checkpoint.name)
    assert timeless(folder) == timeless(tmp_path / "whole")


def test_damaged_checkpoints_are_named_and_passed_over(run, run_until, capsys):
    folder = run_until(5, checkpointing_steps=2).parent
    names = [path.name for path in list_checkpoints(folder)]
    assert names == ["checkpoint-000002", "checkpoint-000004", "checkpoint-000005"]
    expected = state(folder / names[1])
    (folder / names[2] / "manifest.json").unlink()
    weights = folder / names[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with after_steps({2: send(signal.SIGTERM)}), pytest.raises(RunStopped):
        run(resume_from_checkpoint="latest", **SETTINGS)
    output = capsys.readouterr().out
    assert f"{folder}/checkpoint-000005 is damaged and passed over: manifest.json is missing" in output
    assert f"{folder}/checkpoint-000004 is damaged and passed over: model.safetensors differs from its sha256" in output
    assert f"the run goes on from {folder}/checkpoint-000002" in output
    assert (folder / "aside-checkpoint-000004").is_dir()  # kept, but not taken for one of this run's
    assert state(folder / names[1]) == expected


def test_without_a_checkpoint_it_starts_anew_and_says_so(run, tmp_path, capsys):
    folder = run(resume_from_checkpoint="latest", num_epochs=1)
    assert f"{folder} holds no checkpoint to go on from; the run starts anew" in capsys.readouterr().out
    # Again in the same place, where a run had got to no checkpoint; beside one whose checkpoints are all damaged.
    shutil.rmtree(folder / "checkpoint-000003")
    run(resume_from_checkpoint="latest", num_epochs=1)
    assert not (tmp_path / "run.1").exists()
    assert f"is set aside as {folder}/aside-pipeline\n" in capsys.readouterr().out
    (folder / "checkpoint-000003" / "manifest.json").unlink()
    run(resume_from_checkpoint="latest", num_epochs=1)
    assert len(rows(folder)) == 1
    assert (tmp_path / "run.1" / "checkpoint-000003").is_dir()


def test_limit_counts_and_removes_this_runs_checkpoints_only(run, run_until, tmp_path):
    """Others of higher and lower numbers lie beside them: another tool's, another run's, a link, one that somebody uses."""
    other = run("other", **{**SETTINGS, "num_epochs": 1, "seed": 1}) / "checkpoint-000006"
    folder = tmp_path / "run"

    def put_others_there() -> None:
        for name in ("checkpoint-000000", "checkpoint-500", "checkpoint-999999"):
            (folder / name).mkdir()
            (folder / name / "weights.bin").write_text(name)
        shutil.copytree(other, folder / "checkpoint-000006")
        (tmp_path / "linked").mkdir()
        (folder / "checkpoint-000001").rename(tmp_path / "linked" / "checkpoint-000001")
        (folder / "checkpoint-000001").symlink_to(tmp_path / "linked" / "checkpoint-000001")
        (folder / "checkpoint-000002" / "notes.txt").write_text("the best so far")

    with after_steps({3: put_others_there}):
        run_until(7, checkpointing_steps=1, checkpoints_total_limit=3)
    others = {f"checkpoint-{name}" for name in ("000000", "000001", "000002", "500", "999999")}
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-00000{n}" for n in (5, 6, 7)} | others
    assert state(folder / "aside-checkpoint-000006") == state(other)
    # Going on from there it counts those that it goes on from.
    with after_steps({2: send(signal.SIGTERM)}), pytest.raises(RunStopped):
        run(**SETTINGS, checkpointing_steps=1, checkpoints_total_limit=3, resume_from_checkpoint="checkpoint-000007")
    assert {path.name for path in folder.glob("checkpoint-00000[3-9]")} == {f"checkpoint-00000{n}" for n in (7, 8, 9)}


def test_earlier_checkpoint_by_name_or_path(run, run_until, tmp_path, capsys):
    last = run_until(4, checkpointing_steps=1)
    expected = state(last)
    for asked in ("checkpoint-000003", tmp_path / "run" / "checkpoint-000003"):
        with after_steps({1: send(signal.SIGTERM)}), pytest.raises(RunStopped):
            run(resume_from_checkpoint=asked, **SETTINGS)
        assert "a later checkpoint is set aside as" in capsys.readouterr().out
        assert state(last) == expected
    assert {path.name for path in last.parent.glob("aside-*")} == {"aside-checkpoint-000004", "aside-checkpoint-000004.1"}


def test_finished_run_says_so_and_is_left_alone(run, flags, capsys):
    folder = run(**SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    reset_accelerator()
    assert train_verb(flags(resume_from_checkpoint="latest", **SETTINGS)) == 0
    assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def test_run_that_was_killed_at_its_last_figures_draws_them(run, capsys):
    settings = {**SETTINGS, "plot_epochs": 1, "checkpointing_epochs": 1}
    folder = run(**settings)
    last = max(list_checkpoints(folder), key=update_of)
    before = state(last), (folder / "metrics.csv").read_bytes()
    drawn = {name: (folder / "plots" / f"{name}.png").read_bytes() for name in ("samples", "error_by_timestep")}
    for name in drawn:
        (folder / "plots" / f"{name}.png").unlink()
    run(resume_from_checkpoint="latest", **settings)
    assert {name: (folder / "plots" / f"{name}.png").read_bytes() for name in drawn} == drawn
    assert (state(last), (folder / "metrics.csv").read_bytes()) == before
    for name in drawn:
        (folder / "plots" / f"{name}.png").unlink()
    capsys.readouterr()
    # Of an earlier checkpoint, the model and the metrics in the folder are not: it is left as it is.
    first = min(list_checkpoints(folder), key=update_of)
    run(**{**settings, "num_epochs": 1, "resume_from_checkpoint": first.name})
    assert "is finished" in capsys.readouterr().out
    assert (state(last), (folder / "metrics.csv").read_bytes()) == before


def test_finished_run_is_uploaded_where_that_is_asked_for(run, monkeypatch, capsys):
    run(**SETTINGS)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")  # where nothing listens
    run(resume_from_checkpoint="latest", push_to_hub=True, hub_model_id="someone/strokes", **SETTINGS)
    assert "push_to_hub('someone/strokes')` does it later" in capsys.readouterr().err


def test_card_of_a_run_that_went_back_has_its_own_figure(run):
    often = {**SETTINGS, "plot_epochs": 1, "checkpointing_epochs": 1}
    folder = run(**{**often, "num_epochs": 3})
    first = list_checkpoints(folder)[0].name
    run(**{**often, "num_epochs": 2, "resume_from_checkpoint": first})
    plots = {path.read_bytes(): path.name for path in (folder / "plots").glob("reconstructions_epoch_*.png")}
    assert plots[(folder / "pipeline" / "reconstructions.png").read_bytes()] == "reconstructions_epoch_2.png"


def test_configuration_of_a_resumed_run_begins_a_run_anew(run, run_until):
    run_until(1)
    folder = run(resume_from_checkpoint="latest", **SETTINGS)
    again = parse_train_config(["--config", str(folder / "config.json")])
    assert (again.resume_from_checkpoint, again.d_model) == (None, 16)


def test_names_of_every_script_are_in_checkpoints(run, run_until, tmp_path):
    folder = run("other", **SETTINGS)
    named = folder.rename(tmp_path / "mod\u00a0el \U0001f469\u200d\U0001f4bb")
    run_until(1, init_from=named / "pipeline")
    run(init_from=named / "pipeline", resume_from_checkpoint="latest", **SETTINGS)


@pytest.mark.parametrize("stops", [(1, 2), (3, 6, 7), (6, 8)])
def test_run_of_so_many_steps_goes_on_to_the_same_end(run, run_until, stops):
    """Of 8 updates, two into the second epoch; stopped last right before its end, and right after its last update."""
    settings = {**SETTINGS, "max_train_steps": 8}
    whole = run("whole", **settings)
    for update in stops:
        run_until(update, max_train_steps=8, resume_from_checkpoint="latest")
    folder = run(resume_from_checkpoint="latest", **settings)
    assert state(folder / "checkpoint-000008") == state(whole / "checkpoint-000008")
    assert timeless(folder) == timeless(whole)
    assert [row["update"] for row in rows(folder)] == ["6", "8"]


def test_run_that_its_steps_ended_is_finished_and_goes_on_within_its_epoch_where_they_are_more(run, flags, capsys):
    folder = run(**SETTINGS, max_train_steps=8)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    for steps in (8, 7, 6):
        reset_accelerator()
        assert train_verb(flags(resume_from_checkpoint="latest", max_train_steps=steps, **SETTINGS)) == 0
        assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    # To the end of the epoch in which it was ended: each sequence of it is seen once, and its row is there once.
    folder = run(resume_from_checkpoint="latest", **SETTINGS)
    message = "--max_train_steps is None and was 8: from here the learning rate follows the cosine of 12 updates"
    assert message in capsys.readouterr().out
    assert [row["update"] for row in rows(folder)] == ["6", "12"]
    progress = json.loads((folder / "checkpoint-000012" / "progress.json").read_text())
    assert (progress["epoch"], progress["batch"], progress["update"]) == (2, 0, 12)


def test_more_epochs_follow_the_cosine_of_the_new_length(run, run_until, capsys):
    run_until(7)
    used = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    folder = run(resume_from_checkpoint="latest", **{**SETTINGS, "num_epochs": 5})
    hook.remove()
    assert capsys.readouterr().out.count("--num_epochs is 5 and was 2: from here") == 1
    table = rows(folder)
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4", "5"]
    total, warmup, peak = 30, 3, 6.4e-3
    expected = [peak * (1 + math.cos(math.pi * (update - warmup) / (total - warmup))) / 2 for update in range(7, 31)]
    np.testing.assert_allclose(used, expected[:-1], atol=1e-12)
    np.testing.assert_allclose([float(row["train/lr"]) for row in table[1:]], expected[5::6], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 32}, "--d_model is 32, but {} was trained with 16; give --d_model 16, or leave"),
        ({"batch_size": 3}, "--batch_size is 3, but {} was trained with 2"),
        ({"seed": 1}, "--seed is 1, but {} was trained with 0"),
        ({"lr": 1e-4}, "--lr is 0.0001, but {} was trained with 0.001"),
        ({"mixed_precision": "bf16"}, "--mixed_precision is bf16, but {} was trained with no"),
        ({"snr_gamma": 5}, "--snr_gamma is 5.0, but {} was trained with None; leave --snr_gamma out"),
        ({"augment": "shift"}, "--augment is shift, but {} was trained with none; give --augment none, or leave"),
        ({"data_dir": "other"}, "other is not the data that {} was trained with"),
        ({"val_data_dir": "other"}, "other is not the data that {} was trained with"),
        ({"resume_from_checkpoint": "checkpoint-000007"}, "is no checkpoint; --save_dir"),
        ({"resume_from_checkpoint": "copy/checkpoint-000001"}, "lies in another folder than --save_dir"),
        ({"resume_from_checkpoint": "checkpoint-000002"}, "is damaged: progress.json is missing"),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_one_line(changes, message, run_until, flags, tmp_path, capsys, monkeypatch):
    folder = run_until(1).parent
    monkeypatch.chdir(tmp_path)
    write_gestures(GestureConfig(num_sequences=12, sequence_length=20, seed=5), tmp_path / "other")
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(folder / "checkpoint-000001", folder / "checkpoint-000002")
    (folder / "checkpoint-000002" / "progress.json").unlink()
    capsys.readouterr()
    reset_accelerator()
    assert train_verb(flags(**{**SETTINGS, "resume_from_checkpoint": "latest", **changes})) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert message.format(folder / "checkpoint-000001") in output.err
    assert (folder / "checkpoint-000001").is_dir()


def test_digest_knows_every_place_of_small_data_and_the_size_of_large(tmp_path):
    folder, values = tmp_path, np.zeros((40_000, 3), np.float32)
    path = folder / "a_actions.npy"
    np.save(path, values)
    digest = data_digest(folder)
    for row in (0, 19_999, 39_999):
        values[row, 1] = 1
        np.save(path, values)
        assert data_digest(folder) != digest
        values[row, 1] = 0
    np.save(path, np.zeros((400_000, 3), np.float32))
    large = data_digest(folder)
    np.save(path, np.zeros((400_001, 3), np.float32))
    assert data_digest(folder) != large


def test_data_may_move(run_until, data, tmp_path):
    expected = state(run_until(3, "whole"))
    run_until(1)
    shutil.copytree(data / "train", tmp_path / "moved")
    assert state(run_until(3, resume_from_checkpoint="latest", data_dir=tmp_path / "moved")) == expected


@pytest.mark.slow
def test_killed_on_two_processes_and_resumed_it_is_the_run_that_never_stopped(
    launch, flags, fresh_accelerator, capsys, tmp_path
):
    settings = {**SETTINGS, "gradient_accumulation_steps": 2, "num_epochs": 30}  # an epoch is an update of 2 and one of 1
    whole = launch(*flags(save_dir=tmp_path / "whole", **settings))
    assert whole.wait(300) == 0, whole.output()
    killed = tmp_path / "killed"
    process = launch(*flags(save_dir=killed, checkpointing_steps=7, **settings))
    wait_for(lambda: (killed / "checkpoint-000007").exists(), process)
    os.kill(int((killed / ".lock").read_text()), signal.SIGKILL)  # rank 0; the others cannot go on without it
    assert process.wait(120) != 0
    assert not (killed / "checkpoint-000060").exists()
    assert launch(*flags(save_dir=killed, resume_from_checkpoint="latest", **settings)).wait(300) == 0
    assert state(killed / "checkpoint-000060") == state(tmp_path / "whole" / "checkpoint-000060")
    assert timeless(killed) == timeless(tmp_path / "whole")
    assert json.loads((killed / "config.json").read_text())["run"]["num_processes"] == 2
    assert train_verb(flags(save_dir=killed, resume_from_checkpoint="latest", **settings)) == 2
    one_line(capsys, "--num_processes is 1, but")


def test_a_checkpoint_from_before_there_was_a_rest_head_goes_on_without():
    config = TrainConfig(data_dir="train", val_data_dir="val")
    with pytest.raises(UserError, match=r"--rest_weight is 0.1, but .* was trained with 0.0; give --rest_weight 0.0, or leave"):
        check_identity({"rest_weight": 0.1}, {}, config, Path("checkpoint-000006"))
    check_identity({"rest_weight": 0.0}, {}, config, Path("checkpoint-000006"))
