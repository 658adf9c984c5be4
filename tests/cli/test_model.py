"""`action-ddim evaluate`, `sample`, `reconstruct` and `export` as users call them, and each of their mistakes in one line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from action_ddim import ActionDDIMPipeline
from action_ddim.actions import find_invalid
from action_ddim.cli.inputs import open_data
from action_ddim.cli.main import main
from action_ddim.data.dataset import ActionDataset
from action_ddim.evaluation.inference import reconstruction_generators
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import SEQ_LEN, one_line, wait_for

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"


def pipeline_of(model) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call(*words) -> int:
    return main([str(word) for word in words])


def test_sampled_file_is_a_data_set_and_does_not_depend_on_the_batch(model, tmp_path, capsys):
    words = ("sample", "--model", model, "--num", 7, "--num_inference_steps", 5)
    assert call(*words, "--out", tmp_path / "a" / "my_actions.npy", "--plot", tmp_path / "a" / "sheet.png") == 0
    assert capsys.readouterr().err == ""
    rows = np.load(tmp_path / "a" / "my_actions.npy")
    assert rows.shape == (7 * SEQ_LEN, 3)
    assert rows.dtype == np.float32
    assert find_invalid(rows) is None
    assert len(ActionDataset(tmp_path / "a", SEQ_LEN)) == 7
    assert Image.open(tmp_path / "a" / "sheet.png").format == "PNG"
    assert call(*words, "--out", tmp_path / "b.npy", "--batch_size", 3) == 0
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), rows, atol=1e-6)
    assert call(*words, "--out", tmp_path / "c.npy", "--seed", 1) == 0
    assert not np.allclose(np.load(tmp_path / "c.npy"), rows)
    assert call(*words, "--out", tmp_path / "d.npy", "--eta", 1) == 0
    assert not np.allclose(np.load(tmp_path / "d.npy"), rows)


@pytest.mark.slow
def test_compiled_model_draws_and_reconstructs_the_same(model, tmp_path):
    """A batch and a smaller last one, by the kernels that torch wrote; the press too, and the rests to the last bit."""
    torch._dynamo.reset()
    counters["stats"].clear()
    steps = ("--num_inference_steps", 5, "--batch_size", 4)
    draw = ("sample", "--model", model, "--num", 7, *steps)
    for flag in ((), ("--compile",)):
        assert call(*draw, "--out", tmp_path / f"drawn{len(flag)}.npy", *flag) == 0
        assert bool(counters["stats"]["calls_captured"]) == bool(flag)
        words = ("reconstruct", "--model", model, "--input", tmp_path / "drawn0.npy", *steps)
        assert call(*words, "--out", tmp_path / f"again{len(flag)}.npy", *flag) == 0
    for name in ("drawn", "again"):
        plain, compiled = np.load(tmp_path / f"{name}0.npy"), np.load(tmp_path / f"{name}1.npy")
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


@pytest.mark.parametrize("shape", [(5 * SEQ_LEN, 3), (5, SEQ_LEN, 3)])
def test_reconstruction_has_the_shape_of_its_input_and_is_that_of_the_pipeline(shape, model, data, tmp_path):
    actions = ActionDataset(data / "val").read(range(5)).numpy()
    np.save(tmp_path / "in.npy", actions.reshape(shape))
    words = ("--strength", 0.3, "--num_inference_steps", 20, "--seed", 4, "--batch_size", 2)
    files = ("--input", tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--plot", tmp_path / "out.png")
    assert call("reconstruct", "--model", model, *files, *words) == 0
    cleaned = np.load(tmp_path / "out.npy")
    assert cleaned.shape == shape
    generator = reconstruction_generators(4, np.arange(5))
    expected = pipeline_of(model).reconstruct(actions, 0.3, 20, generator=generator).actions
    np.testing.assert_allclose(cleaned.reshape(expected.shape), expected, atol=1e-5)
    assert Image.open(tmp_path / "out.png").width > 1000


@pytest.mark.parametrize("noise_std", ["auto", "0.01"])
def test_cleaning_says_the_noise_and_is_that_of_the_pipeline(noise_std, model, data, tmp_path, capsys):
    actions = ActionDataset(data / "val").read(range(5)).numpy()
    jitter = np.random.default_rng(0).normal(0, 0.01, (5, SEQ_LEN, 2))
    actions[..., :2] = (actions[..., :2] + jitter).clip(0, 1)
    actions[0, 3, 0] = 1.003  # where noise took it
    np.save(tmp_path / "in.npy", actions.reshape(-1, 3))
    files = ("--input", tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--plot", tmp_path / "clean.png")
    assert call("reconstruct", "--model", model, *files, "--noise_std", noise_std, "--batch_size", 2) == 0
    expected = pipeline_of(model).denoise(actions, None if noise_std == "auto" else 0.01)
    cleaned = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(cleaned, expected.actions.reshape(-1, 3), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cleaned[:, 2], actions.reshape(-1, 3)[:, 2])
    assert f"noise of {expected.noise_std:.5f} screens" in capsys.readouterr().out


def test_recording_without_noise_is_told_to_be_as_it_was(model, tmp_path, capsys):
    actions = np.zeros((2, SEQ_LEN, 3), np.float32)
    np.save(tmp_path / "in.npy", actions)
    words = ("--input", tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--noise_std", "auto")
    assert call("reconstruct", "--model", model, *words) == 0
    assert "as they were (no noise is found" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), actions)


def test_what_another_solver_cannot_do_is_one_line(model, data, tmp_path, capsys):
    pipeline = pipeline_of(model)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "dpm")
    capsys.readouterr()
    words = ("--model", tmp_path / "dpm")
    assert call("sample", *words, "--num", 1, "--num_inference_steps", 2, "--out", tmp_path / "a.npy") == 0
    assert call("sample", *words, "--num", 1, "--eta", 1, "--out", tmp_path / "b.npy") == 2
    one_line(capsys, "--eta is 1, and --model", "has a DPMSolverMultistepScheduler; leave it out")
    assert call("evaluate", *words, "--data_dir", data / "val") == 2
    one_line(capsys, "has a DPMSolverMultistepScheduler, which cannot be inverted")


def test_export_writes_what_the_pipeline_exports_and_the_model_card(model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# Strokes\n")
    assert call("export", "--model", tmp_path / "model", "--out", tmp_path / "new" / "exported") == 0
    written = capsys.readouterr()
    assert written.err == ""
    assert "trust_remote_code=True" in written.out
    exported = tmp_path / "new" / "exported"
    assert (exported / "README.md").read_text() == "# Strokes\n"
    pipeline_of(tmp_path / "model").export(tmp_path / "expected")
    expected = {path.relative_to(tmp_path / "expected"): path for path in (tmp_path / "expected").rglob("*") if path.is_file()}
    assert len(expected) > 10
    for name, path in expected.items():
        assert (exported / name).read_bytes() == path.read_bytes(), name


def test_code_of_an_exported_model_is_not_run(model, tmp_path, capsys):
    pipeline_of(model).export(tmp_path / "exported")
    capsys.readouterr()
    assert call("sample", "--model", tmp_path / "exported", "--num", 1, "--out", tmp_path / "a.npy") == 2
    one_line(capsys, "is an exported model with code of its own; name the folder it was exported from")


def test_nothing_is_replaced_unasked(model, tmp_path, capsys):
    words = ("sample", "--model", model, "--num", 1, "--num_inference_steps", 1, "--out", tmp_path / "a.npy")
    assert call(*words) == 0
    capsys.readouterr()
    before = (tmp_path / "a.npy").read_bytes()
    assert call(*words, "--seed", 9) == 2
    one_line(capsys, "--out", "exists", "--overwrite")
    assert (tmp_path / "a.npy").read_bytes() == before
    assert call(*words, "--seed", 9, "--overwrite") == 0
    assert (tmp_path / "a.npy").read_bytes() != before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a disk that is soon full")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def limited_folder(tmp_path):
    """A folder to which no file may be written that is larger than 2 kB."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disk", "limit", "reason"),
    [("small_disk", "resource.RLIM_INFINITY", "No space left"), ("limited_folder", "2000", "File too large")],
    ids=["full disk", "limit on files"],
)
def test_full_disk_is_one_line_and_leaves_nothing(disk, limit, reason, request, model, tmp_path, python):
    folder = request.getfixturevalue(disk)
    np.save(tmp_path / "in.npy", np.zeros((500 * SEQ_LEN, 3)))
    verbs = [
        ("sample", "--num", 500, "--num_inference_steps", 1, "--batch_size", 50, "--out", folder / "drawn.npy"),
        ("reconstruct", "--input", tmp_path / "in.npy", "--num_inference_steps", 2, "--out", folder / "clean.npy"),
        ("export", "--out", folder / "exported"),
        ("sample", "--num", 1, "--num_inference_steps", 1, "--out", tmp_path / "a.npy", "--plot", folder / "plot.png"),
    ]
    script = f"""
import json, resource, sys
from action_ddim.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
sys.exit({{main(words) for words in json.loads(sys.argv[1])}} != {{2}})
"""
    words = [[str(word) for word in (verb, "--model", model, *rest)] for verb, *rest in verbs]
    result = python("-c", script, json.dumps(words))
    assert result.returncode == 0, result.stderr
    lines = [
        line for line in result.stderr.splitlines() if "font_manager" not in line
    ]  # matplotlib's cache meets the limit too
    for words, line in zip(verbs, lines, strict=True):
        assert line.startswith(f"error: {words[-2]} {words[-1]} cannot be written: ")
        assert reason in line
    assert not list(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drawing_that_is_ended_leaves_nothing(number, model, start, tmp_path):
    words = ("--model", model, "--num", 10**6, "--num_inference_steps", 1, "--out", tmp_path / "new" / "drawn.npy")
    process = start("-m", "action_ddim", "sample", *words)
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("new/.*.partial")), process)
    # Python drops what a handler raises while it frees an object; a person presses again then.
    for _ in range(6):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(20) == 128 + number
            break
    assert process.poll() is not None
    assert "Traceback" not in process.output()
    assert not list((tmp_path / "new").iterdir())


