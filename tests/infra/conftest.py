"""The validators of infra/, from PyPI: hadolint, podman-compose (interpolation, merging), the compose specification."""

from pathlib import Path

import pinned_venv
import pytest

LOCK = Path(__file__).with_name("validators.lock")


@pytest.fixture(scope="session")
def validators() -> Path:
    """The `bin` folder with the programs."""
    return pinned_venv.programs("validators", LOCK, finish=_pretend_podman)


def _pretend_podman(binaries: Path) -> None:
    """podman-compose wants to see one, also to print a configuration."""
    podman = binaries / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.4.0\n")
    podman.chmod(0o755)
