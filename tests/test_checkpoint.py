"""What is on disk is whole: folders in place of others, manifests, the lock."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from action_ddim import durable
from action_ddim.checkpoint import (
    PARTIAL,
    WriteError,
    checkpoints_to_delete,
    find_damage,
    list_checkpoints,
    write_checkpoint,
)
from action_ddim.errors import UserError
from action_ddim.run_folder import RunFolder


@pytest.fixture
def checkpoint(tmp_path, fresh_accelerator):
    """A checkpoint without a model."""
    final = tmp_path / "checkpoint-000004"
    write_checkpoint(Accelerator(cpu=True), final, {"ema.safetensors": {"w": torch.ones(3)}}, {"progress.json": "{}\n"})
    return final


def test_written_checkpoint_verifies(checkpoint):
    assert find_damage(checkpoint) is None
    assert {path.name for path in checkpoint.iterdir()} == {
        *("ema.safetensors", "progress.json", "random_states_0.pkl", "manifest.json")
    }
    assert not (checkpoint.parent / PARTIAL).exists()


def change(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def flip_a_bit(folder):
    content = bytearray((folder / "ema.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "ema.safetensors").write_bytes(content)


def link_outside(folder):
    shutil.move(folder / "progress.json", folder.parent / "outside.json")
    (folder / "progress.json").symlink_to("../outside.json")


def list_in_manifest(name):
    def forge(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest[name] = {"sha256": "0" * 64, "bytes": 1}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return forge


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (change("manifest.json", b"{"), "manifest.json cannot be read"),
        (change("manifest.json", b"[]"), "manifest.json cannot be read"),
        (change("manifest.json", b'{"ema.safetensors": 7}'), "manifest.json cannot be read"),
        (change("manifest.json", b"\xff"), "manifest.json cannot be read"),
        (lambda folder: (folder / "ema.safetensors").unlink(), "ema.safetensors is missing"),
        (change("extra.bin", b""), "extra.bin is not in the manifest"),
        (change("progress.json", b"{"), "progress.json has 1 of 3 bytes"),
        (flip_a_bit, "ema.safetensors differs from its sha256"),
        (link_outside, "progress.json is not a file"),
        (lambda folder: (folder / "more").symlink_to("..", target_is_directory=True), "more is not in the manifest"),
        (list_in_manifest("../outside.json"), "../outside.json is missing"),
        (list_in_manifest("/etc/passwd"), "/etc/passwd is missing"),
    ],
)
def test_damage_is_found_and_named(damage, message, checkpoint):
    damage(checkpoint)
    assert find_damage(checkpoint) == message


def test_fault_while_writing_leaves_what_was_there(checkpoint):
    accelerator = Accelerator(cpu=True)
    with pytest.raises(WriteError):
        write_checkpoint(accelerator, checkpoint, {}, {"no-such-folder/progress.json": ""})
    assert find_damage(checkpoint) is None
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_checkpoints_are_listed_by_number_and_the_oldest_go(tmp_path):
    for name in ("checkpoint-999999", "checkpoint-1000000", "checkpoint-000005", "checkpoint-best", "aside-checkpoint-000004"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-000007").touch()
    listed = list_checkpoints(tmp_path)
    assert [path.name for path in listed] == ["checkpoint-000005", "checkpoint-999999", "checkpoint-1000000"]
    assert checkpoints_to_delete(listed, None) == []
    assert checkpoints_to_delete(listed, 3) == []
    assert checkpoints_to_delete(listed, 1) == listed[:2]
    RunFolder(tmp_path).delete(listed[:2])
    assert list_checkpoints(tmp_path) == listed[2:]


def fill(folder: Path, text: str) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text(text)
    return folder


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folder_takes_the_place_of_another(can_exchange, tmp_path, monkeypatch):
    if not can_exchange:  # as on systems other than Linux
        monkeypatch.setattr(durable, "exchange", lambda first, second: False)
    final = tmp_path / "pipeline"
    for text in ("first", "second"):
        durable.put_in_place(fill(tmp_path / PARTIAL, text), final)
        assert (final / "inner" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot swap folders in one step")
def test_folders_swap_in_one_step_on_linux(tmp_path, monkeypatch):
    first, second = fill(tmp_path / "first", "1"), fill(tmp_path / "second", "2")
    assert durable.exchange(first, second)
    assert ((first / "inner" / "file").read_text(), (second / "inner" / "file").read_text()) == ("2", "1")
    assert not durable.exchange(first, tmp_path / "missing")
    monkeypatch.delattr(Path, "rename")  # of two, between which the name would be nobody's
    durable.put_in_place(first, second)
    assert (second / "inner" / "file").read_text() == "2"


def test_folder_that_stepped_aside_comes_back(tmp_path):
    fill(tmp_path / ".pipeline.old", "old")
    durable.recover(tmp_path)
    assert (tmp_path / "pipeline" / "inner" / "file").read_text() == "old"
    fill(tmp_path / ".pipeline.old", "older")  # killed after the new one had taken the name
    durable.recover(tmp_path)
    assert (tmp_path / "pipeline" / "inner" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    durable.write_text(path, "a\r\n")
    durable.write_text(path, "a\r\nb\r\n")
    assert path.read_bytes() == b"a\r\nb\r\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]


def test_two_runs_in_one_folder(tmp_path):
    with RunFolder(tmp_path / "run").locked():
        (tmp_path / "run" / "config.json").touch()
        with (
            pytest.raises(UserError, match=rf"run is in use by a run that is at work \(process {os.getpid()}\)"),
            RunFolder(tmp_path / "run").locked(),
        ):
            pass
    with RunFolder(tmp_path / "run").locked():
        assert (tmp_path / "run").is_dir()


def test_folder_of_a_run_that_never_began_is_removed(tmp_path):
    with RunFolder(tmp_path / "run").locked():
        assert (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run").exists()


def test_metrics_may_gain_a_column(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"epoch": 1, "a": 0.1})
    folder.append_metrics({"epoch": 2, "b": 3, "a": 0.2})
    assert (tmp_path / "metrics.csv").read_bytes() == b"epoch,a,b\r\n1,0.1,\r\n2,0.2,3\r\n"
    assert folder.last_metrics() == {"a": 0.2, "b": 3}
