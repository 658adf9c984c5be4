"""What is on disk is whole: folders in place of others, manifests, the lock."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from action_ddim import atomic
from action_ddim.errors import UserError
from action_ddim.training.checkpoint import (
    PARTIAL,
    WriteError,
    checkpoints_to_delete,
    find_damage,
    list_checkpoints,
    write_checkpoint,
)
from action_ddim.training.run_folder import RunFolder
from tests.conftest import fill_disk


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
        (change("manifest.json", b"[" * 100_000), "manifest.json cannot be read"),
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
    others = ("checkpoint-best", "checkpoint-500", "checkpoint-0999999", "aside-checkpoint-000004")
    for name in ("checkpoint-999999", "checkpoint-1000000", "checkpoint-000005", *others):
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
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    final = tmp_path / "pipeline"
    for text in ("first", "second"):
        atomic.put_in_place(fill(tmp_path / PARTIAL, text), final)
        assert (final / "inner" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot swap folders in one step")
def test_folders_swap_in_one_step_on_linux(tmp_path, monkeypatch):
    first, second = fill(tmp_path / "first", "1"), fill(tmp_path / "second", "2")
    assert atomic.exchange(first, second)
    assert ((first / "inner" / "file").read_text(), (second / "inner" / "file").read_text()) == ("2", "1")
    assert not atomic.exchange(first, tmp_path / "missing")
    monkeypatch.delattr(Path, "rename")  # of two, between which the name would be nobody's
    atomic.put_in_place(first, second)
    assert (second / "inner" / "file").read_text() == "2"


def test_folder_that_stepped_aside_comes_back(tmp_path):
    aside = tmp_path / f".pipeline{atomic.OLD}"
    fill(aside, "old")
    atomic.recover(tmp_path)
    assert (tmp_path / "pipeline" / "inner" / "file").read_text() == "old"
    fill(aside, "older")  # killed after the new one had taken the name
    atomic.recover(tmp_path)
    assert (tmp_path / "pipeline" / "inner" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return what a folder holds, files by their content, but for the lock."""
    paths = (path for path in folder.rglob("*") if path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def test_start_leaves_what_others_hide(tmp_path):
    """Backups, and what looks like what a run leaves when it is killed."""
    for name in ("data", ".data.old", ".notes.old", ".partial", ".pipeline.old", "outside"):
        fill(tmp_path / name, name)
    (tmp_path / ".x.old").touch()
    (tmp_path / f".pipeline{atomic.OLD}").symlink_to("outside")
    (tmp_path / f".pipeline-best{atomic.OLD}").touch()
    before = contents(tmp_path)
    folder = RunFolder(tmp_path)
    folder.check(in_place=False)
    with folder.locked():
        assert folder.begin(in_place=False) == (None, [])
        assert contents(tmp_path) == before


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "plots", "pipeline", "pipeline-best", "checkpoint-000790"])
def test_what_a_run_would_write_over_is_moved_aside(name, in_place, tmp_path):
    """Also where no config.json of ours lies beside it, and where the run was to go on and found no checkpoint."""
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_text("{}") if "." in name else fill(path / name, "theirs")
    before = contents(path)
    folder = RunFolder(path)
    folder.check(in_place=in_place)
    with folder.locked():
        assert folder.begin(in_place=in_place) == (tmp_path / "run.1", [])
        assert contents(tmp_path / "run.1") == before
        (tmp_path / "run.1" / "thesis.tex").touch()
        shutil.copytree(tmp_path / "run.1", path, dirs_exist_ok=True)
        with pytest.raises(UserError, match=rf"holds an earlier run \({name}\) and other files \(thesis.tex\)"):
            folder.begin(in_place=in_place)
    assert contents(path) == contents(tmp_path / "run.1")


