"""Data sets on disk: what is read, in which order, and what every unreadable file is told."""

import io
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from action_ddim.data import dataset as dataset_module
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import RunError, UserError
from augmentation.gestures import GestureConfig, write_gestures

L = 10


def make_actions(num_sequences, seed=0):
    actions = np.random.default_rng(seed).random((num_sequences, L, 3), dtype=np.float32)
    actions[..., 2] = actions[..., 2] > 0.5
    return actions


def write_files(folder, *counts):
    """Write a flattened file of so many sequences for each count; return all sequences in order."""
    arrays = [make_actions(count, seed) for seed, count in enumerate(counts)]
    for index, array in enumerate(arrays):
        np.save(folder / f"part_{index:03d}_actions.npy", array.reshape(-1, 3))
    return np.concatenate(arrays)


def npy_bytes(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz_bytes():
    file = io.BytesIO()
    np.savez(file, actions=np.zeros((L, 3)))
    return file.getvalue()


class CreatesFile:
    """Unpickling one creates the file: what an attacker's data set would do with more."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4", "int8", "uint16", "int64", "bool"])
def test_any_real_type_is_read_as_float32(tmp_path, dtype):
    array = (np.random.default_rng(0).integers(0, 3, (3 * L, 3)) / 2).astype(dtype)
    np.save(tmp_path / "a_actions.npy", array)
    batch = ActionDataset(tmp_path, L).read([0, 1, 2])
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), array.reshape(3, L, 3).astype(np.float32))


@pytest.mark.parametrize(
    "layout",
    [lambda a: a, lambda a: a.reshape(-1, 3), lambda a: np.asfortranarray(a.reshape(-1, 3))],
    ids=["3-D", "flattened", "Fortran order"],
)
def test_any_layout_is_read_as_the_same_sequences(tmp_path, layout):
    np.save(tmp_path / "a_actions.npy", layout(make_actions(4)))
    np.testing.assert_array_equal(ActionDataset(tmp_path, L).read(range(4)).numpy(), make_actions(4))


def test_files_count_in_order_of_name(tmp_path):
    for seed, name in enumerate("cab"):
        np.save(tmp_path / f"{name}_actions.npy", make_actions(2, seed))
    expected = np.concatenate([make_actions(2, seed) for seed in (1, 2, 0)])
    np.testing.assert_array_equal(ActionDataset(tmp_path, L).read(range(6)).numpy(), expected)


def test_batch_across_files_is_that_of_one_array(tmp_path):
    actions = write_files(tmp_path, 3, 1, 0, 5)
    dataset = ActionDataset(tmp_path, L)
    assert len(dataset) == 9
    for indices in ([8, 0, 3, 3, 2, 4, 0], [4], list(range(9)), np.array([5, 2])):
        np.testing.assert_array_equal(dataset.__getitems__(indices).numpy(), actions[indices])
    np.testing.assert_array_equal(dataset[3].numpy(), actions[3])
    np.testing.assert_array_equal(torch.stack(list(dataset)).numpy(), actions)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "float16", "bool"])
def test_loaded_data_is_the_same_and_needs_no_files(tmp_path, monkeypatch, dtype, layout):
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", 2 * L * 3 * 4)  # files end within chunks
    for count in (3, 0, 4):
        np.save(tmp_path / f"{count}_actions.npy", make_actions(count).reshape(-1, 3).astype(dtype, order=layout))
    dataset = ActionDataset(tmp_path, L)
    before = dataset.read(range(7))
    dataset.load()
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    assert dataset.nbytes == before.numpy().nbytes
    assert torch.equal(dataset.read(range(7)), before)
    assert torch.equal(dataset.read([6, 0, -1, 3, 3]), before[[6, 0, -1, 3, 3]])
    with pytest.raises(IndexError):
        dataset.read([7])


def shrink(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "reason"), [(Path.unlink, "No such file"), (shrink, "shorter than it was")], ids=["removed", "shrunk"]
)
@pytest.mark.parametrize("is_open", [True, False])
def test_file_that_is_harmed_later_is_named_in_one_line(tmp_path, harm, reason, is_open):
    write_files(tmp_path, 2, 3)
    dataset = ActionDataset(tmp_path, L)
    if is_open:
        expected = dataset.read(range(5))
    harm(tmp_path / "part_001_actions.npy")
    if is_open and harm is Path.unlink:  # an open file stays whole until it is closed
        assert torch.equal(dataset.read(range(5)), expected)
        return
    with pytest.raises(RunError, match=f"part_001_actions.npy can no longer be read .*{reason}") as caught:
        dataset.read(range(5))
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"part_001_actions\.npy"):
        dataset.validate()


def test_negative_index_counts_from_the_end_as_in_a_list(tmp_path):
    actions = write_files(tmp_path, 3, 2)
    np.testing.assert_array_equal(ActionDataset(tmp_path, L)[-1].numpy(), actions[-1])


@pytest.mark.parametrize("index", [5, -6])
def test_index_beyond_the_data_is_refused(tmp_path, index):
    write_files(tmp_path, 3, 2)
    with pytest.raises(IndexError):
        ActionDataset(tmp_path, L)[index]


def test_loader_takes_whole_batches_and_keeps_the_short_last_one(tmp_path):
    actions = write_files(tmp_path, 7, 3)
    sampler = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(ActionDataset(tmp_path, L), batch_size=4, sampler=sampler, collate_fn=lambda batch: batch)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), actions[sampler])


def test_pickled_data_set_holds_paths_and_reads_the_files_anew(tmp_path):
    actions = write_files(tmp_path, 500)
    dataset = ActionDataset(tmp_path, L)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < actions.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(pickled).read([499, 0]).numpy(), actions[[499, 0]])


def test_no_more_files_stay_open_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "MAX_OPEN_FILES", 3)
    actions = write_files(tmp_path, *[2] * 8)
    dataset = ActionDataset(tmp_path, L)
    for indices in ([15, 0, 7, 4, 11], list(range(16)), [0]):
        np.testing.assert_array_equal(dataset.read(indices).numpy(), actions[indices])
        assert len(dataset._open) <= 3


def test_batch_opens_each_of_its_files_once(tmp_path):
    actions, opened = write_files(tmp_path, *[2] * 90), []  # more files than stay open
    order, watching = np.random.default_rng(0).permutation(180), [True]
    sys.addaudithook(lambda event, arguments: watching and event == "open" and opened.append(str(arguments[0])))
    dataset = ActionDataset(tmp_path, L)
    opened.clear()
    np.testing.assert_array_equal(dataset.read(order).numpy(), actions[order])
    assert sorted(opened) == sorted(map(str, tmp_path.glob("*.npy")))
    assert dataset.read([]).shape == (0, L, 3)
    watching.clear()  # a hook stays for good


@pytest.mark.parametrize(
    ("info", "seq_len", "expected"),
    [
        (None, None, 250),
        (None, 50, 50),
        ({"sequence_length": 125}, None, 125),
        ({"sequence_length": 125}, 125, 125),
        ({"rate_hz": 100}, None, 250),
        ({"rate_hz": 100}, 50, 50),
    ],
)
def test_length_is_the_flags_else_the_folders_else_250(tmp_path, info, seq_len, expected):
    np.save(tmp_path / "a_actions.npy", np.zeros((500, 3), dtype=np.float32))
    if info is not None:
        (tmp_path / "dataset.json").write_text(json.dumps(info))
    dataset = ActionDataset(tmp_path, seq_len)
    assert (dataset.seq_len, len(dataset)) == (expected, 500 // expected)
    assert dataset[0].shape == (expected, 3)


def test_length_that_contradicts_the_folder_is_refused(tmp_path):
    write_files(tmp_path, 2)
    (tmp_path / "dataset.json").write_text('{"sequence_length": 10}')
    with pytest.raises(UserError, match=r"--seq_len is 5, but .*dataset\.json says 10"):
        ActionDataset(tmp_path, 5)


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b"[10]", *(b'{"sequence_length": %s}' % value for value in (b'"10"', b"0", b"2.5", b"true", b"NaN"))],
)
def test_malformed_description_is_named(tmp_path, content):
    write_files(tmp_path, 2)
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json"):
        ActionDataset(tmp_path)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        ActionDataset(tmp_path / "nowhere")


@pytest.mark.parametrize("hidden", [(), (".checked.json", ".DS_Store")])
def test_empty_folder_is_told_how_to_get_data(tmp_path, hidden):
    for name in hidden:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no *_actions.npy") + ".*generate_click_dataset"):
        ActionDataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["b.csv", "a.csv", "notes.txt"], r"2 \.csv, 1 \.txt \(a\.csv\)"),
        (["ada.npy"], r"1 \.npy \(ada\.npy\)"),
        (["actions.npz", "info.json", "log"], r"1 \.npz, 1 \.json, 1 nameless"),
        (["ada/one.csv", "bob/two.csv"], r"2 folders \(ada\)"),
    ],
)
def test_recordings_in_other_forms_are_said_and_never_generated_among(tmp_path, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"holds no \*_actions\.npy, but {said}.*rows of x, y, press") as caught:
        ActionDataset(tmp_path)
    assert "generate" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_above_the_data_is_told_which_to_name(tmp_path):
    for name in ("val", "train"):
        (tmp_path / name).mkdir()
        write_files(tmp_path / name, 2)
    with pytest.raises(UserError, match=re.escape(f"but {tmp_path / 'train'} does; name that one")):
        ActionDataset(tmp_path)


@pytest.mark.parametrize(
    ("rows", "stated", "seq_len", "remedies"),
    [
        (800, None, None, ["but of 100, 200, 400", "sequence_length in D", "--seq_len", "restore"]),
        (801, None, None, ["250 steps a sequence;", "sequence_length in D", "--seq_len", "restore"]),
        (800, 7, None, ["but of 100", "correct what D says", "restore"]),
        (800, None, 7, ["but of 100", "sequence_length in D", "--seq_len", "restore"]),
    ],
)
def test_rows_that_do_not_divide_are_told_the_likely_cures_in_order(tmp_path, rows, stated, seq_len, remedies):
    np.save(tmp_path / "a_actions.npy", np.zeros((rows, 3)))
    if stated:
        (tmp_path / "dataset.json").write_text(json.dumps({"sequence_length": stated}))
    with pytest.raises(UserError) as caught:
        ActionDataset(tmp_path, seq_len)
    message = str(caught.value).replace(str(tmp_path / "dataset.json"), "D")
    places = [message.find(remedy) for remedy in remedies]
    assert min(places) >= 0, message
    assert places == sorted(places), message
    assert ("--seq_len" in message) == ("--seq_len" in remedies)


def test_keys_that_mean_nothing_are_named_and_kept(tmp_path, capsys):
    write_files(tmp_path, 2)
    (tmp_path / "dataset.json").write_text(json.dumps({"sequence_length": L, "rate_hz": 125, "device": "pen", "length\n": 3}))
    assert ActionDataset(tmp_path).seq_len == L
    error = capsys.readouterr().err
    assert error.startswith(f"{tmp_path / 'dataset.json'}: 'device', 'length\\n' mean nothing here")
    assert error.count("\n") == 1


def test_keys_that_are_documented_or_generated_pass_in_silence(tmp_path, capsys):
    write_gestures(GestureConfig(2, sequence_length=L), tmp_path)
    info = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**info, "rate_hz": 125}))
    capsys.readouterr()
    ActionDataset(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "key", ["sequence_lenght", "seq_len", "sequenceLength", "Sequence_Length", "sequence length", "seq_length"]
)
def test_length_under_a_misspelled_key_is_not_passed_over(tmp_path, key):
    np.save(tmp_path / "a_actions.npy", np.zeros((500, 3)))  # which 250 divides
    (tmp_path / "dataset.json").write_text(json.dumps({key: 125}))
    with pytest.raises(UserError, match=rf"dataset\.json says '{key}'; did you mean sequence_length"):
        ActionDataset(tmp_path)


@pytest.mark.parametrize("shape", [(0, 3), (0, L, 3)])
def test_files_without_a_single_sequence_are_refused(tmp_path, shape):
    np.save(tmp_path / "a_actions.npy", np.zeros(shape, dtype=np.float32))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        ActionDataset(tmp_path, L)


ZEROS = npy_bytes(np.zeros((L, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(ZEROS[:-8], "cannot be read", id="truncated values"),
        pytest.param(ZEROS[:40], "cannot be read", id="truncated header"),
        pytest.param(ZEROS.replace(b", }", b",  "), "cannot be read", id="damaged header"),
        pytest.param(npy_header((10**30, 3)), "cannot be read", id="impossible size"),
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b"x,y,press\n0,0,0\n", "cannot be read", id="text"),
        pytest.param(pickle.dumps([0, 0, 0]), "cannot be read", id="pickle"),
        pytest.param(npy_bytes(np.array([[0, 0, None]] * L), allow_pickle=True), "cannot be read", id="objects"),
        pytest.param(npz_bytes(), "archive", id="archive"),
        pytest.param(npz_bytes()[:60], "cannot be read", id="truncated archive"),
        pytest.param(ZEROS[:8] + b"\xff\xff" + b"(" * 65535 + ZEROS, "cannot be read", id="huge header"),
        pytest.param(npy_bytes(np.zeros((L, 3), dtype=complex)), "complex128", id="complex"),
        pytest.param(npy_bytes(np.full((L, 3), "0")), "<U1", id="strings"),
        pytest.param(npy_bytes(np.zeros((L, 4))), r"\(10, 4\)", id="columns"),
        pytest.param(npy_bytes(np.zeros(3 * L)), r"\(30,\)", id="1-D"),
        pytest.param(npy_bytes(np.zeros(())), r"\(\)", id="scalar"),
        pytest.param(npy_bytes(np.zeros((L + 1, 3))), "11 rows, not a multiple of the 10 .*--seq_len", id="rows"),
        pytest.param(npy_bytes(np.asfortranarray(np.zeros((2, L, 3)))), "Fortran order.*ascontiguousarray", id="scattered"),
        pytest.param(npy_header((-L, 3)), "cannot be read", id="negative size"),
        pytest.param(ZEROS.replace(b"NUMPY\x01", b"NUMPY\x07"), "cannot be read .*version", id="version"),
        pytest.param(npy_bytes(np.zeros((2, L + 1, 3))), "of 11 steps, not 10.*--seq_len", id="length"),
    ],
)
def test_unreadable_file_is_named_in_one_line(tmp_path, content, fault):
    write_files(tmp_path, 2)
    (tmp_path / "z_actions.npy").write_bytes(content)
    with pytest.raises(UserError, match=f"z_actions.npy .*{fault}") as caught:
        ActionDataset(tmp_path, L)
    assert "\n" not in str(caught.value)


def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a_actions.npy")
    with pytest.raises(UserError, match=r"a_actions\.npy cannot be read .*not a file"):
        ActionDataset(tmp_path, L)


@pytest.mark.parametrize("wrap", [pickle.dumps, lambda evil: npy_bytes(np.array([[evil] * 3] * L), allow_pickle=True)])
def test_code_in_a_file_never_runs(tmp_path, wrap):
    (tmp_path / "evil_actions.npy").write_bytes(wrap(CreatesFile(tmp_path / "owned")))
    with pytest.raises(UserError, match=r"evil_actions\.npy"):
        ActionDataset(tmp_path, L).validate()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, bool])
def test_valid_data_passes_whatever_its_type(tmp_path, dtype):
    np.save(tmp_path / "a_actions.npy", np.random.default_rng(0).integers(0, 2, (3 * L, 3)).astype(dtype))
    ActionDataset(tmp_path, L).validate()


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [(0, np.nan, "x is nan"), (1, np.inf, "y is inf"), (0, 1.5, "x is 1.5"), (1, -0.5, "y is -0.5"), (2, 0.5, "press is 0.5")],
)
@pytest.mark.parametrize("row", [0, 7, 29])
def test_value_that_breaks_the_contract_is_named_by_file_and_row(tmp_path, monkeypatch, column, value, fault, row):
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", L * 3 * 4)  # a sequence a chunk
    write_files(tmp_path, 2)
    actions = make_actions(3).reshape(-1, 3)
    actions[row, column] = value
    np.save(tmp_path / "z_actions.npy", actions)
    with pytest.raises(UserError, match=rf"z_actions.npy, row {row}: {fault}"):
        ActionDataset(tmp_path, L).validate()
