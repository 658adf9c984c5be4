"""Whole runs of a second each, in this process; real processes are in test_processes.py."""

import json
import math
import re
import shutil
from pathlib import Path

import diffusers.utils.hub_utils
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

import action_ddim.export
from action_ddim import ActionDDIMPipeline
from action_ddim.cli.train import parse_train_config
from action_ddim.data import dataset as dataset_module
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import RunError
from action_ddim.evaluation.evaluate import draw_samples
from action_ddim.evaluation.inference import ReconstructionSettings
from action_ddim.evaluation.metrics import TARGETS, reconstruction_metrics
from action_ddim.evaluation.realism import describe, distances
from action_ddim.training import loader
from action_ddim.training.interruption import Interruption
from action_ddim.training.loader import open_data, warn_of_shared
from action_ddim.training.loop import batches, is_due, start, train_epoch
from action_ddim.training.run import build, make_accelerator
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.validation import NUM_DRAWS, evaluate_batch, validation_indices
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import SEQ_LEN, rows, timeless

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.slow
def test_run_folder_holds_what_is_promised(run):
    folder = run(num_epochs=3, checkpointing_epochs=2, plot_epochs=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "checkpoint-000006",
        "checkpoint-000009",
        "config.json",
        "metrics.csv",
        "pipeline",
        "plots",
    ]
    assert sorted(path.name for path in (folder / "plots").iterdir()) == [
        "error_by_timestep.png",
        "learning_curves.png",
        "noise_comparison_epoch_2.png",
        "noise_comparison_epoch_3.png",
        "reconstructions_epoch_2.png",
        "reconstructions_epoch_3.png",
        "samples.png",
    ]
    checkpoint = {path.name for path in (folder / "checkpoint-000009").iterdir()}
    assert checkpoint == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.bin",
        "scheduler.bin",
        "random_states_0.pkl",
        "epoch.safetensors",
        "metrics.csv",
        "progress.json",
        "manifest.json",
    }
    progress = json.loads((folder / "checkpoint-000009" / "progress.json").read_text())
    assert (progress["epoch"], progress["batch"], progress["update"]) == (3, 0, 9)


def test_config_records_every_setting(run, flags):
    folder = run(lr=2e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == json.loads(json.dumps(vars(parse_train_config(flags(lr=2e-4, save_dir=folder)))))
    assert config["run"]["num_processes"] == 1
    assert config["run"]["num_updates"] == 6
    weights = load_file(folder / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert config["run"]["num_parameters"] == sum(weight.numel() for weight in weights.values())
    assert set(config["versions"]) == {"torch", "diffusers", "accelerate"}


def test_metrics_have_a_row_an_epoch_and_the_documented_columns(run):
    table = rows(run())
    assert [(row["epoch"], row["update"]) for row in table] == [("1", "3"), ("2", "6")]
    assert {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "train/sequences_per_second",
        "train/skipped_updates",
        "train/seconds",
        "val/seconds",
        "val/num_sequences",
        "val/loss",
        "val/mse",
        "val/mae",
        "val/coord_mse",
        "val/press_mse",
        "val/active_coord_mse",
        "val/press_accuracy",
        "val/mean_snr_db",
        "val/temporal_iou",
        "val/spatial_accuracy",
        "val/spatial_accuracy_fine",
        "val/gesture_type_accuracy",
        *(f"val/{kind}_ratio_{channel}" for kind in ("variance", "smoothness") for channel in ("x", "y", "press")),
    } == set(table[0]) - {"epoch", "update"}
    assert all(math.isfinite(float(value)) for row in table for value in row.values())


@pytest.mark.slow
def test_draws_are_looked_at_where_plots_are_drawn(run, capsys, data):
    """The last epoch's figures are those of what the finished model draws, from the noise of `action-ddim sample`."""
    folder = run(plot_epochs=2, num_epochs=3, num_train_timesteps=30, lr=1e-2)
    table = rows(folder)
    looked = [{name: value for name, value in row.items() if name.startswith("val/realism/") and value} for row in table]
    assert [bool(figures) for figures in looked] == [False, True, True]
    pipeline = ActionDDIMPipeline.from_pretrained(folder / "pipeline")
    drawn = next(draw_samples(pipeline, NUM_DRAWS, num_inference_steps=20, seed=0, batch_size=NUM_DRAWS))
    real = np.load(next((data / "val").glob("*_actions.npy"))).reshape(-1, SEQ_LEN, 3)
    expected = {f"val/realism/{name}": value for name, value in {**describe(drawn), **distances(drawn, real)}.items()}
    assert float(looked[-1].pop("val/realism/seconds")) > 0
    assert {name: float(value) for name, value in looked[-1].items()} == pytest.approx(expected, rel=1e-5)
    output = capsys.readouterr().out
    assert f"epoch 3/3 draws: one press {expected['val/realism/one_press']:.2f} (data 1.00)" in output
    assert "epoch 1/3 draws" not in output


def test_same_seed_same_run_another_seed_another(run):
    first = run("first")
    assert timeless(first) == timeless(run("second"))
    assert timeless(first) != timeless(run("third", seed=1))


def test_learning_rate_follows_warm_up_and_cosine_to_zero(run):
    table = rows(run(num_epochs=10, lr=1e-2, d_model=16, warmup_steps=100))
    total, warmup = 30, 3  # the warm-up is cut to a tenth
    expected = [1e-2 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup))) / 2 for update in range(3, 31, 3)]
    np.testing.assert_allclose([float(row["train/lr"]) for row in table], expected, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 3, 4, 7])
