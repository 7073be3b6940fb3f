"""The kernels' tests where no GPU is: interpreted, in a process of their own.

Triton picks its way at import, and test_compile.py wants the compiler.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


pytest.importorskip("triton", reason="Triton is not installed; it is in requirements-dev.lock")


@pytest.mark.slow
def test_kernels_compute_what_they_replace():
    file = str(FOLDER / "test_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=FOLDER.parents[2]
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert "SKIPPED" not in result.stdout