def drop_tensor(folder):
    weights = load_file(folder / WEIGHTS)
    weights.pop("patch_in.proj.weight")
    save_file(weights, folder / WEIGHTS)


def spoil_tensor(folder):
    weights = load_file(folder / WEIGHTS)
    weights["patch_in.proj.weight"][0, 0] = np.nan
    save_file(weights, folder / WEIGHTS)


def wrong_width(folder):
    config = json.loads((folder / "denoiser" / "config.json").read_text())
    (folder / "denoiser" / "config.json").write_text(json.dumps({**config, "d_model": 32}))


def truncate(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


DAMAGES = {
    "missing": shutil.rmtree,
    "empty": lambda folder: (folder / "model_index.json").unlink(),
    "broken index": lambda folder: (folder / "model_index.json").write_text("{"),
    "another class": lambda folder: (folder / "model_index.json").write_text(
        (folder / "model_index.json").read_text().replace("ActionTransformer1DModel", "UNet2DModel")
    ),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "truncated weights": truncate,
    "a tensor is missing": drop_tensor,
    "NaN weights": spoil_tensor,
    "wrong width": wrong_width,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_is_one_line(damage, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    DAMAGES[damage](tmp_path / "model")
    assert call("sample", "--model", tmp_path / "model", "--num", 1, "--out", tmp_path / "a.npy") == 2
    reason = "patch_in.proj.weight are missing or not finite" if damage in ("a tensor is missing", "NaN weights") else ""
    one_line(capsys, f"--model {tmp_path / 'model'}", reason)
    assert not (tmp_path / "a.npy").exists()


def test_run_folder_is_not_its_pipeline(model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "run" / "pipeline")
    assert call("sample", "--model", tmp_path / "run", "--num", 1, "--out", tmp_path / "a.npy") == 2
    one_line(capsys, f"name {tmp_path / 'run' / 'pipeline'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "--num", 1, "--out", "a.txt"), "--out a.txt does not end in .npy"),
        (("sample", "--num", 1, "--out", "a.npy", "--plot", "a.pdf"), "--plot a.pdf does not end in .png"),
        (("sample", "--num", 0, "--out", "a.npy"), "--num is 0"),
        (("sample", "--num", 1, "--out", "a.npy", "--num_inference_steps", 101), "--num_inference_steps is 101"),
        (("sample", "--num", 1, "--out", "a.npy", "--eta", 1.5), "--eta is 1.5"),
        (("sample", "--num", 1, "--out", "a.npy", "--seed", -1), "--seed is -1"),
        (("sample", "--num", 1, "--out", "folder.npy"), "--out folder.npy is a folder"),
        (("sample", "--num", 1, "--out", "in.npy/a.npy"), "cannot be written"),
        (("sample", "--num", 1), "--out"),
        (("reconstruct", "--input", "in.npy", "--out", "a.npy", "--strength", 0), "--strength is 0"),
        (("reconstruct", "--input", "in.npy", "--out", "a.npy", "--noise_std", "much"), "--noise_std is much; give a number"),
        (("reconstruct", "--input", "in.npy", "--out", "a.npy", "--noise_std", 0), "--noise_std is 0; give a number"),
        (("reconstruct", "--input", "in.npy", "--out", "in.npy", "--overwrite"), "is the --input"),
        (("reconstruct", "--input", "none.npy", "--out", "a.npy"), "--input none.npy is not a file"),
        (("reconstruct", "--input", "bad.npy", "--out", "a.npy"), "row 21: x is 1.5"),
        (("reconstruct", "--input", "odd.npy", "--out", "a.npy"), "has 41 rows"),
        (("reconstruct", "--input", "text.npy", "--out", "a.npy"), "cannot be read"),
        (("evaluate", "--data_dir", "longer", "--recon_steps", 101), "--recon_steps is 101"),
        (("evaluate", "--data_dir", "nowhere"), "--data_dir nowhere is not a folder"),
        (("evaluate", "--data_dir", "longer"), "longer holds sequences of 30 steps"),
        (
            ("evaluate", "--data_dir", "unsaid"),
            "20 steps a sequence; give their length as sequence_length in",
        ),
        (("evaluate", "--data_dir", "longer", "--num_samples", 0), "--num_samples is 0"),
        (("evaluate", "--data_dir", "longer", "--out", "report"), "report.html exists"),
        (
            ("evaluate", "--data_dir", "longer", "--update_card"),
            "has no README.md; name the pipeline/ that a training run leaves",
        ),
        (("export", "--out", "report"), "--out report is not empty; name a new folder"),
        (("export", "--out", "in.npy"), "--out in.npy is a file"),
        (("export", "--out", "in.npy/exported"), "cannot be written"),
        (("export",), "--out"),
    ],
)
def test_mistakes_are_one_line(words, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    actions = np.full((2 * SEQ_LEN, 3), 0.0, dtype=np.float32)
    np.save("in.npy", actions)
    np.save("odd.npy", np.zeros((41, 3)))
    actions[21, 0] = 1.5
    np.save("bad.npy", actions)
    (tmp_path / "text.npy").write_text("x,y,press")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    write_gestures(GestureConfig(2, sequence_length=30), "longer")
    write_gestures(GestureConfig(1, sequence_length=30), "unsaid")
    (tmp_path / "unsaid" / "dataset.json").unlink()
    capsys.readouterr()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert call(words[0], "--model", model, *words[1:]) == 2
    one_line(capsys, message)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_description_without_a_length_leaves_it_to_the_model(data, tmp_path):
    shutil.copytree(data / "val", tmp_path / "val")
    (tmp_path / "val" / "dataset.json").write_text(json.dumps({"rate_hz": 100}))
    assert len(open_data(str(tmp_path / "val"), "model", SEQ_LEN)) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_where_there_is_none(model, tmp_path, capsys):
    assert call("sample", "--model", model, "--num", 1, "--out", tmp_path / "a.npy", "--device", "cuda") == 2
    one_line(capsys, "--device is cuda")


@pytest.mark.parametrize("verb", ["evaluate", "sample", "reconstruct"])
def test_help_names_every_flag_with_its_default(verb, capsys):
    with pytest.raises(SystemExit):
        call(verb, "--help")
    text = capsys.readouterr().out
    assert f"usage: action-ddim {verb}" in text
    assert "--num_inference_steps" in text
    assert "(default: 256)" in text
