"""Files that others made run no code and are not followed out of their folder; the wandb key is written nowhere."""

import json
import pickle
import shutil
import signal
import struct

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from action_ddim import ActionDDIMPipeline
from action_ddim.cli.main import train
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import RunStopped
from tests.conftest import TRAINER, forge, reset_accelerator
from tests.faults import after_steps


class Malicious:
    """What touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def canary(tmp_path):
    """A file that there is once code has run."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Malicious(path))).close()
    assert path.exists()
    path.unlink()
    return path


@pytest.fixture
def checkpoint(run, tmp_path):
    """The checkpoint of a run that was stopped after its first update."""
    with after_steps({1: lambda: signal.raise_signal(signal.SIGTERM)}), pytest.raises(RunStopped):
        run()
    reset_accelerator()
    return tmp_path / "run" / "checkpoint-000001"


def saved(value, path) -> bytes:
    torch.save(value, path)
    content = path.read_bytes()
    path.unlink()
    return content


def one_line(capsys, *expected: str) -> None:
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    for text in expected:
        assert text in error[0]


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_pickle_in_a_checkpoint_runs_no_code(name, as_zip, checkpoint, canary, flags, capsys, tmp_path):
    evil = Malicious(canary)
    forge(checkpoint, name, saved({"state": evil}, tmp_path / "evil") if as_zip else pickle.dumps(evil))
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be loaded", "give another checkpoint")
    assert not canary.exists()


def test_weights_that_are_a_pickle_run_no_code(checkpoint, canary, flags, capsys, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    forge(checkpoint, "pytorch_model.bin", saved({"w": Malicious(canary)}, tmp_path / "evil"))
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be loaded")
    assert not canary.exists()


def test_custom_checkpoint_is_not_loaded(checkpoint, canary, flags, capsys):
    """Accelerate would load it with weights_only=False, had we registered an object."""
    forge(checkpoint, "custom_checkpoint_0.pkl", pickle.dumps(Malicious(canary)))
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be loaded")
    assert not canary.exists()


HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "offsets outside": struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(60),
    "empty": b"",
}


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "epoch.safetensors"])
@pytest.mark.parametrize("header", HEADERS)
def test_broken_safetensors_header_is_one_line(name, header, checkpoint, flags, capsys):
    forge(checkpoint, name, HEADERS[header])
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be loaded")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"epoch": 1}',
        b"\xff\xfe",
        json.dumps({"epoch": -1}).encode(),
        b'{"epoch": "../../x", "batch": []}',
    ],
)
def test_progress_that_no_run_wrote_is_one_line(content, checkpoint, flags, capsys):
    forge(checkpoint, "progress.json", content)
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be read")


STATE = {"metric": "val/loss", "best": 0.5, "best_epoch": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": []},
        {"identity": {"seed": "0\n1"}},
        {"wandb_run": {"id": 1}},
        {"wandb_run": "../../outside"},
        {"batch": 10**9},
        {"num_epochs": True},
        {"a\nb": 1},
        {"early_stopping": []},
        {"early_stopping": {"metric": "val/loss"}},
        {"early_stopping": {**STATE, "best": "low"}},
        {"early_stopping": {**STATE, "best_epoch": None}},
    ],
)
def test_progress_that_is_not_of_the_right_kind_is_one_line(changes, checkpoint, flags, capsys):
    progress = json.loads((checkpoint / "progress.json").read_text())
    forge(checkpoint, "progress.json", json.dumps(progress | changes).encode())
    capsys.readouterr()
    assert train(flags(resume_from_checkpoint="latest", early_stopping_patience=2)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {checkpoint} cannot be ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [b"epoch\n" + b"1" * 200_000, b"epoch,a\n1\n", b"epoch\n1,2\n", b"epoch\n\xff\n"])
def test_metrics_that_no_run_wrote_are_one_line(content, checkpoint, flags, capsys):
    progress = json.loads((checkpoint / "progress.json").read_text())
    forge(checkpoint, "progress.json", json.dumps(progress | {"epoch": 1}).encode())
    forge(checkpoint, "metrics.csv", content)
    assert train(flags(resume_from_checkpoint="latest")) == 2
    one_line(capsys, f"{checkpoint} cannot be read")


