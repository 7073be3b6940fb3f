"""The processes of a stack, in the order in which each needs those before it: database, store, server, workers.

The settings that differ from Prefect's defaults are here, each for a measured reason: limits in the server's memory
leak when it restarts, the UI asks the wrong port when it is not told, the embedded telemetry wants the internet.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from signal import SIGINT
from urllib.parse import quote

from flows import stack_release, stack_store
from flows.stack import Stack, write_private
from flows.stack_environment import PROGRAM, SERVER, STORE_KEYS, WORKER, passed_on
from flows.stack_process import Part, launched_at
from flows.stack_worker import GRACE_S, WORKER_S
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.loopback import SILENT, ask
from nanochat_core.cli.prefect_home import DATABASE as DATABASE_FILE
from nanochat_core.cli.prefect_home import connection_url
from nanochat_core.workspace import home_from_environment

ROOT = Path(__file__).resolve().parents[1]
POOLS = ("cpu", "gpu")
POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/postgresql*/bin")
# For root, whom PostgreSQL refuses. Not nobody: what runs under that name is what nobody trusts.
DATABASE_USERS = ("postgres",)
DATABASE = "prefect"
MAX_SOCKET_FOLDER = 90  # bytes; with the socket's own name the kernel takes 107


def groups(stack: Stack) -> list[list[Part]]:
    """What is started together, and stopped together in the opposite order."""
    first = [*([_database(stack)] if stack.database == "postgresql" else []), *stack_store.parts(stack)]
    return [first, [_server(stack)], [_worker(stack, pool) for pool in POOLS]]


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL that is installed, on the path or not."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    there = [path for pattern in POSTGRES_FOLDERS for path in Path("/").glob(f"{pattern[1:]}/initdb")]
    return max(there, key=_version).parent if there else None


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for piece in path.parts for part in piece.split("-")[-1].split(".") if part.isdigit())


def database_user(folder: Path) -> tuple[bool, str | None]:
    """Whether a database can run in the folder, and as whom; None: as ourselves."""
    if os.geteuid() != 0:
        return True, None
    for user in DATABASE_USERS:
        command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
        try:
            done = subprocess.run(command, user=user, group=_group(user), extra_groups=[], capture_output=True, cwd="/")
        except (KeyError, OSError):  # no such user, or a container that may not change users
            continue
        if done.returncode == 0:
            return True, user
    return False, None


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def database_host(stack: Stack) -> str:
    """Where PostgreSQL listens: a folder that only its user and root may enter; 127.0.0.1 if its name does not do.

    Either way it asks for its password.
    """
    folder = str(stack.path / "database-socket")
    return folder if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER and not set(folder) & set(",\"'\\") else "127.0.0.1"


def _database(stack: Stack) -> Part:
    port, host, data = stack.ports[1], database_host(stack), stack.path / "database"
    programs = postgres_programs() or Path()
    is_socket = host.startswith("/")
    addresses = ("", host) if is_socket else (host, "")
    options = [
        "-p",
        str(port),
        "-c",
        f"listen_addresses={addresses[0]}",
        "-c",
        f"unix_socket_directories={addresses[1]}",
    ]
    check = [str(programs / "pg_isready"), "-q", "-h", host, "-p", str(port)]
    return Part(
        name="database",
        command=[str(programs / "postgres"), "-D", str(data), *options],
        port=None if is_socket else port,
        user=stack.user,
        is_ready=lambda: subprocess.run(check, capture_output=True).returncode == 0,
        before=lambda: _init_database(stack, programs, data),
        after=lambda: _create_database(stack, programs),
        stop_signal=SIGINT,  # ends connections and writes everything down; SIGTERM would wait for the clients
        stop_s=60,
    )


def _init_database(stack: Stack, programs: Path, data: Path) -> None:
    _give(Path(database_host(stack)), stack.user)
    if (data / "PG_VERSION").is_file():
        return
    shutil.rmtree(data, ignore_errors=True)  # a first start that was interrupted
    _give(data, stack.user)
    password = stack.path / "database.password"
    write_private(password, stack.database_password)
    if stack.user:
        shutil.chown(password, stack.user)
    command = [str(programs / "initdb"), "-D", str(data), "-U", DATABASE, "--encoding=UTF8", "--locale=C.UTF-8"]
    try:
        done = subprocess.run(
            [*command, "--auth=scram-sha-256", f"--pwfile={password}"],
            user=stack.user, group=_group(stack.user) if stack.user else None,
            extra_groups=[] if stack.user else None, capture_output=True, text=True, cwd="/",
            env=passed_on(os.environ, PROGRAM), umask=0o077,
        )  # fmt: skip
    finally:
        password.unlink()
    if done.returncode:
        raise NanochatError(f"initdb failed: {done.stderr.strip()[-300:]}", hint=f"is the disk of {data} full?")


def _give(folder: Path, user: str | None) -> None:
    """A folder of that user's, closed to all others."""
    if folder.is_absolute():
        folder.mkdir(mode=0o700, exist_ok=True)
        if user:
            shutil.chown(folder, user)


