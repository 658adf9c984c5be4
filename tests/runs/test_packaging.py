"""The wheel works outside the checkout."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel, built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("action_ddim", "augmentation"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Without isolation nothing is downloaded.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "dist").glob("action_ddim-*.whl")
    zipfile.ZipFile(path).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_generates_and_trains_outside_the_checkout(wheel, python, tmp_path):
    words = ["--num_sequences", 4, "--sequence_length", 20, "--output_dir", "data"]
    generated = python("-m", "augmentation.generate_click_dataset", *words, PYTHONPATH=wheel)
    assert generated.returncode == 0, generated.stderr
    model = ["--d_model", 16, "--num_layers", 1, "--nhead", 2, "--num_epochs", 1, "--report_to", "none"]
    trained = python("-m", "action_ddim", "train", "--data_dir", "data", "--val_data_dir", "data", *model, PYTHONPATH=wheel)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "checkpoints" / "pipeline" / "model_index.json").exists()


def test_wheel_installs_the_command(wheel):
    (path,) = wheel.glob("*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read(path)
    assert dict(parser["console_scripts"]) == {"action-ddim": "action_ddim.cli.main:main"}


def test_wheel_holds_the_two_packages_only(wheel):
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {"action_ddim", "augmentation"}


def test_wheel_says_that_it_is_typed(wheel):
    """PEP 561: without the file, type checkers take everything of the package for Any."""
    assert (wheel / "action_ddim" / "py.typed").exists()