def test_max_train_steps_ends_the_run_after_so_many_updates(run, capsys, steps):
    """In the first epoch of 3, at its end, and within a later one; over a --num_epochs that says less and more."""
    folder = run(max_train_steps=steps, num_epochs=2, lr=1e-3, warmup_steps=0, eval_sequences=2, checkpointing_steps=1)
    table = rows(folder)
    assert [int(row["update"]) for row in table] == [*range(3, steps, 3), steps]
    assert table[-1]["val/num_sequences"] == "5"  # the last epoch takes all
    expected = [6.4e-3 * (1 + math.cos(math.pi * int(row["update"]) / steps)) / 2 for row in table]
    np.testing.assert_allclose([float(row["train/lr"]) for row in table], expected, atol=1e-12)
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))][-1] == f"checkpoint-{steps:06d}"
    assert f"{steps} of {steps} updates" in (folder / "pipeline" / "README.md").read_text()
    output = capsys.readouterr().out
    assert f"epoch {len(table)}/{len(table)}  loss" in output
    assert "of 6 targets met" in output
    assert json.loads((folder / "config.json").read_text())["run"]["num_updates"] == steps


def test_as_many_steps_as_the_epochs_have_are_the_same_run(run):
    whole, counted = run("whole", num_epochs=2), run("counted", num_epochs=9, max_train_steps=6)
    assert timeless(counted) == timeless(whole)
    files = ("checkpoint-000006/model.safetensors", "checkpoint-000006/ema.safetensors", "checkpoint-000006/optimizer.bin")
    assert all((counted / name).read_bytes() == (whole / name).read_bytes() for name in files)


def test_a_short_run_of_nothing_but_skipped_updates_ends_with_advice(run):
    with pytest.raises(RunError, match="2 updates in a row"):
        run(velocity_weight=1e38, max_train_steps=2)  # its gradient overflows


