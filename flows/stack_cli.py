"""`nanochat up`, `down` and `ps`: a lasting server on this machine, as plain processes.

`up` is idempotent: it starts what does not run and leaves alone what does. stdout is what a shell can evaluate,
`eval "$(nanochat up --local)"`; what happens goes to stderr. Where containers are at hand, infra/compose.yaml is the
same set of parts.
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import seaweedfs, stack_parts, stack_release, stack_store
from flows.stack import (
    ENV_FILE,
    FILE,
    FOLDER_VARIABLE,
    NO_SERVER,
    S3_STORES,
    Stack,
    adopt,
    announce,
    default_folder,
    is_free,
    load,
    locked,
    new_auth,
    new_stack,
    save,
    withdraw,
)
from flows.stack_process import Part, State, log_of, look, pid_of, start_all, state_of, stop
from nanochat_core.base import files
from nanochat_core.base.errors import ConfigError, HardwareError, MissingError
from nanochat_core.cli.app import Json

VERBS = ("up", "down", "ps")
FOLDERS = ("store", "prefect", "worker", "logs", "pids")  # closed to everybody else
STARTED = (stack_release.COPIES, stack_release.FILE)
OWN = ("database", "database-socket", *FOLDERS, *STARTED, FILE, ENV_FILE, "lock")  # what --wipe deletes
Folder = Annotated[Path | None, typer.Option(help="Where its data and logs are. [default: server in NANOCHAT_HOME]")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(up)
    app.command()(down)
    app.command()(ps)


def adopt_stack() -> None:
    """Point the verb that was typed at the running stack; those that start and stop it see the bare environment."""
    if not set(VERBS) & set(sys.argv[1:2]):
        adopt(os.environ)


def up(
    local: Annotated[bool, typer.Option("--local", help="As plain processes on this machine.")] = False,
    folder: Folder = None,
    port: Annotated[int | None, typer.Option(min=1024, max=65000, help="Of the server; others follow it.")] = None,
    store: Annotated[str, typer.Option(help=f"auto, folder, {', '.join(S3_STORES)}. First start only.")] = "auto",
) -> None:
    """Start a lasting Prefect server with its database, workers and an S3 store; again: start what has died.

    nanochat up --local

    nanochat up --local --store seaweedfs --port 4300
    """
    if not local:
        raise ConfigError("say where", hint="up --local: plain processes here; `make up`: containers")
    if not sys.platform.startswith("linux"):
        raise HardwareError(f"--local needs Linux's process table, this is {sys.platform}", hint="make up")
    path = (folder or default_folder()).expanduser().absolute()
    _prepare(path)
    with locked(path):
        stack = load(path)
        if stack is None:
            stack = _first_start(path, store=store, port=port)
            save(stack)
        elif stack.store not in (*S3_STORES, *NO_SERVER):
            raise ConfigError(
                f"{path} has its store in {stack.store}, which an earlier version ran and this one does not",
                hint="choose another --folder; that version can still start this one, for what is in it",
            )
        elif (port or stack.ports[0]) != stack.ports[0] or store not in ("auto", stack.store):
            raise ConfigError(
                f"{path} has a stack with port {stack.ports[0]} and store {stack.store} already",
                hint="leave the options out, choose another --folder, or nanochat down --wipe",
            )
        elif not stack.server_auth:
            _say("what was started before there was a password is started again with one")
            _stop(stack)
            stack = replace(stack, server_auth=new_auth())
            save(stack)
        announce(stack)
        _stop_earlier(stack)
        _start(stack)
    where = f"{stack.server_auth}, asked for once" if sys.stderr.isatty() else f"in {path / ENV_FILE}"
    _say(f"page             {stack.url}  password {where}")
    print(f". {path / ENV_FILE}  # PREFECT_API_URL={stack.api_url} NANOCHAT_STORE={stack.store_url}")


def down(
    folder: Folder = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the database and the store, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop the server: runs save a checkpoint first, data stays. A run tagged autoresume goes on after the next up.

    nanochat down

    nanochat down --wipe
    """
    stack = _load(folder)
    if wipe and not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"--wipe deletes everything in {stack.folder}", hint="add --yes")
        typer.confirm(f"Delete the database, the store and the logs in {stack.folder}?", abort=True, err=True)
    with locked(stack.path):
        _stop(stack)
    if wipe:
        withdraw(stack)
        _wipe(stack)


def _stop(stack: Stack) -> None:
    for group in reversed(stack_parts.groups(stack)):
        for part in reversed(group):
            _say(f"{part.name:<16} {'stopped' if stop(stack.path, part) else 'was not running'}")


