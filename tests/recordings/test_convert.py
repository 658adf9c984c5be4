"""`action-ddim import` from files to folders: what it writes, what it says of it, and what it refuses."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from action_ddim.cli.main import main
from action_ddim.data import writer
from action_ddim.data.dataset import ActionDataset
from tests.conftest import REAL, one_line

PEAK = """
import sys
from action_ddim.cli.main import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
HEADER = "client timestamp,button,state,x,y"


def import_data(*words):
    return main(["import", *map(str, words)])


def session(path: Path, seed: int, seconds: float = 10, rate: int = 100) -> Path:
    """Write a mouse log: a walk over a page of 1000 x 500 pixels, with a click a second."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) * 1000 // rate
    places = np.array([500, 250]) + np.cumsum(generator.normal(0, 4, (len(time), 2)), axis=0)
    places = np.abs(places).clip(0, [999, 499]).round().astype(int)
    pressed = time % 1000 < 100
    states = np.select([pressed & (time % 1000 == 0), pressed, time % 1000 == 100], ["Pressed", "Drag", "Released"], "Move")
    lines = [f"{t},Left,{state},{x},{y}" for t, state, (x, y) in zip(time, states, places, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.fixture
def logs(tmp_path) -> Path:
    """Five people with two sessions each, and a licence."""
    for user in range(5):
        for number in range(2):
            session(tmp_path / "logs" / f"user{user}" / f"session_{number}.csv", 10 * user + number)
    (tmp_path / "logs" / "LICENSE.txt").write_text("free\n")
    return tmp_path / "logs"


def windows(folder: Path) -> np.ndarray:
    data = ActionDataset(folder)
    data.validate()
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))]).reshape(-1, data.seq_len, 3)


def test_import_writes_data_that_trains_and_says_where_it_is_from(logs, tmp_path, capsys):
    out = tmp_path / "out"
    assert import_data(logs, "--rate", 100, "--seq_len", 100, "--screen", "1000x500", "--val_fraction", 0.2, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "10 files, 10,000 rows, of which 0 were dropped; 1 other files are no recordings (LICENSE.txt)" in printed
    assert f"80 windows of 4 groups are in {out / 'train'}" in printed
    assert f"20 windows of 1 groups are in {out / 'val'}" in printed
    train, val = windows(out / "train"), windows(out / "val")
    info = json.loads((out / "val" / "dataset.json").read_text())
    assert (info["sequence_length"], info["rate_hz"], info["seed"], info["num_sequences"]) == (100, 100, 0, 20)
    told = info["recordings"]
    assert (told["split"], told["split_by"], told["screen"], told["groups"]) == (
        "val",
        "user",
        "1000x500",
        {"train": 4, "val": 1},
    )
    assert told["counts"] == {"rows": 10000, "dropped": {}, "changed": {}, "windows_dropped": {}}
    for file in told["files"]:
        assert file["sha256"] == hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest()
        assert (file["format"], file["rows"], file["windows"]) == ("sapimouse", 1000, 10)
    # At the rate of the rows, steps are rows: all of them are there, those of each person on one side.
    raw = {}
    for path in sorted(logs.rglob("*.csv")):
        rows = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=None, encoding=None)
        press = np.isin(rows["f2"], ["Pressed", "Drag"])
        raw[path] = np.stack([rows["f3"] / 1000, rows["f4"] / 500, press], axis=1).reshape(10, 100, 3)
    found = {user: [np.allclose(raw[path], val[i : i + 10]) for path in raw if path.parent.name == user for i in (0, 10)]
             for user in {path.parent.name for path in raw}}  # fmt: skip
    (held_out,) = [user for user, matches in found.items() if any(matches)]
    assert np.allclose(val, np.concatenate([raw[path] for path in raw if path.parent.name == held_out]))
    assert np.allclose(train, np.concatenate([raw[path] for path in raw if path.parent.name != held_out]))


def test_the_same_import_is_the_same_bytes_and_another_seed_another_split(logs, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 3)):
        assert import_data(logs, "--windows", "press", "--seed", seed, "--out", tmp_path / name) == 0
    a, b, c = (
        [
            (path.name, path.read_bytes())
            for split in ("train", "val")
            for path in sorted((tmp_path / name / split).glob("*.npy"))
        ]
        for name in "abc"
    )
    assert a == b != c


@pytest.mark.parametrize("block_rows", [7, 100])
def test_blocks_leave_no_trace(logs, tmp_path, monkeypatch, block_rows):
    """What is read in pieces is what is read at once."""
    assert import_data(logs, "--out", tmp_path / "whole", "--val_fraction", 0) == 0
    monkeypatch.setattr("action_ddim.recordings.formats.tables.BLOCK_BYTES", 30 * block_rows)
    assert import_data(logs, "--out", tmp_path / "parts", "--val_fraction", 0) == 0
    assert (windows(tmp_path / "whole" / "train") == windows(tmp_path / "parts" / "train")).all()


def test_auto_screen_is_of_each_person(logs, tmp_path):
    session(logs / "user9" / "s.csv", 9).write_text(
        f"{HEADER}\n" + "".join(f"{8 * i},NoButton,Move,{i},{i}\n" for i in range(300))
    )
    assert import_data(logs, "--out", tmp_path / "out", "--val_fraction", 0) == 0
    told = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())["recordings"]
    assert told["screens"]["user9"] == [0, 0, 299, 299]
    assert windows(tmp_path / "out" / "train")[..., :2].max() == 1


def test_places_in_fractions_stay_what_they_are_beside_a_screen_in_pixels(logs, tmp_path):
    (tmp_path / "logs" / "far.csv").write_text(
        "time,x,y,press\n" + "".join(f"{8 * i},{i / 100},{i / 100},1\n" for i in range(100))
    )
    words = ("--place_unit", "fraction", "--screen", "1000x500", "--val_fraction", 0, "--seq_len", 100)
    assert import_data(logs, *words, "--out", tmp_path / "out") == 0
    reach = windows(tmp_path / "out" / "train")[..., :2].max(axis=(1, 2))
    assert np.isclose(reach, 0.99).sum() == 1
    assert reach.min() > 0.3  # of the mice, in pixels


def test_a_file_that_is_named_twice_is_taken_once(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out, sources in (("a", ["logs"]), ("b", ["logs", logs, logs / "user1" / "session_0.csv"])):
        assert import_data(*sources, "--out", out, "--val_fraction", 0) == 0
    assert (windows(tmp_path / "a" / "train") == windows(tmp_path / "b" / "train")).all()


def test_what_an_earlier_import_wrote_is_no_recording(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("time,x,y,press\n" + "".join(f"{8 * i},{i},{i},1\n" for i in range(300)))
    for _ in range(2):
        assert import_data(".", "--out", "recordings", "--val_fraction", 0, "--overwrite") == 0
        assert "1 files, 300 rows" in capsys.readouterr().out


def test_where_no_file_can_be_read_it_says_why(logs, tmp_path, capsys):
    only = logs / "user0" / "session_0.csv"
    (tmp_path / "table.csv").write_text("time,x,y,press\n0,1,2,3\n")
    for words, reason in (
        ((only, "--format", "omniglot"), "session_0.csv, line 1: 'client timestamp"),
        ((tmp_path / "table.csv", "--user_column", "who"), "has no column 'who', but time, x, y, press"),
    ):
        assert import_data(*words, "--out", tmp_path / "out") == 2
        one_line(capsys, reason)


def test_a_drawing_fills_the_square_around_it(tmp_path):
    strokes = [[{"x": 500 + i, "y": 900 + 2 * i, "time": 16 * i} for i in range(101)]]
    (tmp_path / "a.json").write_text(json.dumps(strokes))
    assert import_data(tmp_path / "a.json", "--out", tmp_path / "out", "--val_fraction", 0) == 0
    actions = windows(tmp_path / "out" / "train").reshape(-1, 3)
    pressed = actions[actions[:, 2] > 0]
    assert (pressed[0].tolist(), pressed[-1].tolist()) == ([0, 0, 1], [0.5, 1, 1])


def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(logs, tmp_path, capsys):
    broken = logs / "user2" / "session_1.csv"
    broken.write_text(broken.read_text() + "9999,Left,Pressed,here,5\n")
    assert import_data(logs, "--out", tmp_path / "out", "--val_fraction", 0) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: 1 files were left out: {broken} cannot be read")
    assert "Row #1002" in captured.err
    assert "9 files, 9,000 rows" in captured.out
    told = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())["recordings"]
    assert len(told["files"]) == 9
    assert str(broken) in told["unread"][0]
    assert import_data(logs, "--out", tmp_path / "strict", "--strict") == 2
    one_line(capsys, str(broken), "Row #1002", "--strict")
    assert not (tmp_path / "strict").exists()


def test_a_file_that_is_no_text_all_through_is_named(logs, tmp_path, capsys):
    (logs / "9_01.txt").write_bytes(b"START\n1,2,3\n" + b" " * 5000 + b"\xff\n")
    assert import_data(logs, "--out", tmp_path / "out", "--val_fraction", 0) == 1
    assert "9_01.txt is not text" in capsys.readouterr().err


def test_a_name_that_no_disk_takes_is_one_line(logs, tmp_path, capsys):
    assert import_data(logs, "--out", tmp_path / ("a" * 300)) == 2
    one_line(capsys, "--out", "cannot be written: File name too long")


def test_a_folder_in_use_is_refused_and_replaced_where_asked(logs, tmp_path, capsys):
    assert import_data(logs, "--out", tmp_path / "out") == 0
    before = (tmp_path / "out" / "val" / "dataset.json").read_text()
    capsys.readouterr()
    assert import_data(logs, "--out", tmp_path / "out", "--seed", 1) == 2
    one_line(capsys, "--out", "holds a data set", "--overwrite")
    assert (tmp_path / "out" / "val" / "dataset.json").read_text() == before
    # Without validation data, that of the import before goes: its people are in train now.
    assert import_data(logs, "--out", tmp_path / "out", "--val_fraction", 0, "--overwrite") == 0
    assert not list((tmp_path / "out" / "val").iterdir())
    np.save(tmp_path / "out" / "train" / "mine_actions.npy", np.zeros((250, 3)))
    capsys.readouterr()
    assert import_data(logs, "--out", tmp_path / "out", "--overwrite") == 2
    one_line(capsys, "mine_actions.npy", "not from here")


def test_an_import_that_fails_at_train_leaves_the_one_before(logs, tmp_path, monkeypatch, capsys):
    assert import_data(logs, "--out", tmp_path / "out") == 0
    before = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write_parts = writer._write_parts

    def full(folder, *rest):
        if folder.parent.name == "train":
            raise OSError(28, "No space left on device")
        write_parts(folder, *rest)

    monkeypatch.setattr(writer, "_write_parts", full)
    assert import_data(logs, "--out", tmp_path / "out", "--seed", 5, "--overwrite") == 2
    assert "No space left on device" in capsys.readouterr().err
    after = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert after == before


def test_values_parted_by_tabs(tmp_path):
    rows = "".join(f"{8 * step}\t{step}\t{step}\t1\n" for step in range(300))
    (tmp_path / "a.tsv").write_text("time\tx\ty\tpress\n" + rows)
    assert import_data(tmp_path / "a.tsv", "--delimiter", "\t", "--val_fraction", 0, "--out", tmp_path / "out") == 0
    assert len(windows(tmp_path / "out" / "train")) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], ["nowhere does not exist"]),
        (["--format", "csv"], ["holds no recordings", "see --format"]),
        (["--rate", 0], ["--rate is 0"]),
        (["--rate", "nan"], ["--rate is nan"]),
        (["--max_gap", -1], ["--max_gap is -1"]),
        (["--min_rate", 1000], ["give no window", "too_sparse"]),
        (["--val_fraction", 1], ["--val_fraction is 1"]),
        (["--seq_len", 1], ["--seq_len is 1"]),
        (["--seq_len", 99999999999], ["--seq_len is 99999999999; give at most 1000000"]),
        (["--rate", 1e300], ["--rate is 1e+300", "up to 1e+06"]),
        (["--seed", -1], ["--seed is -1"]),
        (["--screen", "0x5"], ["--screen is 0x5"]),
        (["--screen", "big"], ["big is no size"]),
        (["--delimiter", "tab"], ["--delimiter is 'tab'"]),
        (["--windows", "some"], ["--windows", "some"]),
    ],
)
def test_mistakes_are_one_line(logs, tmp_path, capsys, words, expected):
    sources = [tmp_path / words[0]] if words == ["nowhere"] else [logs, *words]
    assert import_data(*sources, "--out", tmp_path / "out") == 2
    one_line(capsys, *expected)
    assert not (tmp_path / "out").exists()


IN_DOUBT = "is the time column in the unit that --time_unit says?"


@pytest.mark.parametrize(
    ("unit", "scale", "ended", "expected"),
    [
        ("ms", 1, 0, ""),
        ("us", 1e3, 2, f"(1500 too_sparse); {IN_DOUBT}"),
        ("s", 1e-3, 2, "its rows lie 8e-06 s apart where column 'time' is in ms; name its unit by --time_unit, one of s, ms"),
    ],
)
def test_time_in_another_unit_is_refused(tmp_path, capsys, unit, scale, ended, expected):
    """Rows 8 ms apart; taken for ms, those in seconds lie 8 us apart, and those in microseconds 8 s."""
    rows = "".join(f"{8 * row * scale:.9g},{row % 300},{row % 200},0\n" for row in range(1500))
    (tmp_path / "log.csv").write_text("time,x,y,press\n" + rows)
    words = (tmp_path / "log.csv", "--out", tmp_path / "out", "--val_fraction", 0, "--idle", "hold")
    assert import_data(*words) == ended
    said = capsys.readouterr()
    assert expected in said.err
    assert IN_DOUBT not in said.out
    assert import_data(*words, "--time_unit", unit, "--overwrite") == 0
    assert IN_DOUBT not in capsys.readouterr().out


def test_rows_in_bursts_are_no_other_unit(tmp_path):
    """A device may send a row for x, and at once one for y."""
    rows = "".join(f"{8000 * (row // 2) + 20 * (row % 2)},{row % 300},{row % 200},0\n" for row in range(1500))
    (tmp_path / "log.csv").write_text("time,x,y,press\n" + rows)
    assert import_data(tmp_path / "log.csv", "--out", tmp_path / "out", "--val_fraction", 0, "--time_unit", "us") == 0


def test_rows_that_are_dropped_more_than_used_are_asked_about(tmp_path, capsys):
    """Pressed rows that lie alone still give windows."""
    rows = "".join(f"{8000 * row},{row % 300},{row % 200},{int(row % 3 == 0)}\n" for row in range(300))
    (tmp_path / "log.csv").write_text("time,x,y,press\n" + rows)
    assert import_data(tmp_path / "log.csv", "--out", tmp_path / "out", "--val_fraction", 0, "--min_rate", 0.01) == 0
    assert IN_DOUBT in capsys.readouterr().out


def test_what_is_ready_to_train_on_is_no_recording(data, tmp_path, capsys):
    assert import_data(data / "train", "--out", tmp_path / "out") == 2
    one_line(capsys, "holds no recordings", "*_actions.npy train as they are, by --data_dir")


def test_a_named_file_must_be_a_recording(logs, tmp_path, capsys):
    assert import_data(logs / "LICENSE.txt", "--out", tmp_path / "out") == 2
    one_line(capsys, "LICENSE.txt is of no format that is known", "--format", "--x_column", "--delimiter")
    only = next(logs.rglob("*.csv"))
    assert import_data(only, "--out", tmp_path / "out") == 2
    one_line(capsys, "--split_by user finds one user", "--val_fraction 0")


@pytest.mark.slow
def test_data_larger_than_memory_is_read_in_pieces(tmp_path, python):
    """Four times the rows take the same memory: more than a piece has, and no gap among them."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells the peak of a process alone")
    peaks = []
    for seconds in (4000, 16000):
        path = session(tmp_path / "user0" / f"{seconds}.csv", 0, seconds)
        flags = ["--screen", "1000x500", "--val_fraction", "0", "--overwrite"]
        results = [python("-c", PEAK, "import", path, *flags, "--out", tmp_path / f"out{seconds}") for _ in range(3)]
        assert not any(result.returncode for result in results), results[0].stderr
        peaks.append(min(int(result.stdout.splitlines()[-1]) / 1024 for result in results))  # one varies by up to 9 MB
    assert peaks[1] - peaks[0] < 43  # MB: 29 to 39, the windows among them; 52 to 66 where the rows of 33 bytes are kept


def test_every_real_file_imports(tmp_path, capsys):
    if not REAL.exists():
        pytest.skip("../shared/real is not there")
    assert import_data(REAL / "raw", "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "26 files, 23,290 rows, of which 3,459 were dropped; 9 other files" in out
    told = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())["recordings"]
    assert told["counts"]["dropped"] == {"equal_time": 3453, "backward_time": 3, "alone": 3}
    for file in told["files"]:
        if file["format"] == "sapimouse":
            assert file["rows"] == len(Path(file["path"]).read_text().splitlines()) - 1
