"""Programs of the tests that do not go into the project's own environment: pinned, in a venv each, installed once.

They lie below `$NANOCHAT_TEST_CACHE` (default ~/.cache/nanochat-tests). Without a way to install them the tests are
skipped, on CI they fail.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TIMEOUT_S = 600


def programs(name: str, lock: Path, *, finish: Callable[[Path], object] = lambda binaries: None) -> Path:
    """The `bin` folder of the venv `name` with what `lock` pins; `finish` is called once, on that folder."""
    try:
        return _install(name, lock, finish)
    except (subprocess.SubprocessError, OSError) as error:
        output = getattr(error, "stderr", None) or str(error)
        reason = f"what {lock.name} pins cannot be installed: {' '.join(output.split())[-500:]}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def cache() -> Path:
    """The folder of what is made once for all test sessions."""
    root = Path(os.environ.get("NANOCHAT_TEST_CACHE") or Path.home() / ".cache/nanochat-tests")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _install(name: str, lock: Path, finish: Callable[[Path], object]) -> Path:
    venv = cache() / f"{name}-py{sys.version_info.major}{sys.version_info.minor}"
    done = venv / "installed.lock"
    with open(venv.with_suffix(".installing"), "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test sessions at once
        if not done.is_file() or done.read_text() != lock.read_text():  # a half-made one is made again
            shutil.rmtree(venv, ignore_errors=True)
            run(sys.executable, "-m", "venv", str(venv))
            run(str(venv / "bin/pip"), "install", "--quiet", "--no-deps", "--requirement", str(lock))
            finish(venv / "bin")
            done.write_text(lock.read_text())
    return venv / "bin"


def run(*command: str) -> None:
    """Run to a good end."""
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
