"""Where a run starts from finished weights, and where a model comes from: a folder, or the Hub."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from action_ddim import ActionDDIMPipeline
from action_ddim.cli.main import main, train
from action_ddim.cli.train import parse_train_config
from augmentation.gestures import GestureConfig, write_gestures
from tests.cli.test_model import DAMAGES
from tests.conftest import one_line, rows, timeless

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"
# The model of the fixture says these; no flag does.
SHAPE = dict.fromkeys(("d_model", "num_layers", "nhead", "patch_size", "mlp_ratio"))
SHAPED = {"d_model": 16, "num_layers": 1, "nhead": 2, "patch_size": 4, "mlp_ratio": 4}
SETTLED = {**SHAPED, "seq_len": 20, "num_train_timesteps": 100}


@pytest.fixture
def hub(model, tmp_path) -> Path:
    """A cache of the Hub, laid out as its client does, that holds the self-contained form of a model as someone/strokes."""
    repository = tmp_path / "cache" / "models--someone--strokes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    ActionDDIMPipeline.from_pretrained(model).export(repository / "snapshots" / "c0ffee")
    return tmp_path / "cache"


def test_a_run_starts_from_the_weights_of_a_pipeline_and_takes_its_shape(run, model):
    """At a learning rate of next to nothing both the weights and their average stay what they began as."""
    folder = run(init_from=model, lr=1e-30, num_epochs=1, **SHAPE)
    theirs = load_file(model / WEIGHTS)
    for part in ("checkpoint-000003/model.safetensors", "checkpoint-000003/ema.safetensors", f"pipeline/{WEIGHTS}"):
        ours = load_file(folder / part)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert {name: settings[name] for name in SETTLED} == SETTLED
    assert settings["init_from"] == str(model)
    scheduler = json.loads((folder / "pipeline" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["num_train_timesteps"] == 100
    assert str(model) not in (folder / "pipeline" / "README.md").read_text()


def test_it_starts_from_the_averaged_weights_of_a_run_and_learns_on(run):
    first = run("first", lr=1e-2, num_epochs=20)
    second = run("second", init_from=first / "pipeline", num_epochs=1, lr=1e-6, **SHAPE)
    assert float(rows(second)[0]["val/loss"]) == pytest.approx(float(rows(first)[-1]["val/loss"]), rel=0.02)
    anew = run("anew", num_epochs=1, lr=1e-6)
    assert float(rows(anew)[0]["val/loss"]) > 1.5 * float(rows(second)[0]["val/loss"])


@pytest.mark.parametrize("name", SETTLED)
def test_flags_that_contradict_the_model_are_refused_and_those_that_agree_are_not(name, model, flags, tmp_path, capsys):
    words = {**SHAPE, "init_from": model}
    assert getattr(parse_train_config(flags(**{**words, name: SETTLED[name]})), name) == SETTLED[name]
    other = 2 * SETTLED[name]
    assert train(flags(**{**words, name: other})) == 2
    one_line(capsys, f"--{name} is {other}, but --init_from {model} was made with {SETTLED[name]}; leave --{name} out, or give")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "other"), [("prediction_type", "epsilon"), ("beta_schedule", "linear")])
def test_what_the_model_predicts_cannot_be_contradicted_either(name, other, model, flags, capsys):
    assert train(flags(init_from=model, **SHAPE, **{name: other})) == 2
    one_line(capsys, f"--{name} is {other}, but --init_from {model} was made with")


def test_a_config_of_python_is_held_against_the_model_too(run, model):
    from action_ddim import TrainConfig, train
    from action_ddim.errors import UserError

    folder = run(num_epochs=1, mlp_ratio=4)
    settings = json.loads((folder / "config.json").read_text())["settings"]
    with pytest.raises(UserError, match="--num_train_timesteps is 1000, but --init_from"):
        train(TrainConfig(**{**settings, "init_from": str(model), "seq_len": 20, "save_dir": str(folder.with_name("new"))}))


def test_data_of_another_length_is_one_line(flags, model, tmp_path, capsys):
    write_gestures(GestureConfig(2, sequence_length=30), tmp_path / "longer")
    for name in ("data_dir", "val_data_dir"):
        capsys.readouterr()
        assert train(flags(init_from=model, **SHAPE, **{name: tmp_path / "longer"})) == 2
        one_line(capsys, f"--{name} {tmp_path / 'longer'} holds sequences of 30 steps; --init_from {model} takes 20")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_to_start_from_is_one_line(damage, model, flags, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    DAMAGES[damage](tmp_path / "model")
    assert train(flags(init_from=tmp_path / "model", **SHAPE)) == 2
    one_line(capsys, f"--init_from {tmp_path / 'model'}")
    assert not (tmp_path / "run").exists()


def test_settings_of_a_model_that_no_flag_could_say_are_one_line(model, flags, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / "denoiser" / "config.json"
    for value, message in (
        ([16], "d_model is ['16']; give one value"),
        ("wide", "argument --d_model: invalid int value: 'wide'"),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), "d_model": value}))
        assert train(flags(init_from=tmp_path / "model", **SHAPE)) == 2
        one_line(capsys, f"--init_from {tmp_path / 'model'}: {message}")


def test_code_of_an_exported_model_is_not_run_either(model, flags, tmp_path, capsys):
    ActionDDIMPipeline.from_pretrained(model).export(tmp_path / "exported")
    capsys.readouterr()
    assert train(flags(init_from=tmp_path / "exported", **SHAPE)) == 2
    one_line(capsys, f"--init_from {tmp_path / 'exported'} is an exported model with code of its own")


def test_a_model_that_the_run_would_write_over_is_refused(run, flags, capsys):
    folder = run(num_epochs=1)
    capsys.readouterr()
    assert train(flags(init_from=folder / "pipeline", **SHAPE)) == 2
    one_line(capsys, f"--init_from {folder / 'pipeline'} lies in --save_dir {folder}")
    assert (folder / "pipeline" / "model_index.json").exists()


def test_a_run_that_goes_on_needs_the_model_no_more(run, flags, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    settings = {"init_from": tmp_path / "model", "checkpointing_epochs": 1, **SHAPE}
    whole = run("whole", **settings)
    run("gone", **settings)
    shutil.rmtree(tmp_path / "gone" / "checkpoint-000006")
    shutil.rmtree(tmp_path / "model")
    gone = run("gone", resume_from_checkpoint="latest", **settings)
    assert timeless(gone) == timeless(whole)
    capsys.readouterr()
    again = {"save_dir": gone, "resume_from_checkpoint": "latest", **settings}
    assert train(flags(**{**again, "init_from": model})) == 2
    one_line(
        capsys, f"--init_from is {model}, but", f"was trained with {tmp_path / 'model'}; give --init_from {tmp_path / 'model'}"
    )
    assert train(flags(save_dir=tmp_path / "new", resume_from_checkpoint="latest", **settings)) == 2
    one_line(capsys, f"--init_from {tmp_path / 'model'} is not a pipeline folder")


@pytest.fixture
def offline(hub, monkeypatch):
    """The Hub's client reads these from its environment as it is imported; the test below has them there."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))