def test_accumulation_is_the_flags_whatever_the_launcher_says(run, monkeypatch):
    plain = run("plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    assert timeless(run("told")) == timeless(plain)


def test_accumulation_updates_once_every_so_many_batches(run):
    table = rows(run(batch_size=2, gradient_accumulation_steps=4, num_epochs=3))  # 6 batches: an update of 4, one of 2
    assert [row["update"] for row in table] == ["2", "4", "6"]
    assert float(table[-1]["train/lr"]) == 0


@pytest.mark.slow
def test_learns(run):
    table = rows(run(num_epochs=60, lr=1e-2, eval_sequences=5))
    first, last = float(table[0]["val/loss"]), float(table[-1]["val/loss"])
    assert last < 0.7 * first


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_other_predictions_and_weights_learn(run, prediction_type):
    table = rows(run(num_epochs=40, lr=1e-2, prediction_type=prediction_type, snr_gamma=5, beta_schedule="linear"))
    assert float(table[-1]["val/loss"]) < float(table[0]["val/loss"])


def test_data_order_is_a_function_of_seed_and_epoch(flags, data):
    def order(seed: int, epoch: int) -> list[int]:
        config = parse_train_config(flags(seed=seed))
        run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
        torch.rand(epoch)  # what else was drawn does not matter
        run.loader.set_epoch(epoch)
        sequences = ActionDataset(data / "train").read(range(12))
        return [int((sequences == actions).all(dim=(1, 2)).nonzero()) for batch in run.loader for actions in batch]

    assert sorted(order(0, 1)) == list(range(12))
    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(7, 1)


class Copies(TorchFunctionMode):
    """Notes whether `Tensor.to` was told not to wait for the device."""

    def __init__(self):
        super().__init__()
        self.non_blocking: list[bool] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            self.non_blocking.append((kwargs or {}).get("non_blocking", False))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("behind", [0, 1])
def test_batches_go_to_the_device_without_waiting_for_it(flags, behind):
    """From the middle of an epoch on, too."""
    config = parse_train_config(flags())
    run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
    run.batch = behind
    with Copies() as copies:
        assert len(list(batches(run, epoch=1))) == 3 - behind
    assert copies.non_blocking == [True] * (3 - behind)


def test_data_smaller_than_a_batch_trains(run):
    assert [row["update"] for row in rows(run(batch_size=64))] == ["1", "2"]


def test_bfloat16_trains(run):
    table = rows(run(mixed_precision="bf16"))
    assert math.isfinite(float(table[-1]["val/mse"]))


@pytest.mark.slow
def test_compiled_training_is_the_same_and_leaves_plain_names(run):
    """Against torch's own kernels, with a patch that does not divide the length, whose padding torch once miscompiled."""
    plain, compiled = run("plain", patch_size=7), run("compiled", patch_size=7, compile=True)
    for row, other in zip(timeless(plain), timeless(compiled), strict=True):
        for name, value in row.items():
            assert float(other[name]) == pytest.approx(float(value), rel=1e-3), name
    for part in ("checkpoint-000006/model.safetensors", "pipeline/denoiser/diffusion_pytorch_model.safetensors"):
        assert load_file(compiled / part).keys() == load_file(plain / part).keys()


@pytest.mark.parametrize(("budget", "place"), [(0, "on disk"), (1e-6, "on disk"), (4, "in memory")])
def test_data_lies_where_it_fits_and_trains_the_same(run, capsys, budget, place):
    loaded = timeless(run("loaded"))
    capsys.readouterr()
    assert timeless(run("placed", data_memory_gb=budget)) == loaded
    assert f"12 training ({place}) and 5 validation sequences" in capsys.readouterr().out


@pytest.fixture
def mixed(data, tmp_path):
    """A copy of the validation data with two training sequences in it, which are now 7."""
    shutil.copytree(data / "val", tmp_path / "mixed")
    np.save(tmp_path / "mixed" / "two_actions.npy", ActionDataset(data / "train").read([3, 8]).numpy().astype(np.float64))
    return tmp_path / "mixed"


@pytest.mark.parametrize("budget", [0, 4])
def test_validation_sequences_that_are_trained_on_are_said(run, mixed, budget, capsys):
    alone = timeless(run("alone", data_memory_gb=budget))
    assert "training sequences too" not in capsys.readouterr().err
    assert len(timeless(run("mixed", val_data_dir=mixed, data_memory_gb=budget))) == len(alone)
    assert f"2 of 7 validation sequences that were looked at (--val_data_dir {mixed}) are training" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "most"), [("COMPARED_SEQUENCES", 50), ("COMPARED_BYTES", 50 * 240)])
