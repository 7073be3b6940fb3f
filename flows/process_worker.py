"""Prefect's process worker as flows.stack_worker starts it: `python -m flows.process_worker worker start --pool gpu`.

Three things are other than in Prefect 3.9. A run's process is the engine itself: Prefect's worker starts a Python that
prepares a workspace and then starts a second one, and ours find their code where the worker stands. What the worker
says of a process that ended counts only while the run is still at that attempt: it says so twice, and between the two
the run may have been scheduled again and begun elsewhere, to be called Crashed there. And a run that could not be
submitted, because the server was away for a moment, goes back to be taken again.
"""

import contextlib
import warnings
from collections import Counter
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.states import AwaitingRetry
from prefect.workers.process import ProcessWorker

from flows.waits import BEGIN_AGAIN

ENDED = "Flow run infrastructure exited"  # how Prefect's messages begin
NOT_SUBMITTED = "Failed to submit flow run to infrastructure"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the place of Prefect's for pools of this type, as it is meant to

    class Worker(ProcessWorker):
        """Of pools of the type process."""

        type = "process"

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._times_back: Counter[UUID] = Counter()

        async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> Any:
            """Run the engine with this Python where the pool names no other command."""
            configuration._command_configured = True
            return await super().run(flow_run, configuration, task_status)

        async def _propose_crashed_state(
            self, flow_run: FlowRun, message: str, client: PrefectClient | None = None
        ) -> None:
            client = client or self.client
            with contextlib.suppress(HTTPError, PrefectException):  # else Prefect's own tries, and its words
                if await self._is_settled(client, flow_run, message):
                    return
            await super()._propose_crashed_state(flow_run, message, client)

        async def _is_settled(self, client: PrefectClient, flow_run: FlowRun, message: str) -> bool:
            """Whether there is nothing left to say of the run, as it was when this worker took it."""
            seen = await client.read_flow_run(flow_run.id)
            if message.startswith(ENDED):
                is_its_own = seen.run_count <= flow_run.run_count + 1
                return seen.state_type != StateType.RUNNING or not is_its_own
            is_waiting = message.startswith(NOT_SUBMITTED) and seen.state_type == StateType.PENDING
            if is_waiting and self._may_go_back(flow_run):
                told = f"{message}; it is scheduled again"
                await client.set_flow_run_state(flow_run.id, AwaitingRetry(message=told), force=True)
                return True
            return False

        def _may_go_back(self, flow_run: FlowRun) -> bool:
            self._times_back[flow_run.id] += 1
            return self._times_back[flow_run.id] <= BEGIN_AGAIN


if __name__ == "__main__":
    from prefect.cli import app

    app()
