import platform
import resource

import pytest
import torch

from action_ddim.training.run import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
def test_freed_memory_is_kept_for_the_next_tensor():
    keep_freed_memory()
    size, faults = 40 * 2**20, []  # more than glibc by itself ever comes to keep
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < size / resource.getpagesize() / 10