@pytest.mark.slow
def test_hub_ids_are_taken_from_the_cache_by_every_verb(hub, python, model, flags, data, tmp_path):
    """In a process of its own, whose Hub client reads its environment; the code that lies in the cache is not run."""
    for path in (hub / "models--someone--strokes").rglob("*.py"):
        path.write_text("raise SystemExit('run')\n")
    script = f"""
from action_ddim.cli.main import main
for name, model in (("hub", "someone/strokes"), ("folder", {str(model)!r})):
    words = ["--model", model, "--num", "2", "--num_inference_steps", "3", "--out", name + ".npy"]
    assert main(["sample", *words]) == 0
assert main(["train", *{flags(init_from="someone/strokes", lr=1e-30, num_epochs=1, **SHAPE)!r}]) == 0
"""
    result = python("-c", script, HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "hub.npy"), np.load(tmp_path / "folder.npy"))
    ours, theirs = load_file(tmp_path / "run" / "pipeline" / WEIGHTS), load_file(model / WEIGHTS)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_hub_id_of_a_model_and_its_card(offline, hub, model, tmp_path):
    (hub / "models--someone--strokes" / "snapshots" / "c0ffee" / "README.md").write_text("# Strokes\n")
    assert main(["export", "--model", "someone/strokes", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == "# Strokes\n"
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(model / WEIGHTS)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_hub_that_does_not_give_the_model_is_one_line(offline, hub, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--model", "someone/else", "--num", "1", "--out", "a.npy"]) == 2
    one_line(capsys, "--model someone/else is no folder here, and the Hub does not give it (", "`hf auth login`")
    assert train(flags(init_from="someone/else", **SHAPE)) == 2
    one_line(capsys, "--init_from someone/else is no folder here")
    weights = hub / "models--someone--strokes" / "snapshots" / "c0ffee" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["sample", "--model", "someone/strokes", "--num", "1", "--out", "a.npy"]) == 2
    one_line(capsys, "--model someone/strokes cannot be loaded")
    # A folder that is mistyped is not looked for on the Hub.
    (tmp_path / "someone").mkdir()
    assert main(["sample", "--model", "someone/strokes", "--num", "1", "--out", "a.npy"]) == 2
    one_line(capsys, "--model someone/strokes is not a pipeline folder")


def test_another_scheduler_of_a_saved_pipeline_stays(model, tmp_path):
    from diffusers import DPMSolverMultistepScheduler

    from action_ddim.pretrained import load_pipeline

    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "model")
    assert type(load_pipeline(str(tmp_path / "model"), "cpu").scheduler) is DPMSolverMultistepScheduler
