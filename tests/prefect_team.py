"""A Prefect server, workers and runs for tests of what a team uses: real processes, asked through the API.

Everything started here dies with the test process, and each module has its own server on a free port.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import first_home
import pytest
import yaml
from conftest import MICRO, ROOT
from flow_runs import free_port
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.server import EmbeddedServer
from nanochat_core.base.process import die_with_parent
from nanochat_core.cli.prefect_api import authorization

Json = dict[str, Any]
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # those in memory do not survive a restart
POLL_S = 0.4
ENDLESS = (  # a training that only a stop ends, and only a stop saves a checkpoint of
    "pretrain.max_tokens=1000000000",
    "pretrain.tokens_per_param=1000000",
    "runtime.checkpoint_every_s=3600",
)


class Team:
    """One server, one store, and the workers that a test starts."""

    def __init__(self, folder: Path, server: EmbeddedServer, corpus: Path) -> None:
        self.folder, self.server, self.url, self.corpus = folder, server, server.url, corpus
        self.headers = {"Content-Type": "application/json", **authorization(server.auth, None)}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.machine: dict[str, str] = {}
        """What else workers that are started from now on have in their environment."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.server.exports,
            "PREFECT_HOME": str(self.folder / "client"),
            "NANOCHAT_HOME": str(self.folder / "home"),
            "NANOCHAT_STORE": str(self.folder / "home/store"),
            "NANOCHAT_PULSE_S": "3",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "1",
            **self.machine,
        }

    def nanochat(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def deploy(self, *names: str) -> None:
        done = self.nanochat("deploy", *(names or ["--all"]))
        assert done.returncode == 0, done.stderr

    def work(self, pool: str, name: str, *, module: str = "prefect worker start") -> "subprocess.Popen[bytes]":
        """Start a worker of a pool: Prefect's own, or ours around it (flows.stack_worker)."""
        command = [sys.executable, "-m", *module.split(), "--pool", pool, "--name", name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent, start_new_session=True,
            )  # fmt: skip
        return self.workers[name]

    def api(self, path: str, body: Json | None = None, method: str = "POST") -> Any:
        """A request, tried again while SQLite is busy: it waits a minute for a lock."""
        for attempt in range(5):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{self.url}/{path}", data, self.headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except (urllib.error.HTTPError, TimeoutError) as error:
                if getattr(error, "code", 503) != 503 or attempt == 4:
                    raise
                time.sleep(1)

    def as_client(self) -> Any:
        """Within the block Prefect's own client talks to this server."""
        return temporary_settings({PREFECT_API_URL: self.url, PREFECT_API_AUTH_STRING: self.server.auth})

    def start(self, deployment: str = "speedrun/speedrun", *, tags: tuple[str, ...] = (), **parameters: Any) -> str:
        """Start a run as the UI's form does; returns its id."""
        there = self.api(f"deployments/name/{deployment}", method="GET")
        run = self.api(f"deployments/{there['id']}/create_flow_run", {"parameters": parameters, "tags": list(tags)})
        return str(run["id"])

    def speedrun(self, *sets: str, tags: tuple[str, ...] = (), **more: Any) -> str:
        """Start the small pipeline on the small corpus."""
        overrides = [*MICRO, "corpus.source=path", f"corpus.path={self.corpus}", *sets]
        return self.start(tags=tags, **{"preset": "tiny", "overrides": overrides, **more})

    def run(self, run_id: str) -> Json:
        found: Json = self.api(f"flow_runs/{run_id}", method="GET")
        return found

    def wait(self, run_id: str, *states: str, timeout_s: float = 400) -> Json:
        """Wait until the run is in one of the states, by name."""
        run = self.until(lambda: self.run(run_id), lambda run: run["state_name"] in states, timeout_s)
        return run

    def until(self, look: Callable[[], Any], is_right: Callable[[Any], bool], timeout_s: float = 400) -> Any:
        deadline = time.monotonic() + timeout_s
        while not is_right(seen := look()):
            assert time.monotonic() < deadline, f"still {str(seen)[:2000]}\n{self.logs()}"
            time.sleep(POLL_S)
        return seen

    def tasks(self, run_id: str) -> dict[str, list[str]]:
        """State names of a run's task runs, by step."""
        found: dict[str, list[str]] = {}
        for task in self.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}}):
            found.setdefault(task["name"].split(" ")[0], []).append(task["state_name"])
        return found

    def artifacts(self, run_id: str) -> list[Json]:
        found: list[Json] = self.api("artifacts/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return found

    def log(self, run_id: str) -> str:
        """Of a run's page."""
        lines = self.api("logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"})
        return "\n".join(line["message"] for line in lines)

    def cards(self, run_id: str, key: str) -> str:
        """What the run's artifacts of a name say of themselves."""
        return "\n".join(each["description"] for each in self.artifacts(run_id) if each["key"] == key)

    def children(self) -> list[Json]:
        """The runs of gpu_step, oldest first."""
        found = self.api("flow_runs/filter", {"flows": {"name": {"any_": ["gpu_step"]}}, "sort": "START_TIME_ASC"})
        return list(found)

    def logs(self) -> str:
        """The ends of the workers' logs, for a failure's message."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)

    def processes(self, marker: str) -> dict[int, str]:
        """Living processes of this team whose command line has `marker`: number -> command line."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                is_ours = str(self.folder).encode() in (path / "environ").read_bytes()
                if is_ours and marker in command and int(path.name) != os.getpid():
                    found[int(path.name)] = command
        return found

    def ranks(self) -> list[int]:
        return [*self.processes("nanochat_core.train.worker")]

    def engines(self) -> list[int]:
        """Flow processes."""
        return [*self.processes("prefect.engine"), *self.processes("prefect flow-run execute")]

    def wait_for_training(self) -> None:
        """Until a rank that lives has taken a few steps, so that there is something to save."""

        def num_steps() -> int:
            plans = [command.split()[-1] for command in self.processes("nanochat_core.train.worker").values()]
            return max((_num_steps(Path(plan).parent / "metrics.jsonl") for plan in plans), default=0)

        self.until(num_steps, lambda number: number > 3)

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
        for pid, command in self.processes("").items():
            if "flows.embedded" in command:
                continue  # the server goes on
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _num_steps(metrics: Path) -> int:
    with contextlib.suppress(OSError):
        return metrics.read_text().count('"event": "step"')
    return 0


@contextlib.contextmanager
def team_in(folder: Path, corpus: Path) -> Iterator[Team]:
    """A server with an empty database, and nobody who works."""
    first_home.seed(folder / "home", folder / "prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder / "home"))
        patch.setenv("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", LEASES)
        server = EmbeddedServer(folder / "prefect", free_port(), folder / "server.log")
        server.wait_until_ready()
    team = Team(folder, server, corpus)
    try:
        yield team
    finally:
        team.stop()
        server.stop()


def shorten_silence(team: Team, within_s: int) -> None:
    """Let the zombie automation judge sooner, to go with the tests' quicker pulse."""
    [spec] = [s for s in yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
              if s["name"] == "nanochat-zombies"]  # fmt: skip
    [there] = [a for a in team.api("automations/filter", {}) if a["name"] == "nanochat-zombies"]
    spec["trigger"]["within"] = within_s
    team.api(f"automations/{there['id']}", spec, method="PUT")
