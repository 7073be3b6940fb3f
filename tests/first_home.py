"""What a first command leaves in a home and later ones find there: made once for the tests, and copied.

An empty Prefect database: a hundred migrations take a core 8 s. Digests of the program's own files: parsing them takes
it 3 s. Both lie below `$NANOCHAT_TEST_CACHE`, the database by Prefect's version, and the digests name the content that
they are of. What a home without them does is what the README's blocks begin with (tests/docs).
"""

import fcntl
import functools
import shutil
import tempfile
from pathlib import Path

import pinned_venv
import pytest
from flow_runs import free_port

from flows.server import EmbeddedServer, _seed_database, _template
from nanochat_core.base import closure, fingerprint
from nanochat_core.base.source_memo import SourceMemo
from nanochat_core.pipeline.table import STEPS


def seed(home: Path, prefect_home: Path | None = None) -> None:
    """Let a NANOCHAT_HOME have it as after a first run, and a PREFECT_HOME that is given use it."""
    made = _made()
    seed_digests(home)
    shutil.copyfile(made, home / made.name)
    if prefect_home is not None:
        prefect_home.mkdir(parents=True, exist_ok=True)
        _seed_database(prefect_home, made)


def seed_digests(home: Path) -> None:
    """Let a NANOCHAT_HOME have the digests alone, for commands that start no server."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(digests(), home / "sources.json")


@functools.cache
def digests() -> Path:
    """The file, with what the steps reach today among its entries."""
    path = pinned_venv.cache() / "sources.json"
    memo = SourceMemo(path)
    closure._tree_of.cache_clear()  # what this process has walked already was put down elsewhere
    for step in STEPS.values():
        fingerprint.step_code([each for each in (step.body, step.checks) if each], step.entries, memo=memo)
    return path


def _made() -> Path:
    root = pinned_venv.cache()
    with pytest.MonkeyPatch.context() as patch, open(root / "prefect-database.making", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test processes at once
        patch.setenv("NANOCHAT_HOME", str(root))
        template = _template()
        if not template.is_file():
            with tempfile.TemporaryDirectory() as folder:
                server = EmbeddedServer(Path(folder), free_port(), Path(folder) / "server.log")
                server.wait_until_ready()  # which keeps a copy
                server.stop()
        return template
