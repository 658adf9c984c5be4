"""The house stays as it is drawn: floors, and the map in the README."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = [
    {"errors", "durable", "early_stopping", "ema", "tally"},
    {"actions"},
    {"filling", "gestures", "denoiser", "scheduler", "loss", "features", "config", "randomness", "masks", "pipeline_output"},
    {"denoising", "guidance", "rests", "export", "metrics", "realism", "action_file", "check_record", "sampler"},
    {"inversion"},
    {"plots", "tables", "dataset", "pipeline", "checkpoint", "tracking", "interruption"},
    {"evaluation", "model_card", "run_folder", "loading", "outputs", "path_plots", "pretrained"},
    {"run", "assessment", "arguments"},
    {"monitoring", "report", "resume"},
    {"saving"},
    {"training", "model_cli"},
    {"cli"},
    {"__main__"},
]
# actions.py is the contract that its neighbours on the same floor refer to.
EVERYWHERE = {"errors", "actions"}
MODULES = {path.stem: path for path in (ROOT / "action_ddim").glob("*.py") if path.stem != "__init__"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions; relative ones as if absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"action_ddim.{node.module}" if node.level else node.module
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def test_every_module_has_a_floor():
    assert set().union(*FLOORS) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    floor = next(number for number, names in enumerate(FLOORS) if name in names)
    lower = set().union(*FLOORS[:floor]) | EVERYWHERE
    ours = {part.split(".")[1] for part in imports(MODULES[name]) if part.startswith("action_ddim.")}
    assert ours & set(MODULES) <= lower


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        # interruption, saving and tracking name a type of it only.
        (
            "accelerate",
            {"loading", "run", "monitoring", "training", "checkpoint", "resume", "interruption", "saving", "tracking"},
        ),
        ("wandb", {"tracking"}),
        ("matplotlib", {"plots", "path_plots", "assessment", "outputs"}),  # the last two name a type of it only
        ("sklearn", {"realism"}),
        ("scipy", {"realism", "assessment"}),
    ],
)
def test_libraries_stay_in_their_rooms(library, rooms):
    users = {name for name, path in MODULES.items() if any(part.split(".")[0] == library for part in imports(path))}
    assert users == rooms


def test_modules_that_travel_with_the_weights_need_no_others():
    """What lies beside exported weights imports torch, numpy, diffusers, its Hub, the standard library, and each other."""
    travelling = {
        "actions",
        "denoiser",
        "denoising",
        "export",
        "filling",
        "guidance",
        "inversion",
        "pipeline",
        "rests",
        "scheduler",
    }
    travelling |= {"pipeline_output"}
    allowed = {"torch", "numpy", "diffusers", "huggingface_hub", "action_ddim", *sys.stdlib_module_names}
    for name in travelling:
        found = imports(MODULES[name])
        assert {part.split(".")[0] for part in found} <= allowed, name
        assert {part.split(".")[1] for part in found if part.startswith("action_ddim.")} <= travelling, name


def test_no_function_is_longer_than_60_lines():
    for path in [*MODULES.values(), *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def test_readme_maps_the_folders():
    tree = re.search(r"## What lies where\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    folder, mapped = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        mapped.add(folder + name)
        folder = name if name.endswith("/") else folder
    for path in [
        *ROOT.glob("*.py"),
        *(p for f in ("accelerate_configs", "action_ddim", "augmentation", "benchmarks", "docs") for p in (ROOT / f).iterdir()),
    ]:
        name = str(path.relative_to(ROOT))
        if name != "augmentation/__init__.py" and "__pycache__" not in name:
            assert name in mapped, name
    assert all((ROOT / name).exists() for name in mapped)
