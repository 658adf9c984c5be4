"""Real processes: the doors as users open them."""

import json

import numpy as np
import pytest

from tests.conftest import REAL, SEQ_LEN, TRAINER, timeless

pytestmark = pytest.mark.slow


def test_python_and_accelerate_launch_train_the_same(python, flags, tmp_path):
    plain = python(TRAINER, *flags(save_dir="plain"))
    assert plain.returncode == 0, plain.stderr
    assert "model: plain/pipeline" in plain.stdout
    launched = python("-m", "accelerate.commands.launch", "--num_processes", 1, "--cpu", TRAINER, *flags(save_dir="launched"))
    assert launched.returncode == 0, launched.stderr
    assert timeless(tmp_path / "plain") == timeless(tmp_path / "launched")


def test_mistake_is_one_line_and_exit_code_2(python, flags):
    result = python(TRAINER, *flags(data_dir="nowhere"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: --data_dir nowhere is not a folder; name the one that holds your recordings, or ")
    assert result.stderr.count("\n") == 1


def test_comment_behind_a_backslash_is_explained(python):
    result = python(TRAINER, "--data_dir", "train", " ")
    assert result.returncode == 2
    assert "comments on lines of their own" in result.stderr


def test_out_of_memory_names_the_flags(python, flags):
    script = f"""
import resource, sys
import action_ddim.training.loop
from action_ddim.cli.main import train
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
sys.exit(train({flags(d_model=20000)!r}))
"""
    result = python("-c", script)
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: out of memory; reduce --batch_size")
    assert "--d_model" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_and_the_generator_do_not_wait_for_torch(python, tmp_path):
    script = """
import contextlib, sys
from action_ddim.cli.main import generate, main, train
for verb in ("train", "evaluate", "sample", "reconstruct"):
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
assert main(["sample", "--model", "m", "--num", "0", "--out", "a.npy"]) == 2
assert train([]) == 2
assert generate(["--output_dir", "generated", "--num_sequences", "3"]) == 0
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "generated" / "part_00000_actions.npy").exists()


def test_wandb_without_a_key_records_offline_and_says_so(python, flags, tmp_path):
    result = python(TRAINER, *flags(save_dir="run", report_to=None, num_epochs=1))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wandb has no key and records offline") == 1
    offline = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(offline) == 1
    assert b"num_parameters" in offline[0].read_bytes()


def test_wandb_mode_is_respected(python, flags, tmp_path):
    result = python(TRAINER, *flags(save_dir="run", report_to="wandb", num_epochs=1), WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "run").glob("wandb/*run-*"))


def test_module_generates_as_the_verb_does(python, tmp_path):
    words = ["--num_sequences", 5, "--sequence_length", 30, "--output_dir"]
    module = python("-m", "augmentation.generate_click_dataset", *words, "module")
    verb = python("-m", "action_ddim", "generate", *words, "verb")
    assert module.returncode == verb.returncode == 0, module.stderr + verb.stderr
    for name in ("part_00000_actions.npy", "dataset.json"):
        assert (tmp_path / "module" / name).read_bytes() == (tmp_path / "verb" / name).read_bytes()
    assert json.loads((tmp_path / "verb" / "dataset.json").read_text())["sequence_length"] == 30


def test_verbs_for_a_finished_model_load_it_in_a_fresh_process(python, model, tmp_path):
    words = ["--num_inference_steps", 4, "--model", model]
    drawn = python("-m", "action_ddim", "sample", *words, "--num", 3, "--out", "drawn.npy", "--plot", "drawn.png")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == f"3 sequences of {SEQ_LEN} steps are in drawn.npy\npicture: drawn.png\n"
    cleaned = python("-m", "action_ddim", "reconstruct", *words, "--input", "drawn.npy", "--out", "cleaned.npy")
    assert cleaned.returncode == 0, cleaned.stderr
    assert np.load(tmp_path / "cleaned.npy").shape == (3 * SEQ_LEN, 3)


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/real is not beside the checkout")
@pytest.mark.parametrize("name", ["sapimouse", "omniglot"])
def test_real_recordings_train(name, python, tmp_path):
    """One epoch of a small model: the data passes validation and the reconstruction is better than no reconstruction."""
    result = python(
        TRAINER,
        *("--data_dir", REAL / name / "train", "--val_data_dir", REAL / name / "val", "--save_dir", "run"),
        *("--d_model", 16, "--num_layers", 1, "--nhead", 2, "--num_epochs", 2, "--lr", 1e-3, "--eval_batch_size", 500),
        *("--report_to", "none", "--device", "cpu"),
    )
    assert result.returncode == 0, result.stderr
    assert float(timeless(tmp_path / "run")[-1]["val/mean_snr_db"]) > 5
