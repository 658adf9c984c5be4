"""Every mistake of a user's ends in one line that names it, and exit code 2, before any training."""

import json
import shutil
from contextlib import suppress

import huggingface_hub
import numpy as np
import pytest
import torch

from action_ddim import __version__
from action_ddim.cli import main as cli
from action_ddim.cli.main import generate, main, train
from tests.conftest import one_line

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")


def rows(folder):
    return np.load(folder / "part_00000_actions.npy")


def rewrite(change):
    """Return a fault that changes the rows of a file."""

    def spoil(folder):
        np.save(folder / "part_00000_actions.npy", change(rows(folder)))

    return spoil


def put(row, channel, value):
    def change(array):
        array[row, channel] = value
        return array

    return rewrite(change)


def overwrite(content: bytes):
    return lambda folder: (folder / "part_00000_actions.npy").write_bytes(content)


def truncate(folder):
    path = folder / "part_00000_actions.npy"
    path.write_bytes(path.read_bytes()[:-100])


def empty_folder(folder):
    for path in folder.glob("*.npy"):
        path.unlink()


FAULTS = {
    "missing folder": (shutil.rmtree, "is not a folder"),
    "no files": (empty_folder, "holds no *_actions.npy"),
    "truncated": (truncate, "part_00000_actions.npy cannot be read"),
    "empty": (overwrite(b""), "part_00000_actions.npy cannot be read"),
    "not npy": (overwrite(b"x,y,press\n0.1,0.2,0\n"), "part_00000_actions.npy cannot be read"),
    "objects": (rewrite(lambda a: a.astype(object)), "part_00000_actions.npy cannot be read"),
    "complex": (rewrite(lambda a: a.astype(complex)), "holds complex128, not real numbers"),
    "two columns": (rewrite(lambda a: a[:, :2]), "has the shape (140, 2), not (rows, 3)"),
    "a row too many": (rewrite(lambda a: np.vstack([a, a[:1]])), "has 141 rows, not a multiple of the 20 steps"),
    "NaN": (put(31, 0, np.nan), "part_00000_actions.npy, row 31: x is nan"),
    "infinity": (put(32, 1, np.inf), "part_00000_actions.npy, row 32: y is inf"),
    "x outside": (put(33, 0, 1.01), "row 33: x is 1.01, outside [0, 1]"),
    "y outside": (put(34, 1, -0.01), "row 34: y is -0.01, outside [0, 1]"),
    "half a press": (put(35, 2, 0.5), "row 35: press is 0.5, not 0 or 1"),
    "length contradicted": (
        lambda folder: (folder / "dataset.json").write_text(json.dumps({"sequence_length": 10})),
        "give folders of the same length",
    ),
    "broken dataset.json": (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json cannot be read"),
}


@pytest.mark.parametrize("flag", ["data_dir", "val_data_dir"])
@pytest.mark.parametrize(
    ("name", "fault"), [("nowhere", "is not a folder"), ("file", "is a file"), ("n" * 300, "cannot be read")]
)
def test_folder_that_is_none_is_named_with_its_flag(flag, name, fault, flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train(flags(**{flag: tmp_path / name})) == 2
    one_line(capsys, f"--{flag} {tmp_path / name} {fault}")


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data(fault, data, flags, tmp_path, capsys):
    shutil.copytree(data / "train", tmp_path / "bad")
    spoil, message = FAULTS[fault]
    spoil(tmp_path / "bad")
    assert train(flags(data_dir=tmp_path / "bad")) == 2
    one_line(capsys, str(tmp_path / "bad"), message)
    assert not (tmp_path / "run").exists()


def test_bad_validation_data(data, flags, tmp_path, capsys):
    shutil.copytree(data / "val", tmp_path / "bad")
    put(7, 0, 2.0)(tmp_path / "bad")
    assert train(flags(val_data_dir=tmp_path / "bad")) == 2
    one_line(capsys, str(tmp_path / "bad"), "row 7: x is 2")


def test_length_against_dataset_json(flags, capsys):
    assert train(flags(seq_len=10)) == 2
    one_line(capsys, "--seq_len is 10", "says 20")


def test_heads_that_do_not_divide_the_width(flags, capsys):
    assert train(flags(nhead=3)) == 2
    one_line(capsys, "--d_model 16 is not divisible by --nhead 3")


@without_gpu
def test_cuda_where_there_is_none(flags, capsys):
    assert train(flags(device="cuda")) == 2
    one_line(capsys, "--device is cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
def test_gpu_of_a_mac_where_there_is_none(flags, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # or the run sets it for all that follows
    assert train(flags(device="mps")) == 2
    one_line(capsys, "--device is mps, but torch finds no GPU of a Mac here; use --device auto or cpu")
    words = ["--model", model, "--num", 1, "--out", tmp_path / "a.npy", "--device", "mps"]
    assert main(["sample", *map(str, words)]) == 2
    one_line(capsys, "--device is mps, but torch finds no GPU of a Mac here")


@without_gpu
def test_half_precision_on_a_cpu(flags, capsys):
    assert train(flags(mixed_precision="fp16")) == 2
    one_line(capsys, "--mixed_precision fp16 needs a GPU")


@without_gpu
def test_half_precision_from_the_launcher_on_a_cpu(flags, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert train(flags()) == 2
    one_line(capsys, "--mixed_precision fp16 needs a GPU")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision is fp8, by accelerate launch"),
        ("ACCELERATE_USE_CPU", "maybe", "ACCELERATE_USE_CPU: invalid truth value maybe; give true or false"),
    ],
)
def test_what_a_launcher_says_that_cannot_be(name, value, message, flags, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert train(flags(device="auto")) == 2
    one_line(capsys, message)


def test_compile_without_a_compiler(flags, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert train(flags(**{"compile": True})) == 2
    one_line(capsys, "--compile needs a C++ compiler")
    assert main(["sample", "--model", str(model), "--num", "1", "--out", str(tmp_path / "a.npy"), "--compile"]) == 2
    one_line(capsys, "--compile needs a C++ compiler")


def test_negative_memory(flags, capsys):
    assert train(flags(data_memory_gb=-1)) == 2
    one_line(capsys, "--data_memory_gb is -1; give at least 0")


def test_mistake_that_only_another_process_meets_is_told_by_it(flags, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SPEAK_AFTER_S", 0)
    monkeypatch.setenv("RANK", "3")
    assert train(flags(data_dir="nowhere")) == 2
    assert capsys.readouterr().err.startswith("error on process 3: --data_dir nowhere is not a folder")


def test_save_dir_that_is_a_file(flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train(flags(save_dir=tmp_path / "file")) == 2
    one_line(capsys, "--save_dir", "is a file")


def test_save_dir_that_cannot_be_written(flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train(flags(save_dir=tmp_path / "file" / "run")) == 2
    one_line(capsys, "--save_dir", "cannot be written")


def test_save_dir_with_an_earlier_run_among_other_files(flags, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"action_ddim": "0.1.0"}))
    (tmp_path / "run" / "thesis.tex").touch()
    assert train(flags()) == 2
    one_line(capsys, "--save_dir", "thesis.tex")
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_folder_that_is_no_run_is_kept(flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    assert train(flags(num_epochs=1)) == 0
    assert (tmp_path / "run" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--output_dir"),
        (["--output_dir", "d", "--num_sequences", "0"], "--num_sequences is 0"),
        (["--output_dir", "d", "--min_delta_t_pct", "0.5"], "--min_delta_t_pct 0.5"),
        (["--output_dir", "d", "--action_type", "tap"], "--action_type"),
        (["--output_dir", "d", "--sequences_per_file", "0"], "--sequences_per_file is 0"),
    ],
)
def test_generator_mistakes(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert generate(words) == 2
    one_line(capsys, message)
    assert not (tmp_path / "d").exists()


def test_generator_does_not_write_over_data(tmp_path, capsys):
    words = ["--output_dir", str(tmp_path / "d"), "--num_sequences", "2"]
    assert generate(words) == 0
    capsys.readouterr()
    assert generate(words) == 2
    one_line(capsys, "--overwrite")
    assert generate([*words, "--overwrite"]) == 0


def test_verbs_are_shown(capsys):
    assert main([]) == 2
    assert "generate" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "generate" in capsys.readouterr().out
    assert main(["dream"]) == 2
    one_line(capsys, "dream is not a verb; choose from train, generate")


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "train"), ("--train", "train"), ("eval", "evaluate"), ("smaple", "sample")]
)
def test_verb_that_is_misspelled_is_told_which_is_meant(word, meant, capsys):
    assert main([word, "--data_dir", "d"]) == 2
    one_line(capsys, f"{word} is not a verb; did you mean {meant}?")


@pytest.mark.parametrize(
    ("verb", "words", "meant"),
    [
        (train, ["--epochs", "3"], "--num_epochs"),
        (train, ["--batchsize", "3"], "--batch_size"),
        (train, ["--num-epochs=3"], "--num_epochs"),
        (train, ["--output_dir", "d"], "--save_dir"),
        (train, ["--learning_rate", "1e-4"], "--lr"),
        (train, ["--train_batch_size", "3"], "--batch_size"),
        (train, ["--num_train_epochs", "3"], "--num_epochs"),
        (train, ["--train_data_dir", "d"], "--data_dir"),
        (train, ["-lr", "-1"], "--lr"),
        (generate, ["--num_sequence", "3"], "--num_sequences"),
        (generate, ["--output", "d"], "--output_dir"),
        (lambda words: main(["sample", *words]), ["--num_samples", "3"], "--num"),
        (lambda words: main(["evaluate", *words]), ["--output_dir", "d"], "--out"),
    ],
)
def test_flag_by_another_name_is_told_which_is_meant(verb, words, meant, capsys):
    """Also where argparse would first miss a flag that is required."""
    assert verb(words) == 2
    one_line(capsys, f"{words[0].split('=')[0]} is not a flag; did you mean {meant}?")


def test_flag_that_is_like_none_is_said_to_be_none(flags, capsys):
    assert train([*flags(), "--colour", "red"]) == 2
    one_line(capsys, "--colour is not a flag; --help lists the flags")
    assert train(flags(lr=-1)) == 2  # a number is no flag
    one_line(capsys, "--lr is -1; give a number above 0")


@pytest.mark.parametrize("verb", [main, train, generate, lambda words: main(["sample", *words])])
def test_version(verb, capsys):
    with suppress(SystemExit):
        verb(["--version"])
    assert capsys.readouterr().out == f"action-ddim {__version__}\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"push_to_hub": True}, "--push_to_hub and --hub_model_id go together"),
        ({"hub_model_id": "someone/strokes"}, "--push_to_hub and --hub_model_id go together"),
        ({"push_to_hub": True, "hub_model_id": "some one"}, "--hub_model_id is 'some one', no name that the Hub takes"),
        ({"push_to_hub": True, "hub_model_id": "someone/strokes"}, "`hf auth login`"),
    ],
)
def test_upload_that_cannot_be_is_refused_before_the_first_step(changes, message, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert train(flags(**changes)) == 2
    one_line(capsys, message)
    assert not (tmp_path / "run").exists()
