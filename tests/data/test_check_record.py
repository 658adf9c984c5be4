"""What was found valid is not read again, and what changed is."""

import json
import os
import shutil

import numpy as np
import pytest

from action_ddim.data.check_record import CHECK_VERSION, RECORD_NAME, CheckRecord, fingerprint
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import UserError

L = 10


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        np.save(folder / f"{name}_actions.npy", np.zeros((2 * L, 3), np.float32))
    return folder


def chunks_read(folder) -> int:
    """Validate the folder anew; return how many pieces of files were read for it."""
    return len(list(ActionDataset(folder, L).validation()))


def spoil(path):
    """Put a value out of range, without changing the file's size or its time of change."""
    status = path.stat()
    np.save(path, np.full((2 * L, 3), 2, np.float32))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_unchanged_files_are_read_once(folder, cache):
    assert [chunks_read(folder), chunks_read(folder)] == [3, 0]
    assert (folder / RECORD_NAME).exists()
    assert not cache.exists()


def test_changed_and_new_files_are_read_again(folder):
    chunks_read(folder)
    np.save(folder / "b_actions.npy", np.zeros((4 * L, 3), np.float32))
    np.save(folder / "d_actions.npy", np.zeros((2 * L, 3), np.float32))
    assert [chunks_read(folder), chunks_read(folder)] == [2, 0]
    os.utime(folder / "a_actions.npy", ns=(0, 0))
    assert chunks_read(folder) == 1


def test_time_that_was_set_back_does_not_hide_a_change(folder):
    chunks_read(folder)
    spoil(folder / "b_actions.npy")
    with pytest.raises(UserError, match=r"b_actions\.npy, row 0: x is 2"):
        chunks_read(folder)


def test_record_that_comes_with_the_data_vouches_for_nothing(folder, tmp_path):
    chunks_read(folder)
    shutil.copytree(folder, tmp_path / "copy")  # with its times, as an archive
    assert (tmp_path / "copy" / RECORD_NAME).exists()
    assert chunks_read(tmp_path / "copy") == 3


def test_files_before_a_fault_are_not_read_again(folder):
    spoil(folder / "b_actions.npy")
    for expected in ("a_actions.npy", None):
        with pytest.raises(UserError, match="b_actions"):
            chunks_read(folder)
        if expected:
            assert list(json.loads((folder / RECORD_NAME).read_text())["files"]) == [expected]
    np.save(folder / "b_actions.npy", np.zeros((2 * L, 3), np.float32))
    assert chunks_read(folder) == 2


def test_data_that_cannot_be_written_beside_is_remembered_in_the_cache(folder, cache):
    (folder / RECORD_NAME).mkdir()  # stands for a folder that is read-only, which nothing is to the user root
    assert [chunks_read(folder), chunks_read(folder)] == [3, 0]
    (record,) = (cache / "action_ddim").iterdir()
    assert len(json.loads(record.read_text())["files"]) == 3
    assert [path for path in folder.iterdir() if path.suffix != ".npy"] == [folder / RECORD_NAME]


def test_where_nothing_can_be_kept_everything_is_read_each_time(folder, cache):
    (folder / RECORD_NAME).mkdir()
    cache.touch()
    assert [chunks_read(folder), chunks_read(folder)] == [3, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 1, "files": 5}',
        b'{"version": 1, "files": {"a_actions.npy": null, "b_actions.npy": [0], "c_actions.npy": {"x": 1}}}',
        json.dumps({"version": CHECK_VERSION + 1, "files": {}}).encode(),
    ],
)
def test_damaged_record_is_ignored_and_replaced(folder, content):
    (folder / RECORD_NAME).write_bytes(content)
    assert [chunks_read(folder), chunks_read(folder)] == [3, 0]


def test_record_that_would_not_end_is_not_read(folder):
    (folder / RECORD_NAME).symlink_to("/dev/zero")
    assert chunks_read(folder) == 3
    (folder / RECORD_NAME).unlink()
    os.mkfifo(folder / RECORD_NAME)
    assert chunks_read(folder) == 3


def test_record_replaces_a_link_and_not_what_it_points_to(folder, tmp_path):
    (tmp_path / "precious").write_text("kept")
    (folder / RECORD_NAME).symlink_to(tmp_path / "precious")
    assert [chunks_read(folder), chunks_read(folder)] == [3, 0]
    assert (tmp_path / "precious").read_text() == "kept"


def test_missing_file_is_never_held(folder):
    record = CheckRecord(folder)
    record.add(folder / "a_actions.npy", fingerprint(folder / "a_actions.npy"))
    assert record.holds(folder / "a_actions.npy")
    assert not record.holds(folder / "z_actions.npy")
    (folder / "a_actions.npy").unlink()
    assert not record.holds(folder / "a_actions.npy")
