"""Data in the form of the Hub: what is written comes back to the last bit, and what cannot be read is one line. No network."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import datasets
import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, constants

from action_ddim.cli.main import main
from action_ddim.cli.main import train as train_verb
from action_ddim.data import hub_dataset
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.hub_dataset import fetch_dataset
from action_ddim.errors import UserError
from tests.conftest import SEQ_LEN, one_line, timeless
from tests.data.hub_server import COMMIT, NAME, HubServer

FROM_HUB = {"data_dir": None, "val_data_dir": None}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")  # it makes a folder there
    return tmp_path / "cache" / "action_ddim" / "datasets"


@pytest.fixture
def layout(data, tmp_path):
    """The data of other tests in the form of the Hub, in a folder."""
    assert main(["push-data", str(data), "someone/strokes", "--out", str(tmp_path / "strokes")]) == 0
    return tmp_path / "strokes"


def everything(folder):
    """Return what the files of a folder hold, by numpy alone."""
    return np.concatenate([np.load(path).reshape(-1, 3) for path in sorted(folder.glob("*_actions.npy"))])


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_what_is_written_comes_back_to_the_last_bit(data, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(hub_dataset, "SHARD_BYTES", 5 * SEQ_LEN * 12)
    monkeypatch.setattr(hub_dataset, "SEQUENCES_PER_FILE", 5)
    source = tmp_path / "source"
    shutil.copytree(data, source)
    odd = np.random.default_rng(0).random((3 * SEQ_LEN, 3), np.float32)  # of every bit, beside gestures of round numbers
    odd[:, 2] = odd[:, 2] > 0.5
    np.save(source / "train" / "odd_actions.npy", odd)
    info = {"sequence_length": SEQ_LEN, "rate_hz": 125, "source": "pen | <b>", "num_sequences": 15}
    (source / "train" / "dataset.json").write_text(json.dumps(info))
    assert main(["push-data", str(source), "someone/strokes", "--out", str(tmp_path / "strokes")]) == 0
    names = sorted(path.name for path in (tmp_path / "strokes" / "data").iterdir())
    expected = [("train", i, 4) for i in range(4)] + [("validation", i, 2) for i in range(2)]
    assert names == [f"{split}-0000{i}-of-0000{count}.parquet" for split, i, count in expected]
    folder = fetch_dataset(str(tmp_path / "strokes"))
    assert cache in folder.parents
    for split in ("train", "val"):
        assert same_bits(everything(folder / split), everything(source / split))
        written = json.loads((folder / split / "dataset.json").read_text())
        assert written == json.loads((source / split / "dataset.json").read_text())
    assert len(list((folder / "train").glob("*.npy"))) == 3
    ActionDataset(folder / "train").validate()


def test_others_read_what_is_written(data, layout, tmp_path):
    found = datasets.load_dataset(str(layout), cache_dir=str(tmp_path / "theirs"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 12, "validation": 5}
    assert found["train"].features["actions"] == datasets.Array2D((SEQ_LEN, 3), "float32")
    assert found["train"]["index"][:] == list(range(12))
    actions = found["train"].with_format("numpy")[:]["actions"]
    assert same_bits(actions.reshape(-1, 3), everything(data / "train"))
    metadata = yaml.safe_load((layout / "README.md").read_text().split("---\n")[1])
    assert metadata["action_ddim"]["train"] == json.loads((data / "train" / "dataset.json").read_text())
    assert metadata["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train-*"}


def test_training_on_it_is_training_on_the_folder(layout, run, data, capsys, cache):
    expected = run("folder")
    found = run("hub", dataset_name=layout, **FROM_HUB)
    assert timeless(found) == timeless(expected)
    (fetched,) = (path for path in (cache / "strokes" / "default").iterdir() if path.is_dir())
    times = {path: path.stat().st_mtime_ns for path in fetched.rglob("*_actions.npy")}
    longer = timeless(run("hub", dataset_name=layout, num_epochs=3, resume_from_checkpoint="latest", **FROM_HUB))
    assert [row["epoch"] for row in longer] == ["1", "2", "3"]
    assert {path: path.stat().st_mtime_ns for path in fetched.rglob("*_actions.npy")} == times  # it was not fetched again
    card = (found / "pipeline" / "README.md").read_text()
    assert "augmentation.generate_click_dataset" in card  # what dataset.json says
    assert str(layout) not in card
    # The folder in the cache is a data set as any other.
    words = {"data_dir": fetched / "train", "val_data_dir": fetched / "val"}
    assert len(timeless(run("hub", num_epochs=4, resume_from_checkpoint="latest", **words))) == 4


def test_another_revision_is_not_the_data_that_a_run_began_with(layout, run, flags, data, tmp_path, capsys):
    run(dataset_name=layout, **FROM_HUB)
    shutil.rmtree(layout)
    assert main(["push-data", str(data / "val"), "someone/strokes", "--out", str(layout)]) == 0
    words = flags(dataset_name=layout, data_dir=None, resume_from_checkpoint="latest", num_epochs=3)
    capsys.readouterr()
    assert train_verb(words) == 2
    one_line(capsys, f"--dataset_name {layout}, for --data_dir, is not the data that")


def save_rows(folder, split="train", **columns):
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(str(folder / f"{split}.parquet"))


def rows(count=3, length=4):
    values = np.random.default_rng(0).random((count, length, 3))
    values[..., 2] = values[..., 2] > 0.5
    return values


def test_data_of_others_needs_no_card_and_no_feature(tmp_path):
    save_rows(tmp_path / "theirs", actions=rows().tolist(), user=[1, 2, 3])  # lists of float64
    save_rows(tmp_path / "theirs", "test", actions=rows(2).tolist(), user=[4, 5])
    folder = fetch_dataset(str(tmp_path / "theirs"))
    np.testing.assert_array_equal(everything(folder / "train"), rows().astype(np.float32).reshape(-1, 3))
    assert json.loads((folder / "val" / "dataset.json").read_text()) == {"sequence_length": 4, "num_sequences": 2}


def test_configurations_are_told_apart(tmp_path, cache):
    for name, count in (("mouse", 2), ("pen", 3)):
        save_rows(tmp_path / "both" / name, actions=rows(count).tolist())
    configs = [{"config_name": name, "data_files": f"{name}/train.parquet"} for name in ("mouse", "pen")]
    (tmp_path / "both" / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    for name, count in (("mouse", 2), ("pen", 3)):
        assert len(ActionDataset(fetch_dataset(str(tmp_path / "both"), name) / "train")) == count
    with pytest.raises(UserError, match="--dataset_config_name where it has several"):
        fetch_dataset(str(tmp_path / "both"))


def spoiled(row, step, channel, value):
    values = rows()
    values[row, step, channel] = value
    return values.tolist()


FAULTS = {
    "no column": ({"moves": rows().tolist()}, "split train has the columns moves; it needs actions"),
    "of two channels": ({"actions": rows()[..., :2].tolist()}, "split train: a row of actions has the shape (4, 2)"),
    "flat": ({"actions": [1.0, 2.0]}, "a row of actions has the shape ()"),
    "words": ({"actions": ["up", "down"]}, "actions are not all numbers of one length"),
    "of several lengths": (
        {"actions": [*rows().tolist(), rows(1, 5)[0].tolist()]},
        "actions are not all numbers of one length",
    ),
    "not a number": ({"actions": spoiled(1, 2, 0, np.nan)}, "split train, row 1, step 2: x is nan"),
    "out of range": ({"actions": spoiled(2, 3, 1, 1.5)}, "split train, row 2, step 3: y is 1.5, outside [0, 1]"),
    "half a press": ({"actions": spoiled(0, 0, 2, 0.5)}, "split train, row 0, step 0: press is 0.5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_data_that_is_none_is_one_line_and_leaves_nothing(fault, tmp_path, flags, capsys, cache):
    columns, message = FAULTS[fault]
    save_rows(tmp_path / "theirs", actions=rows().tolist())
    save_rows(tmp_path / "theirs", **columns)
    capsys.readouterr()
    assert train_verb(flags(dataset_name=tmp_path / "theirs", **FROM_HUB)) == 2
    one_line(capsys, f"--dataset_name {tmp_path / 'theirs'}", message)
    assert not [path for path in cache.rglob("*") if path.suffix in (".npy", ".json", ".partial")]


def test_lengths_that_differ_from_file_to_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_dataset, "SEQUENCES_PER_FILE", 2)
    save_rows(tmp_path / "theirs", actions=[*rows(2).tolist(), *rows(2, 5).tolist()])
    with pytest.raises(UserError, match="split train, row 2 has 5 steps, row 0 4; cut all to one length"):
        fetch_dataset(str(tmp_path / "theirs"))


def test_a_fault_in_the_last_split_leaves_nothing_of_the_first(tmp_path, cache):
    save_rows(tmp_path / "theirs", actions=rows().tolist())
    save_rows(tmp_path / "theirs", "validation", actions=spoiled(1, 1, 0, -1))
    with pytest.raises(UserError, match="split validation, row 1, step 1: x is -1"):
        fetch_dataset(str(tmp_path / "theirs"))
    assert not list(cache.rglob("*_actions.npy"))
    save_rows(tmp_path / "theirs", "validation", actions=rows(2).tolist())
    assert len(list(fetch_dataset(str(tmp_path / "theirs")).rglob("*_actions.npy"))) == 2


def test_splits_that_are_missing(tmp_path, flags, run, data, capsys):
    save_rows(tmp_path / "one", actions=rows(4, SEQ_LEN).tolist())
    assert train_verb(flags(dataset_name=tmp_path / "one", **FROM_HUB)) == 2
    assert "it has no split that is called validation or test; give --val_data_dir" in capsys.readouterr().err
    assert len(timeless(run(dataset_name=tmp_path / "one", data_dir=None))) == 2  # which flags() has
    save_rows(tmp_path / "two", "test", actions=rows().tolist())
    capsys.readouterr()
    assert train_verb(flags(dataset_name=tmp_path / "two", **FROM_HUB)) == 2
    one_line(capsys, "has the splits test; it needs one that is called train")


def test_without_a_network_the_flag_and_the_remedy_are_named_and_what_was_fetched_is_taken(
    layout, flags, run, monkeypatch, capsys, cache
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = flags(dataset_name="someone/strokes", **FROM_HUB)
    assert train_verb(words) == 2
    one_line(
        capsys, "--dataset_name someone/strokes is no folder here, and the Hub does not give it", "network", "hf auth login"
    )
    for age, revision in enumerate(("c0ffee", "decade")):
        shutil.copytree(fetch_dataset(str(layout)), cache / "someone--strokes" / "default" / revision)
        os.utime(cache / "someone--strokes" / "default" / revision, (0, 100 - age))
    assert train_verb(words) == 0
    assert f"read as it was fetched before, {cache}/someone--strokes/default/c0ffee" in capsys.readouterr().err
    assert train_verb(flags(dataset_name="no name", **FROM_HUB)) == 2
    one_line(capsys, "--dataset_name no name is neither a folder nor a name on the Hub; give ORG/NAME")


FETCH = """
import sys
from action_ddim.data.hub_dataset import fetch_dataset
from action_ddim.errors import UserError
for name in sys.argv[1:]:
    try:
        print(fetch_dataset(name))
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_two_processes_fetch_from_the_hub_once(data, layout, python, tmp_path, cache):
    """The client of the Hub as it is, in processes of its own, beside a server on this machine."""
    with HubServer(layout) as server, ThreadPoolExecutor() as pool:
        Thread(target=server.serve_forever, daemon=True).start()
        home = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        words = ("-c", FETCH, NAME, "someone/else")
        results = [future.result() for future in [pool.submit(python, *words, **home) for _ in range(2)]]
        server.shutdown()
    folder = cache / "someone--strokes" / "default" / COMMIT
    for result in results:
        assert result.returncode == 0, result.stderr
        fetched, refused = result.stdout.splitlines()
        assert fetched == str(folder)
        assert refused.startswith("--dataset_name someone/else is no folder here, and the Hub does not give it (404")
    for split in ("train", "val"):
        assert same_bits(everything(folder / split), everything(data / split))
        assert (folder / split / "dataset.json").read_bytes() == (data / split / "dataset.json").read_bytes()
    assert server.asked.count(f"GET /datasets/{NAME}/resolve/{COMMIT}/README.md") == 1


