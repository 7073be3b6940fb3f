"""What an upgrade means for a lasting server: what runs is started anew, and the database is copied before it changes.

A stack remembers by which release of nanochat and of Prefect its processes were started. Prefect's server brings its
database to its own form when it starts, and there is no way back but a copy.
"""

import contextlib
import importlib.metadata
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from flows.stack import Stack, write_private
from nanochat_core import __version__
from nanochat_core.base.errors import NanochatError

FILE = "release.json"
COPIES = "copies"
UNKNOWN = {"nanochat": "an earlier release", "prefect": "unknown"}


def release() -> dict[str, str]:
    """Of the code that runs here."""
    return {"nanochat": __version__, "prefect": importlib.metadata.version("prefect")}


def started_by(folder: Path) -> dict[str, str]:
    """Which release has last started the stack; this one where none has."""
    with contextlib.suppress(OSError, ValueError):
        return {**UNKNOWN, **json.loads((folder / FILE).read_text())}
    return dict(UNKNOWN) if (folder / "logs/server.log").exists() else release()


def remember(folder: Path) -> None:
    """This release has started it."""
    write_private(folder / FILE, json.dumps(release()))


def keep_copy(stack: Stack, dump: Callable[[Path], CompletedProcess[str]] | None, *, database: Path) -> None:
    """Copy the database where another Prefect has written it; `dump` asks PostgreSQL for it, None: it is a file."""
    before, now = started_by(stack.path)["prefect"], release()["prefect"]
    if before == now or (dump is None and not database.is_file()):
        return
    folder = stack.path / COPIES
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    copy = folder / f"prefect-{before}-{stamp}.{'db' if dump is None else 'dump'}"
    part = copy.with_name(f".{copy.name}")
    if dump is None:
        with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(part)) as into:
            source.backup(into)
    else:
        done = dump(part)
        if done.returncode:
            raise NanochatError(
                f"no copy of the database could be made: {done.stderr.strip()[-300:]}",
                hint="it stays as it is; make room, or copy it yourself, and run the same again",
            )
    part.chmod(0o600)
    part.rename(copy)
    told = f"database         Prefect {before} -> {now}: a copy of before is {copy}"
    print(told, file=sys.stderr, flush=True)
