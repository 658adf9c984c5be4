"""Each setting of `TrainConfig` changes what it says, and nothing else, as seen from outside of a run."""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import diffusers.utils.hub_utils
import numpy as np
import pytest
import torch
from huggingface_hub import RepoUrl
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

import action_ddim.export
from action_ddim import ActionTransformer1DModel, TrainConfig
from action_ddim.cli.main import main, train
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import reset_accelerator, rows
from tests.faults import not_finite

# What follows from what: the weights, and all that is measured of them.
MEASURED = {"validation losses", "reconstructions"}
LEARNED = {"gradients", "trained weights", "averaged weights", "training losses", *MEASURED}
NOISED = {"inputs", *LEARNED}
LONGER = {"batches", "learning rates", "checkpoints", *LEARNED}


class Case(NamedTuple):
    """Another value of a setting, and what it changes; beside settings that are given, and bad batches, in both runs."""

    other: Any
    changes: set[str]
    given: Mapping[str, Any] = MappingProxyType({})
    before: dict[str, Any] | None = None  # an earlier run in the same folder
    bad: tuple[int, ...] = ()


PLAIN = {"data_dir": "plain", "val_data_dir": "plain"}  # no dataset.json says how long
FROM_HUB = {"data_dir": None, "val_data_dir": None}
TO_HUB = {"push_to_hub": True, "hub_model_id": "someone/strokes"}
SEVERAL = {"num_epochs": 4}  # at first the blocks add next to nothing
NEVER_BETTER = {"num_epochs": 4, "early_stopping_patience": 1, "early_stopping_min_delta": 1e9}
CASES = {
    "data_dir": Case("other/train", NOISED),
    "val_data_dir": Case("other/val", MEASURED),
    "dataset_name": Case("hub/second", NOISED, given={**FROM_HUB, "dataset_name": "hub/first"}),
    "dataset_config_name": Case("second", NOISED, given={**FROM_HUB, "dataset_name": "hub", "dataset_config_name": "first"}),
    "seq_len": Case(
        10,
        {"network", "validated", "evaluation batch", "inputs", *LONGER},
        given={**PLAIN, "seq_len": 20},
    ),
    "d_model": Case(32, {"network", "initial weights", "learning rates", *LEARNED}),
    "num_layers": Case(2, {"network", "initial weights", *LEARNED}),
    "nhead": Case(4, {"network", "initial weights", *LEARNED}, given=SEVERAL),
    "mlp_ratio": Case(2, {"network", "initial weights", *LEARNED}),
    "patch_size": Case(6, {"network", "initial weights", *LEARNED}),
    "dropout": Case(0.5, {"network", *LEARNED}, given=SEVERAL),
    "init_from": Case("model", {"initial weights", *LEARNED}, given={"num_train_timesteps": 100, "mlp_ratio": 4}),
    # The network knows at how many timesteps, if it predicts the clean actions, its input is as good as they are.
    "prediction_type": Case("epsilon", {"network", "scheduler", *LEARNED}),
    "beta_schedule": Case("linear", {"network", "scheduler", *NOISED}),
    "num_train_timesteps": Case(100, {"network", "scheduler", "timesteps", *NOISED}),
    "logit_mean": Case(-1, {"timesteps", *NOISED}),
    "weighting_scheme": Case("none", {"timesteps", *NOISED}),
    "snr_gamma": Case(5, LEARNED),
    "loss_balance": Case(0, LEARNED),
    "velocity_weight": Case(1, LEARNED),
    "rest_weight": Case(0, {"network", "initial weights", *LEARNED}),
    "batch_size": Case(3, {"timesteps", "inputs", *LONGER}),
    "num_epochs": Case(3, {"validated", *LONGER}),
    "max_train_steps": Case(5, LONGER),
    "lr": Case(1e-3, {"learning rates", *LEARNED}, given={"lr": 1e-5}),
    "warmup_steps": Case(0, {"learning rates", *LEARNED}, given={"batch_size": 1}),
    "optimizer": Case("adamw", {"optimizer", *LEARNED}),
    "weight_decay": Case(10, {"optimizer", *LEARNED}),
    "max_grad_norm": Case(1e-3, LEARNED),
    "augment": Case("flip_x", NOISED),
    "gradient_accumulation_steps": Case(2, {"learning rates", "checkpoints", *LEARNED}),
    "ema_decay": Case(0.05, {"averaged weights", *MEASURED}),
    "mixed_precision": Case("bf16", {"precision", *LEARNED}),
    "max_bad_steps": Case(2, {"end"}, bad=(2, 3)),
    "max_train_time": Case(1e-9, {"end"}),
    "seed": Case(1, {"initial weights", "timesteps", *NOISED}),
    "recon_strength": Case(0.9, {"reconstructions"}),
    "recon_steps": Case(4, {"reconstructions"}),
    "eval_sequences": Case(2, {"validated", "evaluation batch", *MEASURED}),
    "eval_batch_size": Case(2, {"evaluation batch"}),
    "early_stopping_patience": Case(2, {"validated", *LONGER}, given=NEVER_BETTER),
    "early_stopping_metric": Case("val/press_accuracy", {"best"}, given={"early_stopping_patience": 9}),
    "early_stopping_min_delta": Case(1e9, {"best"}, given={"early_stopping_patience": 9}),
    "device": Case("cuda", {"device"} if torch.cuda.is_available() else {"end"}),
    "save_dir": Case("elsewhere", {"places"}, given={"save_dir": "run"}),
    "compile": Case(True, {"compiled"}),
    "data_memory_gb": Case(0, {"data"}),
    "checkpointing_epochs": Case(1, {"checkpoints"}),
    "checkpointing_steps": Case(2, {"checkpoints"}),
    "checkpoints_total_limit": Case(1, {"checkpoints"}, given={"checkpointing_epochs": 1}),
    "resume_from_checkpoint": Case(
        "latest", {"initial weights", "timesteps", "inputs", "places", *LONGER}, before={"num_epochs": 1}
    ),
    "plot_epochs": Case(1, {"plots", "draws", "evaluation batch"}, given={"num_epochs": 1}),
    "report_to": Case("tensorboard", {"trackers"}),
    "wandb_project": Case("strokes", {"trackers"}, given={"report_to": "tensorboard"}),
    "push_to_hub": Case(None, {"end"}, given=TO_HUB),
    "hub_model_id": Case("someone/else", {"uploads"}, given=TO_HUB),
}


