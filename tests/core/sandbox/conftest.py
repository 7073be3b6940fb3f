"""Sandboxes of both kinds, opened once; a kind that this machine lacks is skipped by name."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat_core.base.errors import HardwareError
from nanochat_core.sandbox import Limits, Outcome, Sandbox
from nanochat_core.sandbox.launcher import LANDLOCK, NAMESPACES, UNSAFE

# Long enough that a loaded machine does not fail what should pass; what should time out has a sandbox of its own.
LIMITS = Limits(wall_s=20, cpu_s=10)
HASTY = Limits(wall_s=1.5, cpu_s=1)


def opened(mode: str, limits: Limits = LIMITS, num_workers: int = 1) -> Sandbox:
    """A sandbox of one kind, to be used in a `with`."""
    return Sandbox(limits, num_workers=num_workers, modes=[mode])


@pytest.fixture(scope="session", params=[NAMESPACES, LANDLOCK])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        with opened(request.param) as one:
            yield one
    except HardwareError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hasty(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The same kind of sandbox, with little time."""
    with opened(sandbox.capabilities()["isolation"], HASTY) as one:
        yield one


@pytest.fixture
def run(sandbox: Sandbox) -> Iterator[Callable[[str], Outcome]]:
    """Runs an attack; after the test, the sandbox must still be the same one, and work."""
    yield sandbox.run
    assert sandbox.run("assert 1 + 1 == 2").has_passed


@pytest.fixture(scope="session")
def bare() -> Iterator[Callable[[str], Outcome]]:
    """Runs a program with no isolation: shows that an attack does work where nothing stops it."""
    with opened(UNSAFE) as one:
        yield one.run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside that every user may read and write: only a sandbox keeps a program from it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
