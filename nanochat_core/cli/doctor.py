"""`nanochat doctor`: what is wrong with this machine's set-up, and the command that mends each thing.

Every check is small, says what it saw, and never changes anything except a scratch object that it removes again.
"""

import importlib.metadata
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.units import size
from nanochat_core.store.store import Store

MIN_FREE_BYTES = 2 << 30
# version -> why, for combinations that install and then do not work
BROKEN = (
    (
        "fastapi",
        lambda v: v >= (0, 155),
        "keeps this Prefect's server from starting",
        'pip install "fastapi>=0.139,<0.151"',
    ),
    ("sqlalchemy", lambda v: v >= (2, 1), "makes Prefect create no scheduled runs", 'pip install "sqlalchemy<2.1"'),
)


@dataclass(frozen=True)
class Finding:
    """One check's result."""

    check: str
    is_good: bool
    seen: str
    mend: str | None = None


def examine() -> list[Finding]:
    """All findings, in the order in which one depends on the other."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python, _packages, _torch, _home, _store, _prefect_home, _prefect_server, _sandbox,
    )  # fmt: skip
    return [check() for check in checks]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    is_good = sys.version_info >= (3, 11)
    return Finding("python", is_good, f"{version} in {sys.prefix}", None if is_good else "install Python 3.11 or newer")


def _packages() -> Finding:
    lacking = []
    for name in ("prefect", "torch", "tiktoken", "rustbpe", "pyarrow", "s3fs", "datasets", "matplotlib", "safetensors"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(name)
    if lacking:
        return Finding("packages", False, f"missing: {', '.join(lacking)}", "make setup")
    for name, is_broken, effect, mend in BROKEN:
        found = importlib.metadata.version(name)
        if is_broken(tuple(int(part) for part in found.split(".")[:2])):
            return Finding("packages", False, f"{name} {found} {effect}", mend)
    return Finding("packages", True, f"prefect {importlib.metadata.version('prefect')}, all there")


def _torch() -> Finding:
    try:
        import torch

        from nanochat_core.base.hardware import describe
    except ImportError as error:
        return Finding("torch", False, str(error), "make setup")
    machine = describe()
    kind = ", ".join(machine.gpus) or f"CPU with {machine.cores} cores"
    speed = "bf16" if machine.has_fast_bf16 else "no fast bf16: training runs in fp32, about three times slower"
    return Finding("torch", True, f"{torch.__version__} on {kind}; {speed}")


def _home() -> Finding:
    home = workspace.home_from_environment()
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding("home", False, f"{existing} is not a writable folder", "export NANOCHAT_HOME=/a/folder/of/yours")
    free = shutil.disk_usage(existing).free
    is_good = free >= MIN_FREE_BYTES
    mend = None if is_good else "free some space, or export NANOCHAT_HOME=/another/disk"
    return Finding("home", is_good, f"{home}, {size(free)} free", mend)


def _store() -> Finding:
    url = workspace.store_url_from_environment()
    try:
        store = workspace.current().store
        _write_and_remove(store)
        artifacts = len(store.artifacts())
    except NanochatError as error:
        return Finding("store", False, error.message, error.hint)
    return Finding("store", True, f"{store.url or url}: writable, {artifacts} artifacts")


def _write_and_remove(store: Store) -> None:
    scratch = store.partial("doctor", "check")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "probe").write_text("can this be written?")
        scratch.put_folder(Path(folder), "probe")
    scratch.clear()


def _prefect_home() -> Finding:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    database = home / "prefect.db"
    if not database.exists():
        return Finding("prefect home", True, f"{home}: made at the first run")
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=2) as connection:
            connection.execute("select count(*) from alembic_version").fetchone()
    except sqlite3.Error as error:
        return Finding("prefect home", False, f"{database}: {error}", f"mv {database} {database}.broken")
    return Finding("prefect home", True, f"{database}, {size(database.stat().st_size)}")


def _prefect_server() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("prefect server", True, "none configured: each command starts its own and stops it again")
    import http.client
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5).close()
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        return Finding("prefect server", False, f"{url} does not answer: {error}", "unset PREFECT_API_URL")
    return Finding("prefect server", True, f"{url} answers")


def _sandbox() -> Finding:
    """No fault where there is none: only benchmarks that run generated programs need one."""
    from nanochat_core.sandbox import Sandbox

    try:
        with Sandbox(num_workers=1) as sandbox:
            has = sandbox.capabilities()
    except NanochatError as error:
        return Finding("sandbox", True, f"{error.message}; HumanEval is refused here", error.hint)
    return Finding("sandbox", True, f"{has['isolation']}; network: {has['network']}; files: {has['files']}")