def test_run_that_got_to_no_checkpoint_is_begun_again_in_its_place(mount, tmp_path):
    """Also where it could not be moved. Only its models are kept: it may be that somebody removed its checkpoints."""
    folder = RunFolder(mount(tmp_path / "disk", "1m"))
    with folder.locked():
        folder.write_config({"action_ddim": "0.1.0"})
        folder.append_metrics({"epoch": 1})
        for count, suffix in enumerate(("", ".1"), start=1):
            fill(folder.best_pipeline, suffix)
            assert folder.begin(in_place=True) == (None, [folder.path / f"aside-pipeline-best{suffix}"])
            assert len(list(folder.path.glob("aside-*/inner/file"))) == count
        assert folder.begin(in_place=True) == (None, [])
    refused(folder, "it is a mount point")
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_folder_behind_a_link_is_moved_aside_where_it_lies(tmp_path):
    """The link is to a larger disk, say, and the new run belongs there too."""
    (tmp_path / "run").symlink_to("disk/run")
    folder = RunFolder(tmp_path / "run")
    for moved in (None, tmp_path / "disk" / "run.1", tmp_path / "disk" / "run.2"):
        folder.check(in_place=False)
        with folder.locked():
            assert folder.begin(in_place=False) == (moved, [])
            folder.write_config({})
    assert (tmp_path / "run").is_symlink()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"run", "run.1", "run.2"}


def refused(folder: RunFolder, message: str) -> None:
    """Hold that a folder is refused in one line before anything is done, and is as before."""
    before = contents(folder.path.parent)
    with pytest.raises(UserError, match=message) as caught:
        folder.check(in_place=False)
    assert "\n" not in str(caught.value)
    assert "name another folder" in str(caught.value)
    assert contents(folder.path.parent) == before


def test_working_directory_is_not_moved_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder(".").check(in_place=False)
    (tmp_path / "plots").mkdir()
    for path, place in ((".", tmp_path), ("..", tmp_path / "plots"), (tmp_path, tmp_path / "plots")):
        monkeypatch.chdir(place)
        refused(RunFolder(path), "cannot be moved aside .the working directory lies there.")


def test_mounted_folder_is_not_moved_aside(mount, tmp_path):
    folder = RunFolder(mount(tmp_path / "disk", "1m"))
    folder.check(in_place=False)
    folder.metrics.touch()
    refused(folder, "cannot be moved aside .it is a mount point.")
    # One that is mounted from the same file system is not told from others until it is to move.
    (tmp_path / "plain" / "plots").mkdir(parents=True)
    folder = RunFolder(mount(tmp_path / "bound", tmp_path / "plain"))
    with pytest.raises(UserError, match=r"cannot be moved aside .*name another folder"), folder.locked():
        folder.begin(in_place=False)
    assert folder.plots.is_dir()


@pytest.mark.parametrize("length", [254, 300])
def test_name_that_is_too_long_is_refused(length, tmp_path):
    folder = RunFolder(tmp_path / ("n" * length))
    if length == 254:
        folder.check(in_place=False)
        fill(folder.pipeline, "theirs")
    refused(folder, "cannot be moved aside .File name too long." if length == 254 else "cannot be written .File name too long.")


def test_full_disk_at_the_start_is_one_line(mount, tmp_path):
    disk = mount(tmp_path / "disk", "128k")
    folder = RunFolder(disk / "run")
    folder.check(in_place=False)
    with folder.locked():
        folder.begin(in_place=False)
        filler = fill_disk(disk)
        with pytest.raises(UserError, match=r"run cannot be written \(No space left on device\); make room, or name another"):
            folder.write_config({"settings": "x" * 5000})
    assert [path.name for path in disk.iterdir()] == ["filler"]
    fill_disk(disk)  # with what the lock took
    refused(folder, "No space left on device")
    with pytest.raises(UserError, match="No space left on device"), folder.locked():
        pass
    assert [path.name for path in disk.iterdir()] == ["filler"]
    filler.unlink()
    folder.check(in_place=False)


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    atomic.write_text(path, "a\r\n")
    atomic.write_text(path, "a\r\nb\r\n")
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
