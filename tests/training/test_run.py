import platform
import resource

import pytest
import torch

from action_ddim.training.run import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
def test_freed_memory_is_kept_for_the_next_tensor():
    keep_freed_memory()
    size, num, faults = 24 * 2**20, 4, []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(size, dtype=torch.uint8) for _ in range(num)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < num * size / resource.getpagesize() / 10
