"""The house stays as `docs/design.md` draws it: its five rules, and its map."""

import ast
import re
import sys
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

RANKS = {
    **{"ground": 0, "data": 1, "augmentation": 2, "recordings": 2, "evaluation": 2},
    **{"training": 3, "planning": 3, "serving": 3, "cli": 4, "doors": 5},
}
TRAVELLING = {
    *("actions", "denoiser", "denoising", "export", "guidance", "inpainting", "inversion"),
    *("pipeline", "pipeline_output", "prediction", "rests", "scheduler"),
}
LIBRARIES = {
    "accelerate": "action_ddim.training",
    "wandb": "action_ddim.training.tracking",
    "cma": "action_ddim.planning.baselines",
    **dict.fromkeys(("onnx_ir", "onnxruntime", "onnxscript"), "action_ddim.serving"),
    **dict.fromkeys(("starlette", "uvicorn"), "action_ddim.serving.studio"),
    "datasets": "action_ddim.data.hub_dataset",
    "pyarrow": ("action_ddim.data.hub_dataset", "action_ddim.recordings.formats"),
    **dict.fromkeys(("matplotlib", "sklearn", "scipy", "aeon"), "action_ddim.evaluation"),
}
DOORS = {"train_diffusion_ddim", "augmentation.generate_click_dataset", "action_ddim.__main__"}
PATHS = [
    ROOT / "train_diffusion_ddim.py",
    *(path for top in ("action_ddim", "augmentation") for path in (ROOT / top).rglob("*.py")),
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PATHS}
FOLDERS = ("accelerate_configs", "action_ddim", "augmentation", "benchmarks", "docs", "examples")


def wing(module: str) -> str:
    top, *rest = module.split(".")
    if module in DOORS:
        return "doors"
    return top if top == "augmentation" else rest[0] if rest and rest[0] in RANKS else "ground"


def imports(module: str, *, for_types: bool = True) -> set[str]:
    """Every module and name that a module imports, also inside functions; relative ones as if absolute."""
    tree, found = ast.parse(MODULES[module].read_text()), set()
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = set() if for_types else {inner for node in types for inner in ast.walk(node)}
    for node in set(ast.walk(tree)) - left_out:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = f"{module.rsplit('.', 1)[0]}.{node.module}" if node.level else node.module
            found |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_wings(module):
    for other in imports(module) & set(MODULES) - {"action_ddim", "augmentation"}:
        assert wing(module) == wing(other) or RANKS[wing(other)] < RANKS[wing(module)], f"{module} imports {other}"


def test_imports_go_in_no_circle():
    graph = {module: imports(module, for_types=False) & set(MODULES) - {"action_ddim", module} for module in MODULES}
    TopologicalSorter(graph).prepare()


def test_what_travels_needs_no_others():
    """What lies beside exported weights imports torch, numpy, diffusers, its Hub, the standard library, and each other."""
    allowed = {"torch", "numpy", "diffusers", "huggingface_hub", "action_ddim", *sys.stdlib_module_names}
    for name in TRAVELLING:
        found = imports(f"action_ddim.{name}")
        assert {part.split(".")[0] for part in found} <= allowed, name
        assert {part.split(".")[1] for part in found if part.startswith("action_ddim.")} <= TRAVELLING, name
        assert "from action_ddim" not in re.sub(r'""".*?"""', "", MODULES[f"action_ddim.{name}"].read_text(), flags=re.DOTALL)
    assert not any(
        part.startswith("action_ddim") for name in ("denoiser", "scheduler") for part in imports(f"action_ddim.{name}")
    )


@pytest.mark.parametrize(("library", "home"), LIBRARIES.items())
def test_libraries_stay_in_their_wing(library, home):
    users = {name for name in MODULES if any(part.split(".")[0] == library for part in imports(name, for_types=False))}
    assert users
    homes = tuple(f"{name}." for name in ([home] if isinstance(home, str) else home))
    assert all(f"{user}.".startswith(homes) for user in users)


def test_doors_and_wings_hold_no_logic():
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py" and name != "action_ddim":
            assert ast.get_docstring(tree), name
            assert len(tree.body) == 1, name
        if name in DOORS:
            assert {type(node) for node in tree.body} <= {ast.Expr, ast.Import, ast.ImportFrom, ast.If}, name


def test_no_function_is_longer_than_60_lines():
    for path in [*PATHS, *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def test_map_is_of_the_folders():
    text = (ROOT / "docs" / "design.md").read_text()
    tree = re.search(r"## What lies where\n\n```\n(.*?)```", text, re.DOTALL)[1]
    folders, mapped, travelling = [], set(), set()
    for line in tree.splitlines():
        name, mark = line.split()[0], line.split()[1:2]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        mapped.add("".join(folders) + name)
        travelling |= {name.removesuffix(".py")} if mark == ["+"] else set()
        folders += [name] if name.endswith("/") else []
    there = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    names = {path.relative_to(ROOT).as_posix() for path in there if "__pycache__" not in path.parts}
    assert names == {name for name in mapped if not name.endswith("/")}
    assert all((ROOT / name).is_dir() for name in mapped if name.endswith("/"))
    assert travelling == TRAVELLING
