"""What a Prefect database says of a run that has ended, in the order in which the run's page shows it."""

import contextlib
import socket
import sqlite3
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FlowRun:
    """The newest flow run of a database."""

    state: str
    tasks: dict[str, str]
    """State name of each task run, by the task run's name."""
    artifacts: list[str]
    """Keys."""


def newest_flow_run(prefect_home: Path) -> FlowRun:
    """Read from the file: a server over it would take seconds to start and say the same."""
    with contextlib.closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
        newest = "SELECT id, state_name FROM flow_run ORDER BY start_time DESC LIMIT 1"
        [(run_id, state)] = database.execute(newest)
        tasks = database.execute("SELECT name, state_name FROM task_run WHERE flow_run_id = ?", [run_id]).fetchall()
        of_run = "SELECT key FROM artifact WHERE flow_run_id = ? AND type IS NOT 'result' ORDER BY id DESC"
        artifacts = [key for (key,) in database.execute(of_run, [run_id])]
    assert len(dict(tasks)) == len(tasks), "two task runs go by one name"
    return FlowRun(state, dict(tasks), artifacts)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