def test_without_its_package_it_is_named(layout, flags, monkeypatch, data, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    capsys.readouterr()
    assert train_verb(flags(dataset_name=layout, **FROM_HUB)) == 2
    one_line(capsys, '--dataset_name needs the package datasets; pip install "action-ddim[hub]"')
    assert main(["push-data", str(data), "a/b", "--out", str(tmp_path / "new")]) == 2
    one_line(capsys, "push-data needs the package datasets")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "a/b", "--out", "new"), "nowhere is not a folder"),
        (("train", "strokes"), "strokes is no name that the Hub takes; give ORG/NAME"),
        (("train", "a/b"), "push-data needs a token of the Hugging Face Hub"),
        (("train", "a/b", "--out", "train"), "--out train is not empty; name a new folder"),
        (("train",), "ORG/NAME"),
        (("mixed", "a/b", "--out", "new"), "hold sequences of 20 and 30 steps; cut all to one length"),
        (("bad", "a/b", "--out", "new"), "row 7: x is 2"),
        (("train", "a/b", "--out", "new", "--seq_len", 1), "--seq_len is 1; give at least 2"),
        (("twice", "a/b", "--out", "new"), "twice holds val and validation, which are one split; keep one of them"),
        (("both", "a/b", "--out", "new"), "both holds both *_actions.npy and train/"),
    ],
)
def test_mistakes_in_pushing_are_one_line(words, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    for name in ("train", "bad", "mixed/train", "twice/val", "twice/validation", "both", "both/train"):
        shutil.copytree(data / "train", tmp_path / name, dirs_exist_ok=True)
    spoilt = np.load("bad/part_00000_actions.npy")
    spoilt[7, 0] = 2
    np.save("bad/part_00000_actions.npy", spoilt)
    assert main(["generate", "--output_dir", "mixed/val", "--num_sequences", "1", "--sequence_length", "30"]) == 0
    capsys.readouterr()
    assert main(["push-data", *map(str, words)]) == 2
    one_line(capsys, message)
    assert not (tmp_path / "new").exists()


def test_what_is_uploaded_is_what_out_writes(data, layout, monkeypatch, capsys):
    seen = {}

    def upload_folder(self, folder_path, **settings):
        files = sorted(path for path in folder_path.rglob("*") if path.is_file())
        seen.update(settings, files={path.relative_to(folder_path): path.read_bytes() for path in files})

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **settings: seen.update(settings) or f"https://hub/{name}")
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert main(["push-data", str(data), "someone/strokes", "--private"]) == 0
    assert "are at https://hub/someone/strokes" in capsys.readouterr().out
    assert seen["files"] == {path.relative_to(layout): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert (seen["private"], seen["repo_type"], seen["delete_patterns"]) == (True, "dataset", ["data/*"])
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["push-data", str(data), "someone/strokes"]) == 2
    one_line(capsys, "the Hub does not take someone/strokes", "write it with --out")
