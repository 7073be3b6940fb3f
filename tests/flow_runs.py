"""What a Prefect database says of a run: asked from a server over it, started for the question on a free port."""

import json
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.server import EmbeddedServer
from nanochat_core.cli.prefect_api import authorization


@dataclass(frozen=True)
class FlowRun:
    """The newest flow run of a database."""

    state: str
    tasks: dict[str, str]
    """State name of each task run, by the task run's name."""
    artifacts: list[str]
    """Keys."""


def newest_flow_run(prefect_home: Path, log: Path) -> FlowRun:
    """Read it as the UI does."""
    server = EmbeddedServer(prefect_home, free_port(), log)
    try:
        server.wait_until_ready()
        [newest] = post(server, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
        chosen = {"flow_runs": {"id": {"any_": [newest["id"]]}}}
        tasks = post(server, "task_runs/filter", chosen)
        assert len({run["name"] for run in tasks}) == len(tasks), "two task runs go by one name"
        artifacts = post(server, "artifacts/filter", chosen)
    finally:
        server.stop()
    return FlowRun(
        newest["state_name"],
        {run["name"]: run["state_name"] for run in tasks},
        [artifact["key"] for artifact in artifacts],
    )


def post(server: EmbeddedServer, path: str, body: dict[str, Any]) -> Any:
    """What a server answers."""
    headers = {"Content-Type": "application/json", **authorization(server.auth, None)}
    request = urllib.request.Request(f"{server.url}/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
