"""A real S3 server for tests: OpenStack Swift with its S3 interface, on loopback, without containers.

It comes from PyPI alone and is installed once, with pinned versions, into a venv below `$NANOCHAT_TEST_CACHE`
(default ~/.cache/nanochat-tests). A mock would not show what the store is built against: real signatures, real error
codes, multipart uploads. Fixtures: `s3_server` (session) and `s3_url` (an empty bucket of the test's own, with the
AWS_* variables set). Without a way to install it the tests are skipped, on CI they fail.
"""

import ctypes
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pinned_venv
import pytest

from flows import swift

SERVICES = (*swift.STORAGE_SERVICES, "proxy")
KEY, SECRET = "test:tester", "testing"
START_ATTEMPTS = 3  # a free port may be taken by somebody else before the server binds it
READY_S = 30.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Where the running server is, and a key that may do everything."""

    endpoint: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    @cached_property
    def client(self) -> Any:
        """A plain botocore client, for what a test does behind the store's back."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 3}),
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The running server."""
    binaries = install()
    server, processes = start(tmp_path_factory.mktemp("swift"), binaries)
    yield server
    stop(processes)


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment names the server and the key."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{secrets.token_hex(8)}"
    s3_server.client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def install() -> Path:
    """The `bin` folder of a venv with the pinned server."""
    return pinned_venv.programs("swift", swift.LOCK)


def start(root: Path, binaries: Path) -> tuple[S3Server, list[subprocess.Popen[bytes]]]:
    """Start the four processes below `root` and wait until they answer."""
    for attempt in range(START_ATTEMPTS):
        home = root / f"try-{attempt}"
        ports = _free_ports(len(SERVICES))
        swift.configure(home, binaries, dict(zip(SERVICES, ports, strict=True)), key=KEY, secret=SECRET)
        processes = [_launch(binaries, home, service) for service in SERVICES]
        if _wait_until_ready(home, processes, ports):
            server = S3Server(endpoint=f"http://127.0.0.1:{ports[-1]}", key=KEY, secret=SECRET)
            return server, processes
        stop(processes)
    logs = "\n".join(path.read_text()[-500:] for path in sorted(root.glob("*/*.log")))
    raise RuntimeError(f"the S3 test server did not start; its logs end with\n{logs}")


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()  # acknowledged objects survive this, and the folder goes away anyway
    for process in processes:
        process.wait()


def _launch(binaries: Path, home: Path, service: str) -> subprocess.Popen[bytes]:
    command = swift.command(home, binaries, service)
    with open(home / f"{service}.log", "wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )


def _die_with_parent() -> None:
    # A test run that is killed with -9 has no chance to stop the server; the kernel does it then.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_ready(home: Path, processes: list[subprocess.Popen[bytes]], ports: list[int]) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            return False
        if all(swift.answers(home, service, port) for service, port in zip(SERVICES, ports, strict=True)):
            return True
        time.sleep(0.05)
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