@pytest.fixture(scope="module")
def folders(data, model, tmp_path_factory) -> Path:
    """Folders that the cases name."""
    folder = tmp_path_factory.mktemp("folders")
    for name, number, seed in (("train", 12, 7), ("val", 5, 8)):
        write_gestures(GestureConfig(num_sequences=number, sequence_length=20, seed=seed), folder / "other" / name)
    shutil.copytree(data / "train", folder / "plain", ignore=shutil.ignore_patterns("*.json"))
    shutil.copytree(model, folder / "model")
    configs = []
    for name, source in (("first", data), ("second", folder / "other")):
        assert main(["push-data", str(source), "someone/strokes", "--out", str(folder / "hub" / name)]) == 0
        files = {split: f"{name}/data/{split}-*" for split in ("train", "validation")}
        configs.append({"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]})
    (folder / "hub" / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return folder


class Watch:
    """What goes through a run's network and optimizer, by hooks that torch has for everyone."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"batches": [], "learning rates": [], "gradients": []}
        self.seen |= {"precision": set(), "device": set(), "optimizer": {}, "compiled": 0, "uploads": []}

    def __enter__(self) -> "Watch":
        self._hooks = [register_module_forward_hook(self._forward), register_optimizer_step_pre_hook(self._step)]
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()

    def _forward(self, module, inputs, output) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            self.seen["precision"].add(output.dtype)
            self.seen["device"].add(output.device.type)
        if isinstance(module, ActionTransformer1DModel):
            sample = inputs[0]
            if not module.training:
                self.seen.setdefault("evaluation batch", len(sample))
                return
            self.seen["batches"].append(len(sample))
            self.seen.setdefault("inputs", sample.detach().cpu().numpy().copy())
            self.seen.setdefault("timesteps", inputs[1].tolist())
            weights = [parameter.detach().cpu().flatten() for parameter in module.parameters()]
            self.seen.setdefault("initial weights", torch.cat(weights).numpy())

    def _step(self, optimizer, *_) -> None:
        groups = optimizer.param_groups
        self.seen["learning rates"].append(groups[0]["lr"])
        names = ("betas", "eps", "weight_decay", "amsgrad", "fused", "use_muon", "momentum", "nesterov", "ns_steps")
        self.seen["optimizer"] = [{name: group[name] for name in names if name in group} for group in groups]
        gradients = [parameter.grad.flatten() for group in groups for parameter in group["params"]]
        self.seen["gradients"].append(torch.cat(gradients).norm().item())


def weights_of(path: Path) -> np.ndarray | None:
    return np.concatenate([value.flatten().float().numpy() for value in load_file(path).values()]) if path.exists() else None


def values(table: list[dict[str, str]], is_wanted) -> np.ndarray:
    return np.array([[float(value) for name, value in row.items() if is_wanted(name)] for row in table])


def what_is_left(folder: Path, run: Path) -> dict[str, Any]:
    """What a finished run left on disk."""
    table, checkpoint = rows(run), max(run.glob("checkpoint-*"))
    best = run / "pipeline-best" / "denoiser" / "diffusion_pytorch_model.safetensors"
    stopping = json.loads((checkpoint / "progress.json").read_text())["early_stopping"]
    counts = ("val/num_sequences", "val/seconds", "val/loss")
    return {
        "places": {path.parent.name for path in folder.glob("*/config.json")},
        "network": json.loads((run / "pipeline" / "denoiser" / "config.json").read_text()),
        "scheduler": json.loads((run / "pipeline" / "scheduler" / "scheduler_config.json").read_text()),
        "trained weights": weights_of(checkpoint / "model.safetensors"),
        "averaged weights": weights_of(checkpoint / "ema.safetensors"),
        "training losses": values(table, lambda name: name == "train/loss"),
        "validation losses": values(table, lambda name: name == "val/loss"),
        "reconstructions": values(table, lambda name: re.fullmatch(r"val/\w+", name) and name not in counts),
        "draws": [row["val/realism/one_press"] for row in table if "val/realism/one_press" in row],
        "validated": [row["val/num_sequences"] for row in table],
        "best": (stopping and (stopping["metric"], stopping["best_epoch"]), weights_of(best)),
        "checkpoints": sorted(path.name for path in run.glob("checkpoint-*")),
        "plots": sorted(path.name for path in run.glob("plots/*")),
        "trackers": sorted(path.name for name in ("wandb", "tensorboard") for path in run.glob(f"{name}*/*") if path.is_dir()),
    }


@pytest.fixture
def observe(folders, flags, monkeypatch, capsys, fresh_accelerator):
    """Train in a folder of its own, and return what can be seen of it; of a run that does not reach its end, how it ended."""

    def run(folder: Path, case: Case, **settings) -> dict[str, Any]:
        # Unless a case says so, gradients are not clipped, and can be told apart.
        settings = {"max_grad_norm": 100, **settings, "save_dir": folder / settings.get("save_dir", "run")}
        monkeypatch.chdir(folders)
        if case.before is not None:
            reset_accelerator()
            train(flags(**{**settings, **case.before, "resume_from_checkpoint": None}))
        with Watch() as watch:
            uploads = watch.seen["uploads"]
            monkeypatch.setattr(action_ddim.export, "create_repo", lambda repo_id, **_: RepoUrl(repo_id))
            monkeypatch.setattr(diffusers.utils.hub_utils, "upload_folder", lambda repo_id, **_: uploads.append(repo_id))

            def compile(module, **_):
                watch.seen["compiled"] += 1
                return module

            monkeypatch.setattr(torch, "compile", compile)
            reset_accelerator()
            capsys.readouterr()
            with not_finite(lambda batch: batch in case.bad):
                code = train(flags(**settings))
        output = capsys.readouterr()
        stopped = "the run stops" in output.out
        if code or stopped:
            return {"end": output.out.splitlines()[-1] if stopped else output.err.rpartition("error: ")[2]}
        place = output.out.partition("training (")[2].partition(")")[0]
        return {"end": "finished", **watch.seen, "data": place, **what_is_left(folder, settings["save_dir"])}

    monkeypatch.setenv("XDG_CACHE_HOME", str(folders / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("CXX", shutil.which("sh"))  # a compiler is asked for, and not used here
    return run


def differ(one: Any, other: Any) -> bool:
    """Compare arrays, and what holds them, up to rounding: batches of another size sum in another order."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        return any(differ(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float | np.ndarray) and isinstance(other, float | np.ndarray):
        return np.shape(one) != np.shape(other) or not np.allclose(one, other, rtol=1e-5, atol=1e-8, equal_nan=True)
    return type(one) is not type(other) or one != other


@pytest.fixture(scope="module")
def known() -> dict:
    """Observations of runs that several cases are held against."""
    return {}


def test_every_setting_has_a_case():
    assert set(CASES) == {field.name for field in dataclasses.fields(TrainConfig)}


SLOW = {"plot_epochs"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES])
def test_setting_changes_what_it_says_and_nothing_else(name, observe, known, tmp_path):
    case = CASES[name]
    key = repr((case.given, case.before, case.bad))
    if key not in known:
        known[key] = observe(tmp_path / "base", case, **case.given)
    base, other = known[key], observe(tmp_path / "changed", case, **{**case.given, name: case.other})
    assert base["end"] == "finished"
    changed = {what for what in base if what in other and differ(base[what], other[what])}
    assert changed == case.changes


def test_what_no_setting_says_is_as_it_is_meant(observe, tmp_path):
    """Means that are fixed: beside the flags, they decide what a run learns."""
    seen = observe(tmp_path / "sample", Case(None, set()))
    adamw = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-4}
    muon = {"use_muon": True, "momentum": 0.95, "nesterov": True, "ns_steps": 5, "weight_decay": 1e-4}
    assert seen["optimizer"] == [{"use_muon": False, **adamw}, muon]
    alone = observe(tmp_path / "adamw", Case(None, set()), optimizer="adamw")["optimizer"]
    assert alone == [{**adamw, "amsgrad": False, "fused": True}]
    expected = {"clip_sample": False, "clip_sample_range": 1.0, "timestep_spacing": "trailing", "thresholding": False}
    assert {name: seen["scheduler"][name] for name in expected} == expected
    for prediction_type in ("epsilon", "v_prediction"):
        scheduler = observe(tmp_path / prediction_type, Case(None, set()), prediction_type=prediction_type)["scheduler"]
        assert (scheduler["clip_sample"], scheduler["clip_sample_range"]) == (True, 1.0)
