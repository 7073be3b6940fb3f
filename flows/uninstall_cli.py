"""`nanochat uninstall`: everything that stays of it on this machine, how large it is, and the line that deletes it.

It deletes nothing itself: what is here may be all that is left of a month on GPUs.
"""

import getpass
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from flows.stack import default_folder, load
from flows.stack_process import State, state_of
from nanochat_core.base.closure import PACKAGE_ROOT
from nanochat_core.base.redaction import redact
from nanochat_core.base.units import size
from nanochat_core.cli.app import Json
from nanochat_core.cli.output import answer
from nanochat_core.cli.prefect_home import prefect_home
from nanochat_core.workspace import home_from_environment, store_url_from_environment


@dataclass(frozen=True)
class Leftover:
    """One thing that stays."""

    what: str
    place: str
    num_bytes: int | None
    """None: it is not on this machine."""
    command: str
    """What deletes it."""
    note: str | None = None
    """What to know before that."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(uninstall)


def uninstall(as_json: Json = False) -> None:
    """What stays of nanochat on this machine, with sizes, and the commands that delete it. It deletes nothing.

    nanochat uninstall

    nanochat uninstall --json
    """
    found = list(leftovers())
    answer(found, lambda: _show(found), as_json=as_json)


def _show(found: list[Leftover]) -> None:
    for item in found:
        print(f"{'elsewhere' if item.num_bytes is None else size(item.num_bytes):>10}  {item.what}")
        print(f"{'':>10}  {item.command}" + (f"   # {item.note}" if item.note else ""))
    print("\nnothing was deleted: type the lines of what you do not want any more, in this order")


def leftovers() -> Iterator[Leftover]:
    """What is there, in the order in which it is to be deleted: what runs first, the program last."""
    home, folder, store = home_from_environment(), default_folder(), store_url_from_environment()
    if load(folder) is not None:
        runs = state_of(folder, "server") is not State.STOPPED
        note = "it runs; runs save a checkpoint first" if runs else None
        yield Leftover(
            "the server of `nanochat up`: database, store, logs", str(folder), held(folder),
            "nanochat down --wipe", note,
        )  # fmt: skip
    if "://" in store and not store.startswith("file://"):
        note = "delete it with the tools of that store; others may use it"
        yield Leftover("models and artifacts (NANOCHAT_STORE)", redact(store), None, redact(store), note)
    elif not (path := Path(store.removeprefix("file://"))).is_relative_to(home):
        yield from _folder("models and artifacts (NANOCHAT_STORE)", path, "other homes may use it")
    yield from _folder("models, artifacts, reports, caches, scratch (NANOCHAT_HOME)", home)
    yield from _folder("Prefect's runs and settings (PREFECT_HOME)", prefect_home(), "of all that uses Prefect")
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"
    yield from _folder("kernels that torch compiled", Path(compiled), "of all that uses torch")
    hub = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    yield from _folder("data sets and models from the hub (HF_HOME)", Path(hub).expanduser(), "of all that uses it")
    yield _program()


def _folder(what: str, path: Path, note: str | None = None) -> Iterator[Leftover]:
    if path.exists():
        yield Leftover(what, str(path), held(path), f"rm -r {shlex.quote(str(path))}", note)


def _program() -> Leftover:
    """The environment that make set up, which is nanochat's alone; else only the package, which may share it."""
    place = Path(sys.prefix)
    if place == PACKAGE_ROOT / ".venv":
        return Leftover(
            "the installed packages", str(place), held(place), f"make -C {shlex.quote(str(PACKAGE_ROOT))} clean"
        )
    pip = f"{shlex.quote(sys.executable)} -m pip uninstall nanochat-prefect"
    ours = sum(held(PACKAGE_ROOT / name) for name in ("nanochat_core", "flows", "tasks"))
    return Leftover("the program, in an environment that may have others", str(place), ours, pip)


def held(path: Path) -> int:
    """Bytes on the disk below a folder, a file with several names once; what we may not read counts nothing."""
    seen, total, folders = set[tuple[int, int]](), 0, [str(path)]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a run is at work
                continue
            if (key := (stat.st_dev, stat.st_ino)) not in seen:
                seen.add(key)
                total += stat.st_blocks * 512
    return total
