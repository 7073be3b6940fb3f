"""A real S3 server for tests: SeaweedFS on loopback, the one that `nanochat up --local` starts, without containers.

`make dev` installs it. A mock would not show what the store is built against: real signatures, real error codes,
multipart uploads. Fixtures: `s3_server` (session) and `s3_url` (an empty bucket of the test's own, with the AWS_*
variables set).
"""

import ctypes
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from flows import seaweedfs
from flows.stack import is_free
from flows.stack_store import answers_http

KEY, SECRET = "tester", "testing-testing"
START_ATTEMPTS = 3  # a free port may be taken by somebody else before the server binds it
READY_S = 60.0
VOLUME_MB = 30  # each bucket takes a file of data of its own, of which the disk's free space makes so many
LOW_PORTS = range(10_500, 22_000)  # and as much above for gRPC: below those that the kernel hands out
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
    server, process, ports = start(tmp_path_factory.mktemp("seaweedfs"))
    yield server
    stop(process, ports)


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment names the server and the key."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{secrets.token_hex(8)}"
    s3_server.client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def start(root: Path) -> "tuple[S3Server, subprocess.Popen[bytes], list[int]]":
    """Start the server below `root` and wait until it answers; its ports come last."""
    weed = seaweedfs.program()
    assert weed is not None, "make dev installs SeaweedFS"
    for attempt in range(START_ATTEMPTS):
        folder, ports = root / f"try-{attempt}", _free_ports()
        seaweedfs.configure(folder, key=KEY, secret=SECRET)
        command = [*seaweedfs.command(weed, folder, ports), f"-master.volumeSizeLimitMB={VOLUME_MB}"]
        with open(folder / "output.log", "wb") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **seaweedfs.environment(folder)}, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent,
            )  # fmt: skip
        server = S3Server(endpoint=f"http://127.0.0.1:{ports[0]}", key=KEY, secret=SECRET)
        if _wait_until_ready(process, server):
            return server, process, ports
        stop(process, ports)
    logs = "\n".join(path.read_text()[-500:] for path in sorted(root.glob("*/output.log")))
    raise RuntimeError(f"the S3 test server did not start; its logs end with\n{logs}")


def stop(process: "subprocess.Popen[bytes]", ports: list[int]) -> None:
    process.kill()  # acknowledged objects survive this, and the folder goes away anyway
    process.wait()
    seaweedfs.sweep(ports)


def _die_with_parent() -> None:
    # A test run that is killed with -9 has no chance to stop the server; the kernel does it then.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_ready(process: "subprocess.Popen[bytes]", server: S3Server) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers_http(f"{server.endpoint}/healthz"):
            return True
        time.sleep(0.05)
    return False


def _free_ports() -> list[int]:
    found: list[int] = []
    while len(found) < len(seaweedfs.PARTS):
        port = random.choice(LOW_PORTS)
        if port not in found and is_free(port) and is_free(port + seaweedfs.GRPC_ABOVE):
            found.append(port)
    return found