def test_of_large_data_a_part_is_compared_and_a_copy_is_always_seen(name, most, tmp_path, monkeypatch, capsys):
    for folder, count, seed in (("train", 3000, 0), ("other", 2000, 1)):
        write_gestures(GestureConfig(count, sequence_length=20, seed=seed), tmp_path / folder)
    train, other = ActionDataset(tmp_path / "train"), ActionDataset(tmp_path / "other")
    shutil.copytree(tmp_path / "train", tmp_path / "copy")
    monkeypatch.setattr(loader, name, most)
    capsys.readouterr()
    warn_of_shared(train, ActionDataset(tmp_path / "copy"))
    shared, compared = map(int, re.match(r"(\d+) of (\d+) validation", capsys.readouterr().err).groups())
    assert 40 < shared == compared <= 51
    warn_of_shared(train, other)
    assert capsys.readouterr().err == ""


def test_file_that_is_removed_during_a_run_ends_it_in_one_line(data, flags, tmp_path, monkeypatch):
    shutil.copytree(data / "train", tmp_path / "data")
    monkeypatch.setattr(dataset_module, "MAX_OPEN_FILES", 1)  # or the run keeps what it has open
    config = parse_train_config(flags(data_dir=tmp_path / "data", data_memory_gb=0))
    run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
    run.folder.path.mkdir()
    start(run, 12, None)
    (tmp_path / "data" / "part_00000_actions.npy").unlink()
    with (
        Interruption(None) as interruption,
        pytest.raises(RunError, match=r"part_00000_actions\.npy can no longer be read"),
    ):
        train_epoch(run, 1, interruption)


