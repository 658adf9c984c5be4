"""Small data sets, small runs, and the real recordings where they lie at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from action_ddim.gestures import GestureConfig, write_dataset

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real"
SEQ_LEN = 20

# Here and in the processes that tests start: sums split over threads differ in their last bits, and tiny models gain nothing.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with `train` (12 sequences of 20 steps in two files) and `val` (5)."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(GestureConfig(num_sequences=12, sequence_length=SEQ_LEN), folder / "train", sequences_per_file=7)
    write_dataset(GestureConfig(num_sequences=5, sequence_length=SEQ_LEN, seed=1), folder / "val")
    return folder


@pytest.fixture
def flags(data, tmp_path):
    """Return the command line of a run of a second: `flags(lr=1)` adds or replaces one, None leaves it out, True sets it."""

    def make(**changes) -> list[str]:
        values = {
            "data_dir": data / "train",
            "val_data_dir": data / "val",
            "save_dir": tmp_path / "run",
            "d_model": 16,
            "num_layers": 1,
            "nhead": 2,
            "patch_size": 4,
            "batch_size": 4,
            "num_epochs": 2,
            "device": "cpu",
            "report_to": "none",
            **changes,
        }
        words = [
            (f"--{name}",) if value is True else (f"--{name}", str(value))
            for name, value in values.items()
            if value is not None
        ]
        return [word for pair in words for word in pair]

    return make


@pytest.fixture
def python(tmp_path):
    """Run Python in a process of its own, outside the checkout: `python("-c", "...")` returns the completed process."""

    def run(*arguments, cwd: Path = tmp_path, timeout: float = 300, **environment) -> subprocess.CompletedProcess:
        # Without a key, and with a home of its own, wandb knows nobody.
        unset = ("WANDB_API_KEY", "WANDB_MODE", "RANK", "WORLD_SIZE", "LOCAL_RANK")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
