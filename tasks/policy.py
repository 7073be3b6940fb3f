"""What makes a core function a Prefect task of ours: name, retries, where it runs, and how a cache hit is shown.

The store's manifests are the only truth about what is cached. Prefect's own result cache is left off (it would be a
second record, and one that can be stale); a step that was found in the store ends in the state `Cached`, which is
what a hit looks like everywhere in Prefect, also with a new Prefect database.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run, task_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from nanochat_core import observe
from nanochat_core.base import redaction
from nanochat_core.base.errors import TrainingError
from nanochat_core.pipeline.execute import execute
from nanochat_core.pipeline.step import Ref, Step, checks_of
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan
from nanochat_core.store.failures import UnreachableError
from nanochat_core.store.lease import LeaseLostError
from tasks import leftovers, log_budget, progress, pulse

RETRIES = 2
RETRIES_OF_TRAINING = 3  # each goes on from the last checkpoint
Sender = Callable[[str, RunPlan, Mapping[str, Ref]], Ref]
"""Makes a step elsewhere: name, plan and inputs in, its ref out."""
HOOKS: dict[str, Any] = {"on_crashed": [pulse.tell_cancelled], "on_cancellation": [leftovers.call_cancelled]}
"""Of every flow of ours that has steps."""

_sender: ContextVar[Sender | None] = ContextVar("sender", default=None)


@contextlib.contextmanager
def sending(sender: Sender | None) -> Iterator[None]:
    """Within the block GPU steps are made by `sender`; None: by this process."""
    token = _sender.set(sender)
    try:
        yield
    finally:
        _sender.reset(token)


def begin_run() -> None:
    """What a flow of ours does first: signs of life, and log lines that reach the server in bounded number and
    without secrets."""
    redaction.install()
    show_core_logs()
    if name := flow_run.name:
        observe.call_run(name)
    pulse.begin()
    leftovers.tell()


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


def as_task(
    function: Callable[..., Any], *, name: str, run_name: str | Callable[[], str], retries: int
) -> Task[..., Any]:
    """A Prefect task around a function that returns a ref; a cached ref ends it in the state `Cached`."""

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        with redaction.redacted_errors():  # a state keeps its error's text
            ref = function(*args, **kwargs)
        if not ref.is_cached:
            return ref
        return Completed(name="Cached", message=f"found {ref.short} in the store", data=ref)

    decorate = task(
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
    return decorate(body)


def step_task(step: Step) -> Task[..., Any]:
    """The task of a step, called with the plan and its inputs by name; its progress is shown, wherever it is made."""

    def run(plan: RunPlan, inputs: Mapping[str, Ref]) -> Ref:
        sender = _sender.get() if step.needs_gpu else None
        with pulse.in_step(), progress.shown(step.name, plan, inputs, has_log=sender is None and step.needs_gpu):
            ref = execute(step, plan, inputs) if sender is None else sender(step.name, plan, inputs)
            if not ref.is_cached:
                progress.publish_checks(step.name, checks_of(ref.metrics))
            return ref

    run.__doc__ = step.description
    retries = RETRIES_OF_TRAINING if step.job else RETRIES
    return as_task(run, name=step.name, run_name=title_of_run, retries=retries)


def title(name: str, plan: RunPlan) -> str:
    """What a step is and how big: "pretrain · depth 3 · 3.4M tokens"."""
    return " · ".join([name, *STEPS[name].title(plan).split(", ")])


def title_of_run() -> str:
    """Of the current task run."""
    return title(task_run.task_name, task_run.parameters["plan"])


def show_core_logs() -> None:
    """Let the core's log lines reach the run's log, at most hundreds of them; needs
    PREFECT_LOGGING_EXTRA_LOGGERS=nanochat_core as well."""
    logging.getLogger("nanochat_core").setLevel(logging.INFO)
    log_budget.install()