def test_pipeline_holds_the_averaged_weights_and_the_checkpoint_both(run):
    folder = run()
    trained = load_file(folder / "checkpoint-000006" / "model.safetensors")
    averaged = load_file(folder / "checkpoint-000006" / "ema.safetensors")
    exported = load_file(folder / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert averaged.keys() == exported.keys() == trained.keys()
    assert all(torch.equal(averaged[name], exported[name]) for name in averaged)
    assert not all(torch.equal(averaged[name], trained[name]) for name in averaged)
    optimizer = torch.load(folder / "checkpoint-000006" / "optimizer.bin", weights_only=True)
    assert len(optimizer["state"]) == len(trained)


def test_last_metrics_are_those_of_the_saved_pipeline(run, data):
    """Loaded again and measured sequence by sequence, in another order, on the whole validation set."""
    folder = run(eval_sequences=2, eval_batch_size=2)
    pipeline = ActionDDIMPipeline.from_pretrained(folder / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    dataset, how = ActionDataset(data / "val"), ReconstructionSettings()
    objective = {
        "weighting_scheme": "logit_normal",
        "logit_mean": 0.35,
        "snr_gamma": None,
        "loss_balance": 0.5,
        "velocity_weight": 5.0,
        "rest_weight": 0.1,
    }
    parts = [evaluate_batch(pipeline, dataset.read([i]).numpy(), np.array([i]), how, **objective) for i in (3, 1, 4, 0, 2)]
    last = rows(folder)[-1]
    for name in ("loss", "mse", "coord_mse", "press_accuracy", "mean_snr_db"):
        expected = np.mean([part[name] for part in parts])
        assert float(last[f"val/{name}"]) == pytest.approx(expected, rel=1e-5)


def test_weighting_scheme_chooses_the_timesteps_of_training_and_of_validation(run):
    """The loss of a model that answers 0, at a weight that depends on the timestep alone."""
    settings = {"lr": 1e-30, "snr_gamma": 5}
    middle, alike = (rows(run(scheme, weighting_scheme=scheme, **settings))[0] for scheme in ("logit_normal", "none"))
    for key in ("train/loss", "val/loss"):
        assert float(middle[key]) != pytest.approx(float(alike[key]), rel=0.01)


def test_untrained_reconstruction_is_what_the_metrics_say(run, data):
    """A model that never learns answers 0 in model space, so every reconstruction is 0.5 throughout.

    But for the little of its input that it answers with at low timesteps, which a press cut at 0.5 would show.
    """
    last = rows(run(lr=1e-30))[-1]
    actions = ActionDataset(data / "val").read(range(5)).numpy()
    expected = reconstruction_metrics(actions, np.full_like(actions, 0.5))
    for name in ("mse", "coord_mse", "mean_snr_db"):
        assert float(last[f"val/{name}"]) == pytest.approx(expected[name], rel=1e-3)


def test_epoch_lines_and_the_last_table_say_which_targets_are_met(run, capsys):
    last = rows(run(num_epochs=2))[-1]
    output = capsys.readouterr().out
    met = [
        target for target in TARGETS if target.is_met({name.removeprefix("val/"): float(value) for name, value in last.items()})
    ]
    missed = [target.name for target in TARGETS if target not in met]
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert lines[-1].endswith(f"targets met {len(met)}/6, not {', '.join(missed)}")
    for target in TARGETS:
        (line,) = (line for line in output.splitlines() if line.startswith(f"{target.name} "))
        assert f"{float(last[f'val/{target.metrics[0]}']):.4g}" in line
        assert target.wanted in line
        assert line.endswith("  met") if target in met else line.endswith("not met")
    assert f"{len(met)} of 6 targets met" in output


@pytest.mark.slow
def test_pipeline_holds_its_model_card(run):
    folder = run(checkpointing_epochs=1, plot_epochs=10)
    last = rows(folder)[-1]
    card = ModelCard.load(folder / "pipeline" / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["mse"] == pytest.approx(float(last["val/mse"]), abs=1e-6)
    assert "| num_sequences | 12 |" in card.text  # of the training data's dataset.json
    assert "6 of 6 updates" in card.text
    figure = (folder / "pipeline" / "reconstructions.png").read_bytes()
    assert figure == (folder / "plots" / "reconstructions_epoch_2.png").read_bytes()


def test_without_plots_none_is_drawn_and_none_promised(run, capsys):
    folder = run(plot_epochs=0)
    assert not (folder / "plots").exists()
    assert "plots:" not in capsys.readouterr().out
    assert "reconstructions.png" not in (folder / "pipeline" / "README.md").read_text()


def test_earlier_run_is_moved_aside(run, tmp_path, capsys):
    first = timeless(run())
    run(seed=1)
    assert timeless(tmp_path / "run.1") == first
    assert f"is now {tmp_path / 'run.1'}" in capsys.readouterr().out
    run(seed=2)
    assert (tmp_path / "run.2" / "pipeline").is_dir()


@pytest.mark.parametrize("resume", [None, "latest"])
def test_model_that_lies_there_is_moved_aside(run, model, resume, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "run" / "pipeline")
    folder = run(num_epochs=1, resume_from_checkpoint=resume)
    assert f"is now {tmp_path / 'run.1'}" in capsys.readouterr().out
    weights = "pipeline/denoiser/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run.1" / weights).read_bytes() == (model / weights.removeprefix("pipeline/")).read_bytes()
    assert (folder / weights).exists()


def test_loss_that_is_not_finite_ends_the_run_with_advice(run, tmp_path):
    with pytest.raises(RunError, match=r"--lr to 1e-5.*no checkpoint yet"):
        run(lr=1e30)
    assert not (tmp_path / "run" / "pipeline").exists()


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_training_that_diverges_says_so_in_every_epoch_and_at_the_end(run, capsys, prediction_type):
    """Against the loss of a model that was not trained, which answers 0."""
    settings = {"prediction_type": prediction_type, "ema_decay": 0.0, "snr_gamma": 5}
    untrained = float(rows(run("untrained", lr=1e-30, **settings))[-1]["val/loss"])
    run("trained", lr=1e-2, **settings)
    assert "worse than none" not in capsys.readouterr().out
    losses = [float(row["val/loss"]) for row in rows(run("diverged", lr=3, **settings))]
    said = [line for line in capsys.readouterr().out.splitlines() if "worse than none" in line]
    assert said == [
        f"warning: the model is worse than none: val/loss is {loss:.3g}, where answering 0 has {untrained:.3g};"
        " the training has diverged, reduce --lr, which is 3"
        for loss in (*losses, losses[-1])
    ]


@pytest.mark.slow
def test_tensorboard_holds_the_metrics_and_plots(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(report_to="tensorboard", plot_epochs=10)
    events = EventAccumulator(str(folder / "tensorboard" / "action-diffusion-test"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/mse")] == [3, 6]
    assert events.Scalars("val/mse")[-1].value == pytest.approx(float(rows(folder)[-1]["val/mse"]), rel=1e-5)
    assert set(events.Tags()["images"]) == {
        "val/reconstructions_epoch_2",
        "val/noise_comparison_epoch_2",
        "val/learning_curves",
        "val/samples",
        "val/error_by_timestep",
    }
    run(report_to="tensorboard")  # moves the first one aside, and what tensorboard wrote with it
    assert (folder.with_name("run.1") / "tensorboard").is_dir()


def test_length_comes_from_the_data(run, tmp_path):
    write_gestures(GestureConfig(num_sequences=4, sequence_length=33), tmp_path / "odd")
    folder = run(data_dir=tmp_path / "odd", val_data_dir=tmp_path / "odd")
    assert json.loads((folder / "config.json").read_text())["run"]["seq_len"] == 33


@pytest.mark.parametrize(
    ("epoch", "every", "expected"), [(20, 20, True), (19, 20, False), (40, 20, True), (7, 0, False), (7, 1, True)]
)
def test_what_is_due(epoch, every, expected):
    assert is_due(epoch, every) == expected


def test_validation_subset_is_fixed_distinct_and_spread(flags):
    config = parse_train_config(flags(eval_sequences=100))
    indices = validation_indices(config, 1000, everything=False)
    assert len(set(indices.tolist())) == 100
    assert indices.max() > 900
    assert np.array_equal(indices, validation_indices(config, 1000, everything=False))
    assert np.array_equal(validation_indices(config, 1000, everything=True), np.arange(1000))
    assert np.array_equal(validation_indices(config, 50, everything=False), np.arange(50))


UPLOAD = {"num_epochs": 1, "push_to_hub": True, "hub_model_id": "someone/strokes"}


def test_model_is_uploaded_at_the_end(run, monkeypatch, capsys):
    """The Hub's client stands still; what it is handed are the weights of `pipeline/`, with their code."""
    uploaded = {}

    def upload_folder(*, repo_id, folder_path, **settings):
        weights = load_file(Path(folder_path) / "denoiser" / "diffusion_pytorch_model.safetensors")
        uploaded[repo_id] = weights, {path.name for path in Path(folder_path).iterdir()}
        return "https://huggingface.co/commit"

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(action_ddim.export, "create_repo", lambda repo_id, **settings: huggingface_hub.RepoUrl(repo_id))
    monkeypatch.setattr(diffusers.utils.hub_utils, "upload_folder", upload_folder)
    folder = run(**UPLOAD)
    assert "uploaded: https://huggingface.co/commit" in capsys.readouterr().out
    weights, names = uploaded["someone/strokes"]
    assert {"model_index.json", "pipeline.py"} <= names
    expected = load_file(folder / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_upload_that_fails_is_one_line_and_the_run_stays(run, monkeypatch, capsys):
    """To an address where nothing listens."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    folder = run(**UPLOAD)
    output = capsys.readouterr()
    line = output.err.rstrip().rpartition("\r")[2]
    assert "\n" not in line
    assert line.startswith("warning: the model could not be uploaded (")
    assert f"from_pretrained({str(folder / 'pipeline')!r}).push_to_hub('someone/strokes')` does it later" in line
    assert f"checkpoint: {folder / 'checkpoint-000003'}" in output.out
    assert not any(b"hf_secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
