"""`action-ddim replay` as users call it, and its mistakes and those of `export --format onnx` in one line."""

import importlib.util
import json

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline
from action_ddim.cli import model as model_cli
from action_ddim.cli.main import main
from action_ddim.serving.replay import Event, events, render
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import SEQ_LEN, one_line


def call(*words) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def file(tmp_path):
    """A file of three sequences of 20 steps beside a dataset.json."""
    write_gestures(GestureConfig(3, sequence_length=SEQ_LEN), tmp_path / "data")
    return tmp_path / "data" / "part_00000_actions.npy"


@pytest.fixture
def actions(file) -> np.ndarray:
    return np.load(file).reshape(3, SEQ_LEN, 3)


def test_replay_says_the_events_of_the_file(file, actions, capsys):
    assert call("replay", file, "--screen", "800x600", "--rate", 50) == 0
    said = capsys.readouterr()
    assert [Event(**json.loads(line)) for line in said.out.splitlines()] == events(actions, 800, 600, 50)
    assert said.err == ""


@pytest.mark.parametrize("form", ["jsonl", "playwright", "pyautogui"])
def test_replay_writes_a_file_at_the_rate_of_the_data(form, file, actions, tmp_path, capsys):
    (file.parent / "dataset.json").write_text(json.dumps({"sequence_length": SEQ_LEN, "rate_hz": 25}))
    words = ("--format", form, "--num", 2, "--pause", 1, "--out", tmp_path / "new" / "replay")
    assert call("replay", file, *words) == 0
    assert "2 sequences of 0.8 s are in" in capsys.readouterr().out
    expected = render(events(actions[:2], 1920, 1080, 25, pause=1), form, 1920, 1080)
    assert (tmp_path / "new" / "replay").read_text() == expected


def test_length_is_that_of_the_file_where_nothing_says_it(actions, tmp_path, capsys):
    np.save(tmp_path / "a.npy", actions)
    assert call("replay", tmp_path / "a.npy", "--rate", 50) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(events(actions, 1920, 1080, 50))


def test_length_of_a_flat_file_is_told_or_guessed_aloud(actions, tmp_path, capsys):
    np.save(tmp_path / "a.npy", actions.reshape(-1, 3))
    assert call("replay", tmp_path / "a.npy", "--rate", 50, "--seq_len", SEQ_LEN) == 0
    said = capsys.readouterr()
    assert said.out == render(events(actions, 1920, 1080, 50), "jsonl", 1920, 1080)
    assert not said.err
    np.save(tmp_path / "b.npy", np.zeros((500, 3)))
    assert call("replay", tmp_path / "b.npy", "--rate", 50) == 0
    assert (
        "b.npy does not say how long a sequence is; taken for 2 sequences of 250 steps (--seq_len)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seq_len", 1), "--seq_len is 1; give at least 2"),
        ((), "says rate_hz; give the steps a second, such as --rate 100"),
        (("--rate", 0), "--rate is 0; give 0.001 to 1e+06"),
        (("--rate", 1e-320), "--rate is 9.99989e-321; give 0.001 to 1e+06"),
        (("--rate", 50, "--num", 0), "--num is 0"),
        (("--rate", 50, "--pause", -1), "--pause is -1"),
        (("--rate", 50, "--screen", "1920"), "1920 is no size; give width and height in pixels, as 1920x1080"),
        (("--rate", 50, "--screen", "0x9"), "--screen is 0x9; give 1x1 to 65536x65536"),
        (("--rate", 50, "--screen", f"5x{10**23}"), f"--screen is 5x{10**23}; give 1x1"),
        (("--rate", 50, "--format", "mouse"), "--format: invalid choice: 'mouse'"),
        (("--rate", 50, "--out", "there"), "--out there exists; name another, or add --overwrite"),
    ],
)
def test_mistakes_of_replay_are_one_line(words, message, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    assert call("replay", file, *words) == 2
    one_line(capsys, message)


def test_files_that_are_none_are_one_line(file, actions, tmp_path, capsys):
    actions[1, 1, 0] = 1.5
    np.save(tmp_path / "bad.npy", actions)
    (tmp_path / "text.npy").write_text("x,y,press")
    np.save(tmp_path / "odd.npy", np.zeros((41, 3)))
    with open(tmp_path / "several.npy", "wb") as several:
        np.savez(several, actions=actions)
    for name, message in (
        ("bad.npy", "row 21: x is 1.5"),
        ("text.npy", "cannot be read"),
        ("odd.npy", 'dataset.json beside it, {"sequence_length": ...}'),
        ("none.npy", "is not a file"),
        ("several.npy", "several.npy"),
    ):
        assert call("replay", tmp_path / name, "--rate", 50) == 2
        one_line(capsys, str(tmp_path / name), message)
    for said, message in (
        ("[1]", "cannot be read as a JSON object"),
        ('{"rate_hz": "fast"}', "says rate_hz 'fast', not a number"),
        ('{"rate_hz": 50, "sequence_length": 20.5}', "says sequence_length 20.5, not 2 steps or more"),
    ):
        (file.parent / "dataset.json").write_text(said)
        assert call("replay", file) == 2
        one_line(capsys, "dataset.json", message)


def test_a_replay_does_not_take_the_place_of_its_recording(file, capsys):
    before = file.read_bytes()
    assert call("replay", file, "--rate", 50, "--out", file, "--overwrite") == 2
    one_line(capsys, f"--out {file} is FILE; name another file")
    assert file.read_bytes() == before


def test_mistakes_of_an_export_as_onnx_are_one_line(model, tmp_path, monkeypatch, capsys):
    words = ("export", "--format", "onnx", "--out", tmp_path / "graphs")
    assert call(*words, "--model", model, "--num_inference_steps", 101) == 2
    one_line(capsys, "--num_inference_steps is 101; give at most 100")
    assert call(*words, "--model", model, "--num_inference_steps", 0) == 2
    one_line(capsys, "--num_inference_steps is 0")
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    assert call(*words, "--model", tmp_path / "other") == 2
    one_line(capsys, "--model", "exact DDIM steps, not those of DPMSolverMultistepScheduler")
    monkeypatch.setattr(model_cli, "find_spec", lambda name: None if name == "onnxscript" else importlib.util.find_spec(name))
    assert call(*words, "--model", model) == 2
    one_line(capsys, 'needs onnxscript, which is missing: pip install "action-ddim[onnx]"')
    assert not (tmp_path / "graphs").exists()
