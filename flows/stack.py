"""A lasting server on one machine: what it consists of, remembered in a folder.

The choices of the first `nanochat up --local` (ports, which database, which store, generated secrets) are written down
once, so that a second `up` starts the same thing and never another one beside it. A file in NANOCHAT_HOME names the
folder: later verbs find server and store by it. What the environment says itself is left alone.
"""

import contextlib
import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from flows import seaweedfs
from flows.stack_process import State, state_of
from nanochat_core.base import locks
from nanochat_core.base.errors import ConfigError, CorruptError, HardwareError
from nanochat_core.cli.prefect_api import authorization
from nanochat_core.workspace import home_from_environment

DEFAULT_PORT = 4200
FILE = "stack.json"
ENV_FILE = "env"
POINTER = "stack-folder"  # in NANOCHAT_HOME: where the stack is
FOLDER_VARIABLE = "NANOCHAT_STACK"  # in the exports: a shell that has them does not bring a store of its own
ROOT_FOLDER = Path("/var/lib/nanochat")
NUM_PORTS = 2  # server and database; the store has a row of its own
BUCKET = "nanochat"
REGION = "us-east-1"
NO_SERVER = ("folder", "given")
S3_STORES = ("seaweedfs", "versitygw", "minio")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What was chosen at the first start; everything else follows from it."""

    folder: str
    database: str
    """postgresql or sqlite."""
    store: str
    """seaweedfs, versitygw, minio, folder, or given: the NANOCHAT_STORE of the first start."""
    store_url: str
    ports: tuple[int, ...]
    """Of the server, the database and the store, in this order, and of what the store has inside (seaweedfs.PARTS)."""
    user: str | None
    """Who runs the database: root may not. None: whoever starts the rest."""
    database_password: str
    store_key: str
    store_secret: str
    server_auth: str = ""
    """user:password of Prefect's API; empty in a folder of before there was one, and made by the next `up`."""

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def url(self) -> str:
        """The server's page."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    @property
    def server_headers(self) -> dict[str, str]:
        """What the API wants to see of a request."""
        return authorization(self.server_auth, None)

    @property
    def server_exports(self) -> dict[str, str]:
        """What a process needs to reach the server."""
        return {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self.server_auth}

    @property
    def store_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[2]}"

    @property
    def store_exports(self) -> dict[str, str]:
        """What a process needs to reach the store. One unit: half of it from elsewhere reaches nothing."""
        exports = {"NANOCHAT_STORE": self.store_url}
        if self.store not in NO_SERVER:
            exports |= {
                "AWS_ENDPOINT_URL": self.store_endpoint,
                "AWS_ACCESS_KEY_ID": self.store_key,
                "AWS_SECRET_ACCESS_KEY": self.store_secret,
                "AWS_SESSION_TOKEN": "",  # a shell's own is of other keys, and with it these are refused
                "AWS_REGION": REGION,
            }
        return exports

    @property
    def exports(self) -> dict[str, str]:
        """What somebody who uses the stack sets."""
        return {**self.server_exports, **self.store_exports, FOLDER_VARIABLE: self.folder}


def default_folder() -> Path:
    """Where the stack of this home is, or would be.

    Root's home is closed to the database's user, so root's stack lives where services keep their state.
    """
    home = home_from_environment()
    with contextlib.suppress(OSError):
        return Path(os.fsdecode((home / POINTER).read_bytes()).strip())
    if os.geteuid() == 0 and home.is_relative_to("/root"):
        return ROOT_FOLDER
    return home / "server"


def load(folder: Path) -> Stack | None:
    """The stack of a folder; None where none was started."""
    file = folder / FILE
    if not file.is_file():
        return None
    if file.stat().st_uid != os.geteuid():  # it names the server that our verbs obey
        raise ConfigError(f"{file} is another user's", hint="choose a --folder of yours")
    try:
        held = {"server_auth": ""} | json.loads(file.read_text())
        return Stack(**{field.name: held[field.name] for field in fields(Stack)} | {"ports": tuple(held["ports"])})
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{file} cannot be read: {error!r}", hint="restore it, or remove the folder") from error


def save(stack: Stack) -> None:
    """Write down the stack, the exports for a shell, and where the home finds both."""
    write_private(stack.path / FILE, json.dumps(asdict(stack), indent=1))
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in stack.exports.items()]
    write_private(stack.path / ENV_FILE, "".join(lines))
    announce(stack)


def announce(stack: Stack) -> None:
    """Let the later verbs of this home find the stack."""
    home = home_from_environment()
    home.mkdir(parents=True, exist_ok=True)
    (home / POINTER).write_bytes(os.fsencode(f"{stack.folder}\n"))


def withdraw(stack: Stack) -> None:
    """Forget where the stack was."""
    pointer = home_from_environment() / POINTER
    with contextlib.suppress(OSError):
        if os.fsdecode(pointer.read_bytes()).strip() == stack.folder:
            pointer.unlink()


def adopt(environment: MutableMapping[str, str]) -> None:
    """Point a verb at the running stack of this home, as far as the environment does not say otherwise.

    After `down` it is left out. After a crash its store is still set: an error is better than artifacts in a place
    where nobody looks for them.
    """
    with contextlib.suppress(ConfigError):  # no home, no stack; the verb says so if it needs one
        _adopt(home_from_environment(), environment)


def _adopt(home: Path, environment: MutableMapping[str, str]) -> None:
    # not Path.is_file, which raises in a home that we may not enter
    if not os.path.isfile(home / POINTER) or (stack := load(default_folder())) is None:
        return
    state = state_of(stack.path, "server")
    if state is State.STOPPED:
        return
    if "NANOCHAT_STORE" not in environment:
        environment.update(stack.store_exports)
    if environment.get("PREFECT_API_URL", stack.api_url) != stack.api_url:
        return
    if state is State.RUNNING:
        environment |= {name: environment.get(name, value) for name, value in stack.server_exports.items()}
    else:
        print(f"note: the server of {stack.folder} is down; nanochat up --local starts it again", file=sys.stderr)


def new_stack(folder: Path, *, database: str, store: str, user: str | None, port: int | None) -> Stack:
    """Choose ports and secrets for a first start."""
    given = os.environ.get("NANOCHAT_STORE", "")
    urls = {"folder": str(folder / "store"), "given": given}
    return Stack(
        folder=str(folder),
        database=database,
        store=store,
        store_url=urls.get(store, f"s3://{BUCKET}/store"),
        ports=_ports(port),
        user=user,
        database_password=secrets.token_urlsafe(24),
        store_key=secrets.token_hex(10),
        store_secret=secrets.token_urlsafe(24),
        server_auth=new_auth(),
    )


def new_auth() -> str:
    """A user and a password for Prefect's API."""
    return f"nanochat:{secrets.token_urlsafe(24)}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One `up` or `down` of a folder at a time."""
    with open(folder / "lock", "w", opener=_private) as guard:  # nobody else holds it
        try:
            locks.take(guard, folder / "lock")
        except locks.HeldError as error:
            raise ConfigError(f"another up or down of {folder} is at work", hint="wait for it") from error
        yield


