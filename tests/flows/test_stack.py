"""A lasting server from nothing: PostgreSQL, an S3 server, Prefect and its workers as plain processes of this machine.

The tests of this file share one stack and go in order: first it works, then it is hurt, then it is taken down.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from flows import seaweedfs, stack_parts, stack_process
from flows.worker_release import HEADER
from nanochat_core.cli.prefect_api import authorization

pytestmark = pytest.mark.slow
OTHER = 4242  # the id of a user that this machine does not have
CANARIES = {
    name: f"canary-{name}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GITHUB_TOKEN")
}
# what another user of the machine can find out: files of the folder, command lines and environments, secrets in them
LOOK = """
import json, os, pathlib, sys
folder, secrets = sys.argv[1], json.load(sys.stdin)
def read(path):
    try: return path.read_bytes()
    except OSError as error: return type(error).__name__
def listed(path):
    try: return os.listdir(path)
    except OSError as error: return type(error).__name__
names = ("", "store", "store/data", "store/logs", "database", "database-socket", "prefect", "logs")
files = ("env", "stack.json", "lock", "logs/server.log", "store/keys.json", "store/private.pem", "database/PG_VERSION")
shown = [path for name in ("cmdline", "environ") for path in pathlib.Path("/proc").glob("[0-9]*/" + name)]
told = b"".join(each for each in map(read, shown) if isinstance(each, bytes))
print(json.dumps({
    "uid": os.getuid(),
    "listed": {name: listed(os.path.join(folder, name)) for name in names},
    "read": [name for name in files if isinstance(read(pathlib.Path(folder, name)), bytes)],
    "told": [name for name, secret in secrets.items() if secret.encode() in told],
}))
"""
FLOW = """
import pathlib, time
from prefect import flow
from nanochat_core import workspace

@flow
def probe(seconds: float, marks: str):
    space = workspace.current()
    space.store.files.create("probe", b"written by a worker")
    pathlib.Path(marks, "began").touch()
    try:
        time.sleep(seconds)
    except BaseException:
        pathlib.Path(marks, "saved").touch()
        raise