def _ask_database(stack: Stack, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs against the stack's own."""
    command = [str(program), "-h", database_host(stack), "-p", str(stack.ports[1]), "-U", DATABASE, *arguments]
    environment = {**passed_on(os.environ, PROGRAM), "PGPASSWORD": stack.database_password}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def _create_database(stack: Stack, programs: Path) -> None:
    done = _ask_database(stack, programs / "createdb", "--maintenance-db=postgres", DATABASE)
    if done.returncode and "already exists" not in done.stderr:
        raise NanochatError(f"createdb failed: {done.stderr.strip()[-300:]}", hint="see the log of the database")


def _keep_copy(stack: Stack, database: Path) -> None:
    """Before a server of another release brings the database to its own form."""
    program = (postgres_programs() or Path()) / "pg_dump"

    def dump(path: Path) -> subprocess.CompletedProcess[str]:
        return _ask_database(stack, program, "--format=custom", f"--file={path}", DATABASE)

    stack_release.keep_copy(stack, dump if stack.database == "postgresql" else None, database=database)


def _server(stack: Stack) -> Part:
    port, home = stack.ports[0], stack.path / "prefect"
    place = f"host={quote(database_host(stack), safe='/')}&port={stack.ports[1]}"
    url = f"postgresql+asyncpg://{DATABASE}:{stack.database_password}@/{DATABASE}?{place}"
    if stack.database == "sqlite":
        url = connection_url(home / DATABASE_FILE)
    environment = {
        **_private(),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": stack.api_url,
        "PREFECT_UI_API_URL": stack.api_url,
        "PREFECT_SERVER_API_AUTH_STRING": stack.server_auth,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": stack.url,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    application = ["--factory", "flows.guard:create_app", "--lifespan", "on"]
    return Part(
        name="server",
        command=[
            sys.executable, "-m", "uvicorn", *application, "--host", "127.0.0.1", "--port", str(port),
            "--log-level", "warning", "--timeout-graceful-shutdown", "5",
        ],
        environment=environment,
        keeps=SERVER,
        port=port,
        before=lambda: _keep_copy(stack, home / DATABASE_FILE),
        after=lambda: stack_release.remember(stack.path),
        is_ready=lambda: stack_store.answers_http(f"{stack.api_url}/ready"),
    )  # fmt: skip


def _private() -> dict[str, str]:
    """For what runs code of ours: this checkout's, and no telemetry."""
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


def worker_name(pool: str) -> str:
    return f"{pool}-{socket.gethostname()}"


def _worker(stack: Stack, pool: str) -> Part:
    name = f"worker-{pool}"
    return Part(
        name=name,
        command=[sys.executable, "-m", "flows.stack_worker", "--pool", pool, "--name", worker_name(pool)],
        environment={
            **_private(),
            **stack.exports,
            "PREFECT_HOME": str(stack.path / "worker"),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "nanochat_core",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "NANOCHAT_HOME": str(home_from_environment()),
            "PYTHONUNBUFFERED": "1",
        },
        keeps=(*WORKER, *(STORE_KEYS if stack.store == "given" else ())),
        umask=-1,  # what a run makes is the user's, as that of `nanochat run` is
        is_ready=lambda: is_online(stack, pool, since=launched_at(stack.path, name)),
        stop_s=GRACE_S + WORKER_S + 5,
    )


def is_online(stack: Stack, pool: str, *, since: float) -> bool:
    """Whether the server has lately heard from the pool's worker, and from the one that was started at `since`."""
    from datetime import datetime

    url, name = f"{stack.api_url}/work_pools/{pool}/workers/filter", worker_name(pool)
    headers = {"Content-Type": "application/json", **stack.server_headers}
    request = urllib.request.Request(url, b"{}", headers, method="POST")
    try:
        with ask(request, timeout_s=5) as answer:
            workers = json.load(answer)
    except SILENT:
        return False
    found = [worker for worker in workers if worker["name"] == name and worker["status"] == "ONLINE"]
    heard = [datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() for worker in found]
    return any(moment >= since for moment in heard)
