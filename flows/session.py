"""A flow that a command runs while somebody looks on: the question before it costs money, the display, the last lines.

Shared by the verbs that start flows (cli.py, sweeps_cli.py), so that they end alike: after a Ctrl-C the server still
takes the log's last lines, and a finished run is not left before all of its task runs are in the database.
Prefect is imported late, as it takes a second that refusals and lists need not wait for.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from flows.server import EmbeddedServer
from nanochat_core import observe
from nanochat_core.cli.display import Titles, display

ASK_ABOVE_USD = 1.0  # what costs more is started after a yes
DRAIN_S = 5
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
) -> Result:
    """The result of the flow that `start` runs (it returns the state), or its error.

    `titles` are the display's rows; `num_tasks` says how many task runs a result stands for.
    """
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from tasks.policy import show_core_logs

    show_core_logs()
    settings: dict[Any, Any] = {}
    if server is not None:
        server.wait_until_ready()
        settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None  # nobody else reads it here; it costs a second at the end
    try:
        with temporary_settings(settings), display(titles) as watching:
            observe.use(watching)
            state = start()
    finally:  # after Ctrl-C too: while there is a server to take the last lines, or the exit waits a minute for it
        APILogWorker.drain_all(timeout=DRAIN_S)
    result: Result = state.result()
    if server is not None and state.is_completed() and state.state_details.flow_run_id is not None:
        server.wait_until_recorded(str(state.state_details.flow_run_id), num_tasks(result))
    return result