"""


class Stack:
    """What a user types, and what the server says."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.api_url = f"http://127.0.0.1:{port}/api"
        hidden = ("PREFECT_", "NANOCHAT_", "AWS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        own = {"NANOCHAT_HOME": str(folder / "home"), "PREFECT_WORKER_QUERY_SECONDS": "1", "OMP_NUM_THREADS": "1"}
        self.environment = kept | own | CANARIES | {"DO_NOT_TRACK": "1"}

    def nanochat(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def up(self, *more: str) -> subprocess.CompletedProcess[str]:
        done = self.nanochat("up", "--local", "--folder", str(self.folder / "stack"), *more)
        assert done.returncode == 0, done.stderr
        return done

    def states(self) -> set[str]:
        """What `nanochat ps` says of all parts."""
        done = self.nanochat("ps", "--json")
        assert done.returncode == 0, done.stderr
        return {row["state"] for row in json.loads(done.stdout)}

    def pids(self) -> dict[str, int | None]:
        names = [path.stem for path in (self.folder / "stack/pids").iterdir()]
        return {name: stack_process.pid_of(self.folder / "stack", name) for name in names}

    def kill(self, name: str, number: int) -> None:
        pid = self.pids()[name]
        assert pid is not None
        os.kill(pid, number)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **authorization(self.exports()["PREFECT_API_AUTH_STRING"], None)}
        request = urllib.request.Request(f"{self.api_url}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def exports(self) -> dict[str, str]:
        lines = (self.folder / "stack/env").read_text().splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)

    def start_probe(self, seconds: float) -> tuple[str, Path]:
        """Start a run on the cpu pool; returns its id and the folder of its marks."""
        (self.folder / "probe.py").write_text(FLOW)
        marks = Path(tempfile.mkdtemp(dir=self.folder))
        flow = self.api("POST", "flows/", {"name": "probe"})
        deployment = {
            "name": "probe",
            "flow_id": flow["id"],
            "entrypoint": "probe.py:probe",
            "work_pool_name": "cpu",
            "enforce_parameter_schema": False,
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(self.folder)}}],
        }
        identity = self.api("POST", "deployments/", deployment)["id"]
        body = {"parameters": {"seconds": seconds, "marks": str(marks)}}
        return self.api("POST", f"deployments/{identity}/create_flow_run", body)["id"], marks

    def state(self, run_id: str) -> str:
        return str(self.api("GET", f"flow_runs/{run_id}")["state_name"])

    def processes(self) -> dict[int, str]:
        """Whatever lives with this folder in its command line or environment."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                if str(self.folder).encode() in command + (path / "environ").read_bytes():
                    found[int(path.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found


def until(is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A running stack in a folder that the database's user may enter, which pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="nanochat-stack-"))
    folder.chmod(0o711)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        stack = Stack(folder, probe.getsockname()[1])
    try:
        yield stack
    finally:
        for pid in stack.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_up_from_nothing_starts_everything_and_says_what_is_not_installed(stack: Stack) -> None:
    done = stack.up("--port", str(stack.port))
    held = json.loads((stack.folder / "stack/stack.json").read_text())
    assert ("SQLite" in done.stderr) == (held["database"] == "sqlite") == (stack_parts.postgres_programs() is None)
    assert held["store"] == "seaweedfs"
    assert stack.states() == {"running"}
    assert (stack.folder / "stack/env").stat().st_mode & 0o777 == 0o600
    assert held["store_secret"] not in done.stdout + done.stderr
    pools = {pool["name"]: pool["concurrency_limit"] for pool in stack.api("POST", "work_pools/filter", {})}
    assert pools == {"cpu": None, "gpu": None}
    settings = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/ui-settings", timeout=30).read())
    assert settings["api_url"] == stack.api_url, "the page asks the server that it came from"


def test_a_run_goes_through_a_worker_and_reaches_the_store(stack: Stack) -> None:
    run_id, _ = stack.start_probe(0.0)
    until(lambda: stack.state(run_id) == "Completed")
    read = "from nanochat_core import workspace; print(workspace.current().store.files.read('probe').decode())"
    done = subprocess.run(
        [sys.executable, "-c", read],
        env={**stack.environment, **stack.exports()},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "written by a worker", done.stderr


def test_nothing_of_it_answers_without_the_password_or_to_a_page_of_somebody_else(stack: Stack) -> None:
    body, secret = b"{}", authorization(stack.exports()["PREFECT_API_AUTH_STRING"], None)
    wrong = authorization("nanochat:guessed", None)
    cases = {
        401: [{}, wrong, {"Authorization": "Bearer x"}],
        403: [{"Host": "evil.example", **secret}, {"Origin": "http://evil.example", **secret}, {"Origin": "null"}],
    }
    for path in ("flows/filter", "ui/flow_runs/count-task-runs", "deployments/filter"):
        for status, headers in ((status, each) for status, all_headers in cases.items() for each in all_headers):
            request = urllib.request.Request(
                f"{stack.api_url}/{path}", body, {"Content-Type": "application/json", **headers}
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)
            assert refused.value.code == status, (path, headers)
            assert "access-control-allow-origin" not in refused.value.headers


def test_the_store_and_the_database_refuse_whoever_has_no_key(stack: Stack) -> None:
    held = json.loads((stack.folder / "stack/stack.json").read_text())
    for path in ("", "nanochat", "nanochat/store"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{held['ports'][2]}/{path}", timeout=30)
        assert refused.value.code in (401, 403)
    if held["database"] == "postgresql":
        programs = stack_parts.postgres_programs()
        host = str(stack.folder / "stack/database-socket")
        for password in ("guessed", held["database_password"], None):
            command = [
                str(programs / "createdb"),
                "-h",
                host,
                "-p",
                str(held["ports"][1]),
                "-U",
                "prefect",
                "-w",
                "prefect",
            ]
            environment = {"PATH": os.environ["PATH"]} | ({"PGPASSWORD": password} if password else {})
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert ("already exists" in done.stderr) == (password == held["database_password"]), done.stderr


def test_only_the_page_and_the_store_have_ports(stack: Stack) -> None:
    psutil = pytest.importorskip("psutil")
    held = json.loads((stack.folder / "stack/stack.json").read_text())
    found: dict[str, set[tuple[str, int]]] = {}
    for name, pid in stack.pids().items():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        ends = []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child that has just ended
                ends += process.net_connections("inet")
        found[name] = {tuple(end.laddr) for end in ends if end.status == "LISTEN"}
    controls = [found.pop(name) for name in list(found) if name.startswith("worker")]
    inside = {port + above for port in held["ports"][2:] for above in (0, seaweedfs.GRPC_ABOVE)}
    assert set.union(*found.values()) == {("127.0.0.1", port) for port in (stack.port, *inside)}
    for host, port in set.union(*controls):  # by which Prefect's worker stops a run of its own, who says a token
        assert host == "127.0.0.1"
        gone = contextlib.suppress(ConnectionRefusedError)  # the run that had it has just ended
        with gone, socket.create_connection((host, port), timeout=30) as guess:
            guess.sendall(b"0" * 32 + b"\n")
            assert guess.recv(100) == b""


def test_what_the_store_has_inside_answers_no_stranger(stack: Stack) -> None:
    held = json.loads((stack.folder / "stack/stack.json").read_text())
    ports = dict(zip(seaweedfs.PARTS, held["ports"][2:], strict=True))
    asked = {
        "master": ["dir/assign", "dir/status", "vol/status", "col/delete?collection=nanochat", "submit"],
        "filer": ["", "buckets/nanochat/", "buckets/nanochat/store?recursive=true"],
        "volume": ["ui/index.html", "1,01637037d6"],
        "admin": ["", "login"],
    }
    for part, paths in asked.items():
        for method, path in ((method, path) for method in ("GET", "POST", "DELETE") for path in paths):
            address = f"http://127.0.0.1:{ports[part]}/{path}"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=30)
            assert 400 <= refused.value.code < 500, (part, method, path)
    for part, port in ports.items():
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greeting(port + seaweedfs.GRPC_ABOVE)
        assert greeting(port + seaweedfs.GRPC_ABOVE, stack.folder / "stack/store"), part


def greeting(port: int, folder: Path | None = None) -> bytes:
    """What a gRPC port says first to a client without a certificate, or with the one of the store's folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if folder is not None:
        context.load_cert_chain(folder / "certificate.pem", folder / "private.pem")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        return secured.recv(100)


