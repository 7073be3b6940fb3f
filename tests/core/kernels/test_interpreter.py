"""The kernels' tests where no GPU is: interpreted and compiled, each in a process of its own with Triton on its path.

Triton picks its way at import, so the two cannot share a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(("file", "interprets"), [("test_kernels.py", "1"), ("test_compile.py", "0")])
def test_kernels_compute_what_they_replace_and_compile(file, interprets, triton_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(FOLDER / file)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(triton_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TRITON_INTERPRET": interprets,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=FOLDER.parents[2]
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert "SKIPPED" not in result.stdout
