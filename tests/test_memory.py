"""How much memory a run takes, in processes of their own."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow

LONG = 20_000  # steps a sequence: much to read, little to compute
RUN = """
import re, resource, sys
from pathlib import Path
from action_ddim.cli import train
code = train(sys.argv[2:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print("peak", int(peak) / 1024)
sys.exit(code)
"""


def write_sparse(folder, num_files, sequences_a_file):
    """Write files of zeros, which are valid actions, that take no room on the disk."""
    folder.mkdir()
    for index in range(num_files):
        with open(folder / f"part_{index}_actions.npy", "wb") as file:
            shape = (sequences_a_file * LONG, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + shape[0] * 12)
    (folder / "dataset.json").write_text(json.dumps({"sequence_length": LONG}))


@pytest.fixture
def peak(tmp_path, python, flags):
    """Make 250 updates on sequences of so many files of 24 MB; return the largest resident memory in MB."""

    def measure(num_files: int, **changes) -> float:
        write_sparse(tmp_path / f"{num_files}", num_files, 100)
        model = {"patch_size": 2000, "batch_size": 4, "num_epochs": 10 // num_files, "val_data_dir": tmp_path / "val"}
        words = flags(data_dir=tmp_path / f"{num_files}", save_dir=tmp_path / f"run_{num_files}", **model, **changes)
        result = python("-c", RUN, "-", *words)
        assert result.returncode == 0, result.stderr
        return float(result.stdout.split("peak")[1])

    write_sparse(tmp_path / "val", 1, 4)
    return measure


def test_resident_memory_does_not_grow_with_data_on_disk(peak):
    """As many steps on 24 MB and on 240 MB; a copy, or a map, of the larger would show."""
    small, large = (peak(count, data_memory_gb=0) for count in (1, 10))
    assert large - small < 60


def test_data_that_fits_is_loaded(peak):
    disk, memory = (peak(count, data_memory_gb=size) for count, size in ((5, 0), (10, 1)))
    assert memory - disk > 150
