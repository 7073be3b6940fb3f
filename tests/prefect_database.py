"""An empty Prefect database for the tests' homes: a hundred migrations take a core 8 s, and are the same each time.

It is made by the first test that asks, as a first `nanochat run` makes it, and kept below `$NANOCHAT_TEST_CACHE` by
Prefect's version. What a home without one does is what `test_speedrun.py` begins with.
"""

import fcntl
import shutil
import tempfile
from pathlib import Path

import pinned_venv
import pytest
from flow_runs import free_port

from flows.server import EmbeddedServer, _seed_database, _template


def seed(home: Path, prefect_home: Path | None = None) -> None:
    """Let a NANOCHAT_HOME have it as after a first run, and a PREFECT_HOME that is given use it."""
    made = _made()
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, home / made.name)
    if prefect_home is not None:
        prefect_home.mkdir(parents=True, exist_ok=True)
        _seed_database(prefect_home, made)


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
