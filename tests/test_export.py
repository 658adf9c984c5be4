"""The self-contained form: a folder that loads where this package is not installed."""

import json
import re
from pathlib import Path

import diffusers.utils.hub_utils
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from huggingface_hub import RepoUrl

import action_ddim.export
from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.evaluation.model_card import model_card
from action_ddim.inpainting import build_mask
from tests.conftest import SEQ_LEN
from tests.evaluation.test_model_card import CONFIG
from tests.gaussian import make_scheduler

# As where it is not installed, in whichever way it is installed here.
WITHOUT_THE_PACKAGE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "action_ddim":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
LOAD = """
import numpy as np, torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
names = [type(part).__name__ for part in (pipeline, pipeline.denoiser, pipeline.scheduler)]
assert names == ["ActionDDIMPipeline", "ActionTransformer1DModel", "ExactDDIMScheduler"], names
pipeline.set_progress_bar_config(disable=True)
expected = np.load(sys.argv[2])
# Weights that are mapped from a file lie at other addresses, where sums may differ in their last bits.
actions = pipeline(3, generator=torch.Generator().manual_seed(0)).actions
np.testing.assert_allclose(actions, expected["drawn"], rtol=0, atol=1e-6)
filled = pipeline(known=expected["known"], mask=expected["mask"], generator=torch.Generator().manual_seed(0)).actions
np.testing.assert_allclose(filled, expected["filled"], rtol=0, atol=1e-6)
np.testing.assert_array_equal(filled[:, expected["mask"]], expected["known"][None, expected["mask"]])
latents = pipeline.invert(expected["known"][None], 5, generator=torch.Generator().manual_seed(0)).latents
np.testing.assert_allclose(latents.numpy(), expected["latents"], rtol=0, atol=1e-3)
assert "action_ddim" not in sys.modules
"""


