"""`nanochat doctor`: what is wrong with this machine's set-up, and the command that mends each thing.

Every check is small, says what it saw, and never changes anything except a scratch object that it removes again.
"""

import fcntl
import importlib.metadata
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.base import files, proxies
from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.base.redaction import redact
from nanochat_core.base.units import size
from nanochat_core.cli import installed, prefect_api, prefect_home
from nanochat_core.store.store import Store

MIN_FREE_BYTES = 2 << 30
NVIDIA = Path("/dev/nvidia0")
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
        _python, _packages, _installed, _torch, _home, _store, _prefect_home, _prefect_server, _proxies, _sandbox,
        _tried,
    )  # fmt: skip
    return [
        replace(found, seen=redact(found.seen), mend=found.mend and redact(found.mend))
        for found in (check() for check in checks)
    ]


def show(findings: list[Finding]) -> None:
    """A line each, and a second one with what mends it."""
    for finding in findings:
        print(f"{'ok  ' if finding.is_good else 'BAD '} {finding.check}: {finding.seen}")
        if finding.mend:
            print(f"     mend it: {finding.mend}")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    is_good = sys.version_info >= (3, 11)
    return Finding("python", is_good, f"{version} in {sys.prefix}", None if is_good else "install Python 3.11 or newer")


def _packages() -> Finding:
    lacking = []
    for name in (
        "prefect",
        "torch",
        "tiktoken",
        "gigatoken",
        "rustbpe",
        "pyarrow",
        "s3fs",
        "datasets",
        "matplotlib",
        "safetensors",
    ):
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


def _installed() -> Finding:
    """No cache key notices an edit in an installed package."""
    edited = {name: found for name in installed.DECIDING if (found := installed.altered(name))}
    if not edited:
        return Finding("installed files", True, f"{', '.join(installed.DECIDING)} are as their wheels have them")
    told = "; ".join(f"{', '.join(found[:3])} ({len(found)} in all)" for found in edited.values())
    mend = (
        f"pip install --force-reinstall --no-deps {' '.join(f'{n}=={importlib.metadata.version(n)}' for n in edited)}"
    )
    return Finding("installed files", False, f"not as installed: {told}", mend)


def _torch() -> Finding:
    try:
        import torch

        from nanochat_core.base.hardware import describe
    except ImportError as error:
        return Finding("torch", False, str(error), "make setup")
    machine = describe()
    kind = ", ".join(machine.gpus) or f"CPU with {machine.cores} cores"
    speed = "bf16" if machine.has_fast_bf16 else "no fast bf16: training runs in fp32, about three times slower"
    seen = f"{torch.__version__} on {kind}; {speed}"
    if NVIDIA.exists() and not machine.gpus:
        needed = (
            f"install a driver for CUDA {torch.version.cuda}, or make setup TORCH_INDEX=(an index with an older build)"
        )
        mend = needed if torch.version.cuda else "make clean setup"
        return Finding("torch", False, f"{seen}; the NVIDIA GPU here is not used", mend)
    return Finding("torch", True, seen)


def _home() -> Finding:
    mend = "export NANOCHAT_HOME=/a/folder/of/yours"
    try:
        home = workspace.home_from_environment()
    except NanochatError as error:
        return Finding("home", False, error.message, mend)
    existing = next(path for path in (home, *home.parents) if os.path.exists(path))
    if not workspace.is_writable(home):
        return Finding("home", False, f"{existing} is not a writable folder", mend)
    free = files.free_bytes(existing)
    is_good = free is None or free >= MIN_FREE_BYTES
    more = None if is_good else "free some space, or export NANOCHAT_HOME=/another/disk"
    told = [f"{home}", "free space unknown" if free is None else f"{size(free)} free", *lacking(existing)]
    return Finding("home", is_good, ", ".join(told), more)


