"""A real S3 server for tests: OpenStack Swift with its S3 interface, on loopback, without containers.

It comes from PyPI alone and is installed once, with pinned versions, into a venv below `$NANOCHAT_TEST_CACHE`
(default ~/.cache/nanochat-tests). A mock would not show what the store is built against: real signatures, real error
codes, multipart uploads. Fixtures: `s3_server` (session) and `s3_url` (an empty bucket of the test's own, with the
AWS_* variables set). Without a way to install it the tests are skipped, on CI they fail.
"""

import ctypes
import fcntl
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

LOCK = Path(__file__).with_name("s3_requirements.lock")
SERVICES = ("account", "container", "object", "proxy")
START_ATTEMPTS = 3  # a free port may be taken by somebody else before the server binds it
READY_S = 30.0
PR_SET_PDEATHSIG = 1

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = default
default = yes
"""

# workers = 0 serves from the one process that was started: no child can outlive it.
COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {etc}
user = {user}
log_name = {service}
log_level = WARNING
"""

STORAGE = """\
devices = {node}
mount_check = false
fallocate_reserve = 1%
[pipeline:main]
pipeline = {service}-server
[app:{service}-server]
use = egg:swift#{service}
[{service}-updater]
recon_cache_path = {etc}
"""

PROXY_FILTERS = ("catch_errors", "gatekeeper", "cache", "listing_formats", "bulk", "s3api", "tempauth", "slo", "dlo")
PROXY_OPTIONS = {
    "cache": "memcache_servers = 127.0.0.1:9",  # nobody listens there, and nothing is cached
    "s3api": "location = us-east-1\ns3_acl = false\ndns_compliant_bucket_names = yes",
    "tempauth": "user_test_tester = testing .admin",
}
FILTER_NAMES = {"cache": "memcache"}


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
    try:
        binaries = install()
    except (subprocess.SubprocessError, OSError) as error:
        reason = f"the S3 test server cannot be installed: {_said(error)}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
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
    """The `bin` folder of a venv with the pinned server, made once; a half-made one is made again."""
    root = Path(os.environ.get("NANOCHAT_TEST_CACHE") or Path.home() / ".cache" / "nanochat-tests")
    version = next(line for line in LOCK.read_text().splitlines() if line.startswith("swift==")).partition("==")[2]
    venv = root / f"swift-{version}-py{sys.version_info.major}{sys.version_info.minor}"
    done = venv / "installed.lock"
    root.mkdir(parents=True, exist_ok=True)
    with open(venv.with_suffix(".installing"), "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test sessions at once
        if not done.is_file() or done.read_text() != LOCK.read_text():
            shutil.rmtree(venv, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(venv))
            _run(str(venv / "bin" / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(LOCK))
            _run(str(venv / "bin" / "pip"), "check")
            done.write_text(LOCK.read_text())
    return venv / "bin"


def start(root: Path, binaries: Path) -> tuple[S3Server, list[subprocess.Popen[bytes]]]:
    """Start the four processes below `root` and wait until they answer."""
    for attempt in range(START_ATTEMPTS):
        home = root / f"try-{attempt}"
        ports = _free_ports(len(SERVICES))
        _configure(home, binaries, dict(zip(SERVICES, ports, strict=True)))
        processes = [_launch(binaries, home, service) for service in SERVICES]
        if _wait_until_ready(processes, ports):
            server = S3Server(endpoint=f"http://127.0.0.1:{ports[-1]}", key="test:tester", secret="testing")
            return server, processes
        stop(processes)
    logs = "\n".join(path.read_text()[-500:] for path in sorted(root.glob("*/*.log")))
    raise RuntimeError(f"the S3 test server did not start; its logs end with\n{logs}")


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()  # acknowledged objects survive this, and the folder goes away anyway
    for process in processes:
        process.wait()


def _configure(home: Path, binaries: Path, ports: dict[str, int]) -> None:
    etc, node = home / "etc", home / "node"
    etc.mkdir(parents=True)
    (node / "d1").mkdir(parents=True)
    (etc / "swift.conf").write_text(SWIFT_CONF)
    for service, port in ports.items():
        body = PROXY_BODY if service == "proxy" else STORAGE
        text = (COMMON + body).format(port=port, etc=etc, node=node, service=service, user=getpass.getuser())
        (etc / f"{service}-server.conf").write_text(text)
        if service != "proxy":
            _write_ring(binaries, etc / f"{service}.builder", port)


def _proxy_body() -> str:
    lines = ["[pipeline:main]", f"pipeline = {' '.join(PROXY_FILTERS)} proxy-server", "[app:proxy-server]"]
    lines += ["use = egg:swift#proxy", "allow_account_management = true", "account_autocreate = true"]
    for name in PROXY_FILTERS:
        lines += [f"[filter:{name}]", f"use = egg:swift#{FILTER_NAMES.get(name, name)}", PROXY_OPTIONS.get(name, "")]
    return "\n".join(lines) + "\n"


PROXY_BODY = _proxy_body()


def _write_ring(binaries: Path, builder: Path, port: int) -> None:
    """One device, one replica, 16 partitions."""
    tool = str(binaries / "swift-ring-builder")
    _run(tool, str(builder), "create", "4", "1", "1")
    _run(tool, str(builder), "add", f"r1z1-127.0.0.1:{port}/d1", "1")
    _run(tool, str(builder), "rebalance")


def _launch(binaries: Path, home: Path, service: str) -> subprocess.Popen[bytes]:
    command = [str(binaries / f"swift-{service}-server"), str(home / "etc" / f"{service}-server.conf"), "--verbose"]
    with open(home / f"{service}.log", "wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )


def _die_with_parent() -> None:
    # A test run that is killed with -9 has no chance to stop the server; the kernel does it then.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_ready(processes: list[subprocess.Popen[bytes]], ports: list[int]) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            return False
        if all(_answers(port) for port in ports):
            return True
        time.sleep(0.05)
    return False


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=600)


def _said(error: BaseException) -> str:
    output = getattr(error, "stderr", None) or b""
    return " ".join((output.decode(errors="replace").strip() or str(error)).split())[-500:]