def test_a_service_is_not_told_the_secrets_of_others(stack: Stack) -> None:
    for name, pid in stack.pids().items():
        told = Path(f"/proc/{pid}/environ").read_bytes().decode()
        known = {secret for secret, value in CANARIES.items() if value in told}
        assert known == ({"HF_TOKEN"} if name.startswith("worker") else set()), name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.usefixtures("other_users")
def test_another_user_of_the_machine_reads_and_lists_nothing(stack: Stack) -> None:
    held = json.loads((stack.folder / "stack/stack.json").read_text())
    secrets = {name: held[name] for name in ("server_auth", "database_password", "store_secret")}
    secrets |= {"the same, as it is sent": authorization(held["server_auth"], None)["Authorization"].split()[1]}
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-c", LOOK, str(stack.folder / "stack")], user=OTHER, group=OTHER,
        extra_groups=[], cwd="/", env={}, input=json.dumps(secrets), capture_output=True, text=True,
    )  # fmt: skip
    seen = json.loads(done.stdout or done.stderr)
    assert seen["uid"] == OTHER
    assert set(seen["listed"].values()) <= {"PermissionError", "FileNotFoundError"}, seen["listed"]
    assert (seen["read"], seen["told"]) == ([], [])
    logs = b"".join(path.read_bytes() for path in (stack.folder / "stack/logs").iterdir())
    assert not [name for name, secret in secrets.items() if secret.encode() in logs]


def test_deploy_finds_the_password_by_itself(stack: Stack) -> None:
    deployed = stack.nanochat("deploy", "speedrun")
    assert deployed.returncode == 0, deployed.stderr
    given = {"PREFECT_API_URL": stack.api_url}
    stack.environment |= given
    again = stack.nanochat("deploy", "speedrun")
    del stack.environment["PREFECT_API_URL"]
    assert again.returncode == 0, again.stderr
    assert "unchanged" in again.stdout


