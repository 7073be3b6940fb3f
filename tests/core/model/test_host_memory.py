"""Freed memory is used again without page faults."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from nanochat_core.model.host_memory import keep_freed_memory
assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MiB: far above malloc's usual limit for memory of its own
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
counts = [faults() for _ in range(60)]  # the heap finds its shape within a dozen
print(sum(counts[40:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_tensors_soon_cost_no_page_faults():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # 20 times 16,384 without it
