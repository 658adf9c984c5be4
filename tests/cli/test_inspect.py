"""`action-ddim inspect` on a folder and on two: what it prints, and what it writes."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from action_ddim.cli.main import main
from tests.conftest import SEQ_LEN, one_line


@pytest.fixture
def folders(data, tmp_path):
    """The data of other tests with a rate; the validation data holds a training window and one that leaps."""
    for name in ("train", "val"):
        shutil.copytree(data / name, tmp_path / name)
        info = tmp_path / name / "dataset.json"
        info.write_text(json.dumps({**json.loads(info.read_text()), "rate_hz": 50}))
    train = np.load(tmp_path / "train" / "part_00001_actions.npy")
    leap = np.full((SEQ_LEN, 3), (0.1, 0.5, 0))
    leap[SEQ_LEN // 2 :, 0] = 0.9
    np.save(tmp_path / "val" / "more_actions.npy", np.concatenate([train[2 * SEQ_LEN : 3 * SEQ_LEN], leap]))
    return tmp_path


def inspect(*words):
    return main(["inspect", *map(str, words)])


def test_two_folders_are_set_side_by_side(folders, capsys):
    train, val, out = folders / "train", folders / "val", folders / "out"
    assert inspect(train, val, "--out", out, "--num", 3) == 0
    printed = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in printed
    numbers = json.loads((out / "report.json").read_text())
    first, second = numbers["folders"]
    assert [(one["folder"], one["windows"], one["rate_hz"]) for one in (first, second)] == [
        (str(train), 12, 50),
        (str(val), 7, 50),
    ]
    assert (numbers["shared"], numbers["shared_named"]) == (1, [["more_actions.npy", 0]])
    assert ["more_actions.npy", 1] in second["named"]["jump"]
    assert second["suspicious"]["jump"] == len(second["named"]["jump"])
    actions = np.concatenate([np.load(path) for path in sorted(train.glob("*.npy"))])
    assert first["figures"]["press_share"] == pytest.approx(actions[:, 2].mean())
    page = (out / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    for text in (f"{100 * actions[:, 2].mean():.1f} %", "more_actions.npy 1"):
        assert text in printed
        assert text in page
    assert f"Suspicious windows of {val}" in page
    images = [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall(r"base64,([^\"]+)", page)]
    assert len(images) == 4  # random and suspicious windows of each
    assert all(np.asarray(image).std() > 10 for image in images)  # each shows something


@pytest.mark.slow
def test_random_windows_are_those_of_the_seed(folders):
    pages = []
    for number, seed in enumerate((0, 0, 1)):
        assert inspect(folders / "train", "--out", folders / str(number), "--num", 2, "--seed", seed) == 0
        pages.append((folders / str(number) / "report.html").read_text())
    assert pages[0] == pages[1] != pages[2]
    captions = [
        re.findall(r"part_0000\d_actions\.npy \d+", page.partition("row by row")[2].partition("<")[0]) for page in pages
    ]
    assert [len(set(names)) for names in captions] == [2, 2, 2]


def test_what_the_trainer_refuses_is_invalid_in_the_files_own_type(folders, capsys):
    rows = np.load(folders / "train" / "part_00000_actions.npy").astype(np.float64)
    rows[3, 0] = 1 + 1e-9
    np.save(folders / "train" / "part_00000_actions.npy", rows)
    assert inspect(folders / "train") == 0
    assert "row 3 (window 0): x is 1.000000001, outside [0, 1]" in capsys.readouterr().out


@pytest.mark.slow
def test_invalid_data_is_explained_and_not_refused(folders, capsys):
    path = folders / "train" / "part_00000_actions.npy"
    rows = np.load(path)
    rows[SEQ_LEN + 1, 0] = np.nan
    np.save(path, rows)
    (folders / "train" / "bad_actions.npy").write_text("x")
    assert inspect(folders / "train", "--out", folders / "out", "--num", 1) == 0
    printed = capsys.readouterr().out
    assert f"part_00000_actions.npy, row {SEQ_LEN + 1} (window 1): x is nan" in printed
    assert "bad_actions.npy cannot be read" in printed
    assert "Suspicious windows of" in (folders / "out" / "report.html").read_text()
    assert json.loads((folders / "out" / "report.json").read_text())["folders"][0]["suspicious"]["invalid"] == 1
    assert (
        main(["train", "--data_dir", str(folders / "train"), "--val_data_dir", str(folders / "val"), "--report_to", "none"])
        == 2
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere is not a folder"),
        (("train", "--rate", 0), "--rate is 0"),
        (("train", "--rate", 60), "--rate is 60, but train/dataset.json says 50"),
        (("train", "--seq_len", 7), "--seq_len is 7, but train/dataset.json says 20"),
        (("train", "--num", 0), "--num is 0"),
        (("train", "--out", "train/dataset.json"), "cannot be written"),
        (("train", "--out", "report"), "report.html exists"),
        (("train", "val", "train"), "unrecognized arguments"),
        (("empty",), "holds no *_actions.npy"),
        (("train", ""), "an argument is blank: a variable of the shell may be unset"),
    ],
)
def test_mistakes_are_one_line(words, message, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    for name in ("report", "empty"):
        (folders / name).mkdir()
    (folders / "report" / "report.html").touch()
    assert inspect(*words) == 2
    one_line(capsys, message)