def test_a_second_up_changes_nothing_and_other_wishes_are_refused(stack: Stack) -> None:
    before = stack.pids()
    assert "started" not in stack.up().stderr
    assert stack.pids() == before
    refused = stack.nanochat("up", "--local", "--folder", str(stack.folder / "stack"), "--port", str(stack.port + 1))
    assert refused.returncode == 2, refused.stderr
    assert "already" in refused.stderr


def test_a_run_under_way_saves_and_is_not_left_running_when_its_worker_stops(stack: Stack) -> None:
    run_id, marks = stack.start_probe(600.0)
    until((marks / "began").exists)
    stack.kill("worker-cpu", signal.SIGTERM)
    until(lambda: stack.pids()["worker-cpu"] is None)
    assert (marks / "saved").exists()
    assert stack.state(run_id) == "Crashed"
    assert not [command for command in stack.processes().values() if "prefect.engine" in command]


def test_what_was_killed_is_started_again_with_its_data(stack: Stack) -> None:
    before = stack.pids()
    victims = {name for name in ("database", "worker-gpu") if name in before}
    for name in victims:
        stack.kill(name, signal.SIGKILL)
    said = stack.up().stderr
    after = stack.pids()
    assert {name for name in before if after[name] != before[name]} == victims | {"worker-cpu"}, said
    assert stack.states() == {"running"}
    assert stack.api("POST", "flow_runs/count", {}) == 2


@pytest.mark.torture
def test_after_an_upgrade_up_starts_all_of_it_anew_and_keeps_the_database_as_it_was(stack: Stack) -> None:
    stack.up("--port", str(stack.port))
    run_id, _ = stack.start_probe(0.0)
    until(lambda: stack.state(run_id) == "Completed")
    before = stack.pids()
    file, earlier = stack.folder / "stack/release.json", {"nanochat": "0.2.0", "prefect": "3.8.8"}
    now = json.loads(file.read_text())
    file.write_text(json.dumps(earlier))
    said = stack.up().stderr
    assert "what runs is of nanochat 0.2.0 with Prefect 3.8.8: it is started again as" in said
    assert not set(stack.pids().values()) & set(before.values())
    assert json.loads(file.read_text()) == now
    assert stack.state(run_id) == "Completed"
    [copy] = (stack.folder / "stack/copies").iterdir()
    assert copy.name.startswith("prefect-3.8.8-")
    assert str(copy) in said
    assert copy.stat().st_mode & 0o777 == 0o600
    if copy.suffix == ".dump":
        listed = subprocess.run(["pg_restore", "--list", copy], capture_output=True, text=True, env=_postgres_path())
        assert "TABLE DATA public flow_run " in listed.stdout, listed.stderr
    else:
        assert sqlite3.connect(copy).execute("select count(*) from flow_run").fetchone()[0] >= 1
    assert "started" not in stack.up().stderr

    stack.kill("worker-cpu", signal.SIGTERM)
    until(lambda: stack.pids()["worker-cpu"] is None)
    waiting, _ = stack.start_probe(0.0)
    told = {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({HEADER: "0.2.0"})}
    worker = subprocess.run(
        [sys.executable, "-m", "flows.process_worker", "worker", "start", "--pool", "cpu", "--run-once"],
        env={**stack.environment, **stack.exports(), **told}, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "this worker is of nanochat 0.2.0 and the server of" in worker.stdout + worker.stderr
    assert stack.state(waiting) in ("Scheduled", "Late")


def _postgres_path() -> dict[str, str]:
    return {"PATH": f"{stack_parts.postgres_programs()}:{os.environ['PATH']}"}


def test_down_leaves_data_and_no_process_and_wipe_leaves_nothing(stack: Stack) -> None:
    assert stack.nanochat("down").returncode == 0
    assert stack.processes() == {}
    assert (stack.folder / "stack/stack.json").is_file()
    assert stack.pids() == {}
    refused = stack.nanochat("down", "--wipe")
    assert refused.returncode == 2, "nobody is there to answer the question"
    wiped = stack.nanochat("down", "--wipe", "--yes")
    assert wiped.returncode == 0, wiped.stderr
    assert not (stack.folder / "stack").exists()
