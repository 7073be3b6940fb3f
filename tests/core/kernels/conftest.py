"""Triton for a machine without a GPU, in a venv of its own: torch behaves otherwise where it can be imported."""

from pathlib import Path

import pinned_venv
import pytest

LOCK = Path(__file__).with_name("triton.lock")


@pytest.fixture(scope="session")
def triton_path() -> Path:
    """The folder to put on PYTHONPATH."""
    [packages] = pinned_venv.programs("triton", LOCK).parent.glob("lib/python*/site-packages")
    return packages
