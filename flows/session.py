"""A flow that a command runs while somebody looks on: the question before it costs money, the display, the last lines.

Shared by the verbs that start flows (cli.py, sweeps_cli.py), so that they end alike: after a Ctrl-C the server still
takes the log's last lines, and a finished run is not left before all of its task runs are in the database.
Prefect is imported late, as it takes a second that refusals and lists need not wait for.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from flows.server import EmbeddedServer
from nanochat_core import observe
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.stopping import was_told
from nanochat_core.cli.display import Display, Titles, display

ASK_ABOVE_USD = 1.0  # what costs more is started after a yes
DRAIN_S = 5
_is_leaving = False
Result = TypeVar("Result")


def confirm_cost(what: str, usd: float, *, yes: bool) -> None:
    """Ask whether to start `what` where it costs money and somebody is there to answer; a no ends the command."""
    if usd > ASK_ABOVE_USD and not yes and sys.stdin.isatty():
        typer.confirm(f"Start a {what} of about ${usd:,.0f}?", abort=True, err=True)


def run_flow(
    server: EmbeddedServer | None,
    start: Callable[[], Any],
    titles: Titles,
    *,
    num_tasks: Callable[[Result], int],
    without: Callable[[Display], Result],
) -> Result:
    """The result of the flow that `start` runs (it returns the state), or its error.

    `titles` are the display's rows; `num_tasks` says how many task runs a result stands for. `without` comes to the
    same result without Prefect: what is made is in the store, so it goes on where a server that died left the flow.
    """
    from tasks.policy import show_core_logs

    show_core_logs()
    logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)  # it reports each event that a dead server missed
    if server is None:
        with display(titles) as watching:
            observe.use(watching)
            return _drained(start).result()
    server.wait_until_ready()
    global _is_leaving
    _is_leaving = True
    with display(titles) as watching:
        observe.use(watching)
        if sys.stderr.isatty():  # not into a log, which others may read
            watching.note(f"page {server.page}  password {server.auth}")
        server.watch(watching.note)
        state = _beside(server, start, watching)
        if state is None:
            watching.note("Prefect's server died; the run goes on without it and its page")
            return without(watching)
    result: Result = state.result()
    if state.is_completed() and state.state_details.flow_run_id is not None:
        server.wait_until_recorded(str(state.state_details.flow_run_id), num_tasks(result))
    return result


def _beside(server: EmbeddedServer, start: Callable[[], Any], watching: Display) -> Any:
    """The flow's final state, or None when the server's death kept it from one."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.patience import GaveUpError, bounded

    # Prefect's own heartbeat: nobody else reads it here, and it costs a second at the end
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), bounded(server, watching.is_working):
            state = _drained(start)
            return state if state.is_completed() or not server.has_died() or _is_ours(state) else None
    except GaveUpError:
        return None
    except Exception:
        if was_told() or not server.has_died():
            raise
        return None


def leave(code: Any) -> None:
    """End the process; at once where a run's server has ended: Prefect's threads would ask for it, the exit wait."""
    if not _is_leaving:
        sys.exit(code)
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _is_ours(state: Any) -> bool:
    """Whether a run failed by itself, and not because Prefect could not reach its server."""
    return isinstance(state.result(raise_on_failure=False), NanochatError)


def _drained(start: Callable[[], Any]) -> Any:
    """The state that `start` returns; the log's last lines are with the server by then."""
    from prefect.logging.handlers import APILogWorker

    try:
        return start()
    finally:  # after Ctrl-C too: while there is a server to take the last lines, or the exit waits a minute for it
        APILogWorker.drain_all(timeout=DRAIN_S)