def write_private(path: Path, text: str) -> None:
    """A file whole or not at all, which only its owner reads."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8", errors="surrogateescape", opener=_private) as file:
        file.write(text)
    part.replace(path)


def _private(path: str, flags: int) -> int:
    """Opens a file that only its owner reads."""
    handle = os.open(path, flags, 0o600)
    os.fchmod(handle, 0o600)  # one that was there
    return handle


def _ports(first: int | None) -> tuple[int, ...]:
    """Those of server and database from `first` on, then those of the store, each with a free one for gRPC above it."""
    if first is not None and not is_free(first):
        raise HardwareError(f"port {first} is in use", hint="choose another with --port")
    own = _row_of_ports(first or DEFAULT_PORT, NUM_PORTS, above=0)
    last = 65_535 - seaweedfs.GRPC_ABOVE
    after = own[-1] + 1 if own[-1] < last - 1000 else DEFAULT_PORT
    return (*own, *_row_of_ports(after, len(seaweedfs.PARTS), above=seaweedfs.GRPC_ABOVE))


def _row_of_ports(first: int, count: int, *, above: int) -> tuple[int, ...]:
    """Free ports from `first` on. Not those the kernel hands out for connections: one of them may be taken later."""
    found: list[int] = []
    for port in range(first, 65_536 - above):
        if is_free(port) and is_free(port + above):
            found.append(port)
        if len(found) == count:
            return tuple(found)
    raise HardwareError(f"no {count} free ports from {first} on", hint="choose a lower --port")


def is_free(port: int) -> bool:
    """Whether nobody listens on the port here."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