@pytest.fixture
def pipeline() -> ActionDDIMPipeline:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=SEQ_LEN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pipeline = ActionDDIMPipeline(denoiser.eval(), make_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_exported_folder_loads_without_the_package_and_exports_itself_again(pipeline, tmp_path, python):
    known, mask = np.random.default_rng(0).random((SEQ_LEN, 3), dtype=np.float32), build_mask(SEQ_LEN, prefix=4, end=True)

    def seeded():
        return torch.Generator().manual_seed(0)

    np.savez(
        tmp_path / "expected.npz",
        drawn=pipeline(3, generator=seeded()).actions,
        known=known,
        mask=mask,
        filled=pipeline(known=known, mask=mask, generator=seeded()).actions,
        latents=pipeline.invert(known[None], 5, generator=seeded()).latents,
    )
    pipeline.export(tmp_path / "exported")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = (tmp_path / "exported", tmp_path / "expected.npz")
    settings = {"cwd": elsewhere, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    script = f"{WITHOUT_THE_PACKAGE}{LOAD}\npipeline.export('again')\n"
    result = python("-I", "-c", script, *arguments, **settings)
    assert result.returncode == 0, result.stderr
    assert files(elsewhere / "again") == files(tmp_path / "exported")
    settings["HF_MODULES_CACHE"] = str(tmp_path / "other modules")
    result = python("-I", "-c", WITHOUT_THE_PACKAGE + LOAD, elsewhere / "again", tmp_path / "expected.npz", **settings)
    assert result.returncode == 0, result.stderr


def test_exported_folder_holds_the_code_beside_the_weights(pipeline, tmp_path):
    pipeline.export(tmp_path / "exported")
    exported = files(tmp_path / "exported")
    assert {
        "model_index.json",
        "pipeline.py",
        "actions.py",
        "denoiser/denoiser.py",
        "denoiser/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler.py",
        "scheduler/scheduler_config.json",
    } <= set(exported)
    index = json.loads(exported["model_index.json"])
    assert index["_class_name"] == ["pipeline", "ActionDDIMPipeline"]
    assert index["denoiser"] == ["denoiser", "ActionTransformer1DModel"]
    assert index["scheduler"] == ["scheduler", "ExactDDIMScheduler"]


def test_compiled_denoiser_is_exported_as_what_it_is(pipeline, tmp_path):
    compiled = ActionDDIMPipeline(torch.compile(pipeline.denoiser), pipeline.scheduler)
    compiled.export(tmp_path / "compiled")
    pipeline.export(tmp_path / "plain")
    for part in sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()):
        assert (tmp_path / "compiled" / part).read_bytes() == (tmp_path / "plain" / part).read_bytes(), part


def test_stock_scheduler_needs_no_code(pipeline, tmp_path):
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.export(tmp_path / "exported")
    index = json.loads((tmp_path / "exported" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]
    assert not list((tmp_path / "exported" / "scheduler").glob("*.py"))


def test_folder_that_holds_something_is_refused(pipeline, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        pipeline.export(tmp_path)
    with pytest.raises(ValueError, match="is not an empty folder"):
        pipeline.export(tmp_path / "note.txt")
    assert list(files(tmp_path)) == ["note.txt"]


@pytest.fixture
def with_card(pipeline, tmp_path, monkeypatch) -> ActionDDIMPipeline:
    """The pipeline as it is loaded from a folder with a card and a figure, as a run leaves it."""
    monkeypatch.chdir(tmp_path)
    pipeline.save_pretrained("loaded")
    (tmp_path / "loaded" / "README.md").write_text(model_card(CONFIG, {}, {}, updates=0, has_figure=True))
    (tmp_path / "loaded" / "reconstructions.png").write_bytes(b"PNG")
    return ActionDDIMPipeline.from_pretrained("loaded")


def code_of(card: str) -> str:
    return re.search("```python\n(.*?)```", card, re.DOTALL)[1]


def test_card_and_figure_go_with_the_model_and_say_how_it_loads(with_card, tmp_path):
    with_card.export(tmp_path / "exported")
    exported, original = files(tmp_path / "exported"), files(tmp_path / "loaded")
    assert exported["reconstructions.png"] == b"PNG"
    card = exported["README.md"].decode()
    pipeline = 'DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)'
    assert f"from diffusers import DiffusionPipeline\n\npipeline = {pipeline}\n" in code_of(card)
    assert "action_ddim" not in code_of(card)
    assert card.replace(code_of(card), "") == original["README.md"].decode().replace(
        code_of(original["README.md"].decode()), ""
    )
    assert not any(b"_name_or_path" in content for name, content in exported.items() if name.endswith(".json"))


@pytest.mark.slow
def test_code_of_an_exported_card_runs_where_the_package_is_not_installed(with_card, tmp_path, python):
    with_card.export(tmp_path / "exported")
    code = code_of((tmp_path / "exported" / "README.md").read_text()).replace("path/to/this/folder", str(tmp_path / "exported"))
    settings = {"PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    script = f"{WITHOUT_THE_PACKAGE}\n{code}\nassert actions.shape == (10, {SEQ_LEN}, 3)"
    result = python("-I", "-c", script, **settings)
    assert result.returncode == 0, result.stderr


def test_card_that_somebody_wrote_is_left_as_it_is(with_card, tmp_path):
    (tmp_path / "loaded" / "README.md").write_bytes("# Eigene Gesten: naïve\n".encode("latin-1"))
    (tmp_path / "loaded" / "reconstructions.png").unlink()
    with_card.export(tmp_path / "exported")
    assert files(tmp_path / "exported")["README.md"] == "# Eigene Gesten: naïve\n".encode("latin-1")
    assert "reconstructions.png" not in files(tmp_path / "exported")


def test_pipeline_of_no_folder_has_no_card(pipeline, tmp_path):
    pipeline.export(tmp_path / "exported")
    assert "README.md" not in files(tmp_path / "exported")


def test_what_is_pushed_to_the_hub_is_the_exported_folder(with_card, tmp_path, monkeypatch):
    calls = []

    def create_repo(repo_id, **settings):
        calls.append((repo_id, settings))
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(*, repo_id, folder_path, **settings):
        calls.append((repo_id, settings, files(Path(folder_path))))
        return "https://huggingface.co/commit"

    monkeypatch.setattr(action_ddim.export, "create_repo", create_repo)
    monkeypatch.setattr(diffusers.utils.hub_utils, "upload_folder", upload_folder)
    with_card.export(tmp_path / "exported")
    address = with_card.push_to_hub("someone/strokes", commit_message="First", private=True, token="secret")
    assert address == "https://huggingface.co/commit"
    (created, creation), (uploaded, upload, content) = calls
    assert (created, uploaded) == ("someone/strokes", "someone/strokes")
    assert creation == {"private": True, "token": "secret", "exist_ok": True}
    assert (upload["commit_message"], upload["token"], upload["create_pr"]) == ("First", "secret", False)
    exported = files(tmp_path / "exported")
    assert {"README.md", "reconstructions.png", "pipeline.py"} <= set(content)
    card = exported.pop("README.md").decode()
    assert content.pop("README.md").decode() == card.replace("path/to/this/folder", "someone/strokes")
    assert content == exported
