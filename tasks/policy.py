"""What makes a core function a Prefect task of ours: name, retries, and how a cache hit is shown.

The store's manifests are the only truth about what is cached. Prefect's own result cache is left off (it would be a
second record, and one that can be stale); a step that was found in the store ends in the state `Cached`, which is
what a hit looks like everywhere in Prefect, also with a new Prefect database.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from nanochat_core.base.errors import TrainingError
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import RunPlan
from nanochat_core.store.failures import UnreachableError
from nanochat_core.store.lease import LeaseLostError

StepFunction = Callable[..., Any]


def can_heal(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Retry what another try may mend: I/O, the network, a killed training; a step that another driver took over, too:
    the retry waits for that one and finds its artifact. A wrong setting or a bug stays wrong."""
    try:
        state.result()
    except (OSError, TrainingError, UnreachableError, LeaseLostError):
        return True
    except Exception:
        return False
    return False


def as_task(function: StepFunction, *, name: str, run_name: str, retries: int) -> Task[..., Any]:
    """A Prefect task around a function that returns a ref; a cached ref ends it in the state `Cached`."""

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        ref = function(*args, **kwargs)
        if not ref.is_cached:
            return ref
        return Completed(name="Cached", message=f"found {ref.short} in the store", data=ref)

    return task(
        body,
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=can_heal,
        log_prints=False,
    )


def step(*, retries: int = 2) -> Callable[[StepFunction], StepFunction]:
    """Decorate a step function; the result is called like the function and returns its ref.

    A step that the plan leaves out is no task run at all: the call returns None.
    """

    def decorate(function: StepFunction) -> StepFunction:
        name = function.__name__
        prefect_task = as_task(function, name=name, run_name=name, retries=retries)

        @functools.wraps(function)
        def call(plan: RunPlan, *args: Any, **kwargs: Any) -> Ref | None:
            if not STEPS[name].is_wanted(plan):
                return None
            result = prefect_task(plan, *args, **kwargs)
            return result.result() if isinstance(result, State) else result

        return call

    return decorate


def show_core_logs() -> None:
    """Let the core's log lines reach the run's log; needs PREFECT_LOGGING_EXTRA_LOGGERS=nanochat_core as well."""
    logging.getLogger("nanochat_core").setLevel(logging.INFO)
