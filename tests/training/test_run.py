import platform
import resource

import pytest
import torch

from action_ddim.training.run import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
def test_freed_memory_is_kept_for_the_next_tensor():
    keep_freed_memory()
    size, faults = 40 * 2**20, []  # more than glibc by itself ever comes to keep
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # Of a block that is given back, every page is a fault, every time; a kept one may have been cut into by others.
    assert min(faults) < size / resource.getpagesize() / 10