def ps(folder: Folder = None, as_json: Json = False) -> None:
    """Show the processes of the lasting server: state, process number, address and log.

    nanochat ps

    nanochat ps --json
    """
    stack = _load(folder)
    rows = [_row(stack, part) for group in stack_parts.groups(stack) for part in group]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    lines = [list(rows[0]), *(["" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(rows[0]))]
    for line in lines:  # never cut: addresses and logs are there to be copied
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if any(row["state"] != State.RUNNING for row in rows):
        _say("nanochat up --local starts what does not run")


def _row(stack: Stack, part: Part) -> dict[str, Any]:
    address = f"127.0.0.1:{part.port}" if part.port else None
    if part.name in ("server", "database"):
        address = stack.url if part.name == "server" else f"{stack_parts.database_host(stack)}:{stack.ports[1]}"
    return {
        "name": part.name,
        "state": str(look(stack.path, part)),
        "pid": pid_of(stack.path, part.name),
        "address": address,
        "log": str(log_of(stack.path, part.name)),
    }


def _prepare(path: Path) -> None:
    """Make the folder; the database's user must be able to walk through it, nobody else reads anything."""
    try:
        path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        held = path.stat()
        if held.st_uid != os.geteuid() or held.st_mode & 0o022:
            raise ConfigError(f"others may write in {path}", hint="choose a --folder of yours, or chmod go-w it")
        for name in FOLDERS:
            (path / name).mkdir(mode=0o700, exist_ok=True)
            files.set_mode(path / name, 0o700)
    except OSError as error:
        raise HardwareError(f"{path} cannot be made: {error.strerror}", hint="choose a --folder of yours") from error


def _first_start(path: Path, *, store: str, port: int | None) -> Stack:
    """Choose the parts by what is installed, and say what is not."""
    if store not in ("auto", "folder", *S3_STORES):
        raise ConfigError(f"no such store: {store}", hint=f"auto, folder, {', '.join(S3_STORES)}")
    database, user = "postgresql", None
    if stack_parts.postgres_programs() is None:
        database = "sqlite"
        _say("PostgreSQL is not installed: SQLite instead, which is slow beyond a few runs at a time")
    else:
        can_run, user = stack_parts.database_user(path)
        if not can_run:
            database = "sqlite"
            _say(f"PostgreSQL refuses root, and no other user may enter {path}: SQLite instead (try --folder)")
    return new_stack(path, database=database, store=_choose_store(path, store), user=user, port=port)


def _choose_store(path: Path, wish: str) -> str:
    if wish == "auto" and os.environ.get("NANOCHAT_STORE") and os.environ.get(FOLDER_VARIABLE) != str(path):
        _say(f"the store is your NANOCHAT_STORE, {os.environ['NANOCHAT_STORE']}")
        return "given"
    if wish in ("versitygw", "minio") and not shutil.which(wish):
        raise MissingError(f"the program {wish} is not installed", hint="--store auto takes what is")
    if wish not in ("auto", "seaweedfs"):
        return wish
    if wish == "auto" and (found := stack_store.installed()):
        return found
    try:
        if seaweedfs.program() is None:
            _say("installing SeaweedFS, an S3 server, into this home (once; 48 MB)")
            seaweedfs.install()
    except HardwareError as error:
        if wish == "seaweedfs":
            raise
        _say(f"{error.message}; the store is the folder {path / 'store'}")
        return "folder"
    return "seaweedfs"


def _stop_earlier(stack: Stack) -> None:
    """What an earlier release has started is stopped: its runs save first, and go on by the new code."""
    before, now = stack_release.started_by(stack.path), stack_release.release()
    parts = [part for group in stack_parts.groups(stack) for part in group]
    if before == now or not any(state_of(stack.path, part.name) is State.RUNNING for part in parts):
        return
    shown = [f"nanochat {each['nanochat']} with Prefect {each['prefect']}" for each in (before, now)]
    _say(f"what runs is of {shown[0]}: it is started again as {shown[1]}")
    _stop(stack)


def _start(stack: Stack) -> None:
    groups = stack_parts.groups(stack)
    for group in groups:
        for part in group:
            if state_of(stack.path, part.name) is State.RUNNING:
                _say(f"{part.name:<16} runs")
            elif part.port and not is_free(part.port):
                raise HardwareError(
                    f"port {part.port} of {part.name} is taken by another program",
                    hint="stop that one; nanochat down --wipe chooses new ports",
                )
        if group is groups[-1]:
            _register_pools(stack, group)
        start_all(stack.path, group, _say)


def _register_pools(stack: Stack, workers: list[Part]) -> None:
    """Pools, limits and automations, before a worker needs them; `nanochat deploy` does the deployments."""
    if all(state_of(stack.path, part.name) is State.RUNNING for part in workers):
        return
    os.environ |= {**stack.server_exports, "PREFECT_HOME": str(stack.path / "worker")}
    from flows.deploy import register_all  # reads the settings, so after they are set

    for item in register_all(stack_parts.ROOT, []):
        if item.did != "unchanged":
            _say(f"{item.kind:<16} {item.name}: {item.did}")


def _load(folder: Path | None) -> Stack:
    path = (folder or default_folder()).expanduser().absolute()
    if (stack := load(path)) is None:
        raise MissingError(f"no server was started in {path}", hint="nanochat up --local, or say --folder")
    return stack


def _wipe(stack: Stack) -> None:
    """Delete what `up` has made there, and nothing that somebody else has put beside it."""
    for name in OWN:
        path = stack.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(stack.path.iterdir()):
        stack.path.rmdir()
    _say(f"deleted what was in {stack.folder}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
