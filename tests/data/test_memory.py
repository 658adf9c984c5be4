"""How much memory a run takes, in a process of its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

LONG = 20_000  # steps a sequence: much to read, little to compute
FILE_MB, NUM_FILES = 24, 20
ROOM_MB = 200  # of address space beyond what one file took
# Check and read one file, then, with little room for more, twenty.
READ_TWICE = """
import json, re, resource, sys
from pathlib import Path
from action_ddim.training.run_folder import RunFolder
from action_ddim.cli.train import parse_train_config
from action_ddim.training.interruption import Interruption
from action_ddim.training.loader import open_data, validate_once
from action_ddim.training.run import build, make_accelerator
from action_ddim.training.ending import failures_explained

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def read(words):
    config = parse_train_config(words)
    accelerator, datasets = make_accelerator(config), open_data(config)
    for dataset in datasets:
        validate_once(accelerator, dataset, Interruption())
    run = build(config, accelerator, RunFolder("run"), *datasets)
    return sum(len(batch) for batch in run.loader)

small, large, room_mb = (json.loads(word) for word in sys.argv[1:])
read(small)
before = status("VmHWM")
limit = int(status("VmSize") + room_mb) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with failures_explained(RunFolder("run")):
    print("read", read(large), "grown by", status("VmHWM") - before)
"""


def write_sparse(folder: Path, num_files: int) -> Path:
    """Write files of zeros, which are valid actions, that take no room on the disk."""
    folder.mkdir()
    shape = (FILE_MB * 10**6 // 12, 3)
    for index in range(num_files):
        with open(folder / f"part_{index}_actions.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + shape[0] * 12)
    (folder / "dataset.json").write_text(json.dumps({"sequence_length": LONG}))
    return folder


@pytest.fixture
def read_twice(tmp_path, python, flags):
    small, large = write_sparse(tmp_path / "small", 1), write_sparse(tmp_path / "large", NUM_FILES)

    def run(**changes):
        words = [flags(data_dir=data, val_data_dir=small, patch_size=2000, **changes) for data in (small, large)]
        return python("-c", READ_TWICE, *map(json.dumps, words), ROOM_MB)

    return run


def test_resident_memory_does_not_grow_with_data_on_disk(read_twice):
    """480 MB are checked and read in batches where there is room for 200; neither a copy nor a map of them would fit."""
    result = read_twice(data_memory_gb=0)
    assert result.returncode == 0, result.stderr
    num_sequences, growth = re.search(r"read (\d+) grown by (\S+)", result.stdout).groups()
    assert int(num_sequences) == NUM_FILES * FILE_MB * 10**6 // 12 // LONG
    assert float(growth) < 40


def test_data_that_does_not_fit_after_all_is_told_what_helps(read_twice):
    result = read_twice(data_memory_gb=1)
    assert result.returncode != 0
    assert "out of memory" in result.stderr
    assert "--data_memory_gb" in result.stderr