def test_data_that_is_a_pickle_runs_no_code(data, canary, flags, capsys, tmp_path):
    for number, content in enumerate((pickle.dumps(Malicious(canary)), saved(Malicious(canary), tmp_path / "evil"))):
        folder = tmp_path / f"data_{number}"
        shutil.copytree(data / "train", folder)
        (folder / "part_00000_actions.npy").write_bytes(content)
        assert train(flags(data_dir=folder)) == 2
        one_line(capsys, "part_00000_actions.npy")
    objects = np.empty((20, 3), object)
    objects[0, 0] = Malicious(canary)
    np.save(folder / "part_00000_actions.npy", objects, allow_pickle=True)
    assert train(flags(data_dir=folder)) == 2
    one_line(capsys, "part_00000_actions.npy")
    assert not canary.exists()


@pytest.mark.parametrize(
    "stated",
    [
        {"sequence_length": "../../outside"},
        {"sequence_length": 20, "files": ["../outside_actions.npy"], "path": "/etc/passwd", "folder": ".."},
    ],
)
def test_dataset_json_leads_nowhere(stated, data, tmp_path, flags, capsys):
    folder = tmp_path / "inner" / "data"
    shutil.copytree(data / "train", folder)
    np.save(folder.parent / "outside_actions.npy", np.zeros((20, 3), np.float32))
    (folder / "dataset.json").write_text(json.dumps(stated))
    if isinstance(stated["sequence_length"], int):
        assert len(ActionDataset(folder)) == len(ActionDataset(data / "train"))
    else:
        assert train(flags(data_dir=folder)) == 2
        one_line(capsys, "sequence_length")


def test_config_json_leads_nowhere(tmp_path, flags, capsys):
    """The config.json of an earlier run is only ever looked at for a key."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").mkdir()
    forged = {"action_ddim": "../../precious", "settings": {"save_dir": str(tmp_path / "precious")}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(forged))
    assert train(flags(num_epochs=1)) == 0
    assert f"is now {tmp_path / 'run.1'}" in capsys.readouterr().out
    assert list((tmp_path / "precious").iterdir()) == []


@pytest.fixture
def pipeline_folder(run):
    return run(num_epochs=1) / "pipeline"


def test_pipeline_whose_weights_are_a_pickle_runs_no_code(pipeline_folder, canary, tmp_path):
    (pipeline_folder / "denoiser" / "diffusion_pytorch_model.safetensors").unlink()
    (pipeline_folder / "denoiser" / "diffusion_pytorch_model.bin").write_bytes(
        saved({"w": Malicious(canary)}, tmp_path / "evil")
    )
    with pytest.raises((OSError, pickle.UnpicklingError, ValueError)):
        ActionDDIMPipeline.from_pretrained(pipeline_folder)
    assert not canary.exists()


def test_pipeline_with_a_broken_header_is_refused(pipeline_folder):
    (pipeline_folder / "denoiser" / "diffusion_pytorch_model.safetensors").write_bytes(HEADERS["offsets outside"])
    with pytest.raises((OSError, SafetensorError)):
        ActionDDIMPipeline.from_pretrained(pipeline_folder)


def test_pipeline_that_names_code_of_its_own_runs_none(pipeline_folder, canary):
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    index["denoiser"] = ["../outside", "ActionTransformer1DModel"]
    (pipeline_folder / "model_index.json").write_text(json.dumps(index))
    code = f"open({str(canary)!r}, 'w')\nfrom action_ddim.denoiser import *\n"
    for path in (pipeline_folder.parent / "outside.py", pipeline_folder / "denoiser" / "outside.py"):
        path.write_text(code)
    with pytest.raises(Exception, match="outside"):
        ActionDDIMPipeline.from_pretrained(pipeline_folder)
    assert not canary.exists()


@pytest.mark.slow
def test_wandb_key_is_written_nowhere(python, flags, tmp_path):
    key = "0123456789abcdef0123456789abcdef01234567"
    nowhere = {"WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    settings = {"save_dir": "run", "report_to": "wandb", "num_epochs": 2, "checkpointing_epochs": 1}
    first = python(TRAINER, *flags(**settings), WANDB_API_KEY=key, WANDB_MODE="offline")
    progress = json.loads((tmp_path / "run" / "checkpoint-000003" / "progress.json").read_text())
    again = python(TRAINER, *flags(resume_from_checkpoint="checkpoint-000003", **settings), **nowhere)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert again.stdout.count("wandb cannot reach its server") == 1  # and records offline
    assert (tmp_path / "run" / "pipeline").is_dir()
    for process in (first, again):
        assert key not in process.stdout + process.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    # And the run goes on as the same run.
    offline = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert [name.rpartition("-")[2] for name in offline] == [progress["wandb_run"]] * 2