def lacking(folder: Path) -> list[str]:
    """What the folder's file system does not offer; the pipeline does without."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
        one, other = Path(scratch, "one"), Path(scratch, "other")
        one.touch()
        tries: dict[str, Callable[[], object]] = {
            "file locks": lambda: _lock(one),
            "hard links": lambda: os.link(one, other),
            "symbolic links": lambda: os.symlink(one, Path(scratch, "symbolic")),
            "modes": lambda: os.chmod(one, 0o600),
        }
        return [f"no {name}" for name, attempt in tries.items() if _fails(attempt)]


def _lock(path: Path) -> None:
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _fails(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


def _store() -> Finding:
    try:
        url = workspace.store_url_from_environment()
        store = workspace.current().store
        done = try_out(store)
        artifacts = len(store.artifacts())
    except StoreRefusal as refusal:
        works = f"{', '.join(refusal.done)} work; " if refusal.done else ""
        return Finding("store", False, f"{works}{refusal.what} does not: {refusal.error.message}", refusal.error.hint)
    except NanochatError as error:
        return Finding("store", False, error.message, error.hint)
    return Finding("store", True, f"{store.url or url}: {', '.join(done)} work; {artifacts} artifacts")


class StoreRefusal(Exception):
    """One thing that a store does not do for us, after what it does."""

    def __init__(self, what: str, error: NanochatError, done: list[str]) -> None:
        super().__init__(what)
        self.what, self.error, self.done = what, error, done


def try_out(store: Store) -> list[str]:
    """Write, read, list and remove one small object; the names of what works, StoreRefusal for the first that fails."""
    content, key, objects = b"can this be written?", f"doctor/{secrets.token_hex(8)}", store.files

    def get() -> None:
        if objects.read(key) != content:
            raise MissingError(f"{store.url} gave other bytes than it was given", hint="use another store")

    def find() -> None:
        if key not in objects.keys("doctor"):
            raise MissingError(f"{store.url} does not list what was just written", hint="use another store")

    done: list[str] = []
    tries: dict[str, Callable[[], None]] = {
        "put": lambda: objects.write(key, content), "get": get, "list": find, "delete": lambda: objects.remove(key),
    }  # fmt: skip
    for what, attempt in tries.items():
        try:
            attempt()
        except NanochatError as error:
            raise StoreRefusal(what, error, done) from error
        done.append(what)
    return done


def _prefect_home() -> Finding:
    try:
        home = prefect_home.prefect_home()
        prefect_home.check(home)
    except NanochatError as error:
        return Finding("prefect home", False, error.message, error.hint)
    database = home / prefect_home.DATABASE
    if not database.exists():
        return Finding("prefect home", True, f"{home}: made at the first run")
    return Finding("prefect home", True, f"{database}, {size(database.stat().st_size)}")


def _prefect_server() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("prefect server", True, "none configured: each command starts its own and stops it again")
    if (error := prefect_api.finding(prefect_api.from_environment(url))) is not None:
        return Finding("prefect server", False, error.message, "unset PREFECT_API_URL")
    return Finding("prefect server", True, f"{redact(url)} answers")


def _proxies() -> Finding:
    if left := proxies.left_out:
        return Finding("proxies", False, "; ".join(left), "unset or mend it; NO_PROXY takes names and addresses")
    names = sorted(name for name in os.environ if name.lower() in proxies.PROXIES)
    return Finding("proxies", True, f"{', '.join(names)}; never before 127.0.0.1" if names else "none")


def _sandbox() -> Finding:
    """No fault where there is none: only benchmarks that run generated programs need one."""
    from nanochat_core.sandbox import Sandbox

    try:
        with Sandbox(num_workers=1) as sandbox:
            has = sandbox.capabilities()
    except NanochatError as error:
        return Finding("sandbox", True, f"{error.message}; HumanEval is refused here", error.hint)
    return Finding("sandbox", True, f"{has['isolation']}; network: {has['network']}; files: {has['files']}")


def _tried() -> Finding:
    """What `make matrix` was run with; no fault where this machine is another."""
    tried = json.loads((Path(__file__).parent / "tried.json").read_text(encoding="utf-8"))
    kinds = {kind: list(dict.fromkeys(row[kind] for row in tried["rows"])) for kind in ("python", "torch")}
    pythons, torches = ", ".join(kinds["python"]), ", ".join(kinds["torch"])
    store = [*tried["file_systems"], *tried["s3_servers"]]
    return Finding("tried with", True, f"Python {pythons}; torch {torches}" + "; ".join(["", *store]))
