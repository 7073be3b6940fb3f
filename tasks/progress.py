"""How far a step is, as a progress artifact beside the task run; its quality checks and its ranks' log at its end.

The artifact is written by a thread of its own, every 10 s at most: a server that is slow or away then slows neither
the training nor the supervisor that follows it. A step that was found in the store shows no progress.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException

from nanochat_core import observe, workspace
from nanochat_core.base.child import LOG_NAME
from nanochat_core.base.units import dollars, duration, size
from nanochat_core.cli.display import TrainingState
from nanochat_core.pipeline.execute import ATTEMPT, STOPPED
from nanochat_core.pipeline.step import LOG_FOLDER, Check, ChecksFailedError, Ref, step_key
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import GPUS, RunPlan
from nanochat_core.store.blobs import blob_key
from tasks.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

log = logging.getLogger(__name__)
page_log = logging.getLogger("nanochat_core.steps")  # loggers below this name reach the run's page (prefect.yaml)
EVERY_S = 10.0
LINE_EVERY_S = 60.0  # of a training, in the run's log
CLOSE_S = 5.0  # for the last update; a server that does not answer is not waited for
LOG_SHOWN_BYTES = 512 << 10  # of output.log in its artifact; the whole file is named there
API_ERRORS = (httpx.HTTPError, PrefectException, RuntimeError)
Inputs = Mapping[str, Ref]


@contextlib.contextmanager
def shown(name: str, plan: RunPlan, inputs: Inputs, *, has_log: bool) -> Iterator[None]:
    """Within the block what the step `name` tells is shown beside its task run as well."""
    if TaskRunContext.get() is None:
        yield
        return
    outer = observe.current()
    watching = TaskProgress(outer, name, plan)
    observe.use(watching)
    try:
        yield
    except ChecksFailedError as error:
        publish_checks(name, error.checks)
        raise
    finally:
        observe.use(outer)
        watching.close()
        if has_log and watching.has_run:
            publish_log(name, plan, inputs)


class Told:
    """What the artifact says of a step: how far it is, how long it takes and what it costs, and its own words."""

    def __init__(self, name: str, plan: RunPlan) -> None:
        self._name, self._title = name, STEPS[name].title(plan)
        runtime = plan.config.runtime
        # a processor has a price for those who ask for a limit; who runs on a laptop is not shown cents
        price = GPUS[runtime.gpu][2] if runtime.gpu in GPUS and runtime.gpu != "CPU" else 0.0
        price = runtime.usd_per_gpu_hour if runtime.usd_per_gpu_hour is not None else price
        self._usd_per_s = price * runtime.num_gpus / 3600
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None  # when progress was first heard of, and how much it was
        self._text = ""
        self.fraction, self.outcome = 0.0, ""

    def update(self, fraction: float, text: str) -> None:
        """Take in what the step says."""
        if self._first is None and fraction > 0:
            self._first = (time.monotonic(), fraction)  # what came before was starting up and compiling
        self.fraction, self._text = min(1.0, fraction), text

    def restart(self) -> None:
        """Time what is left from here on: what was told so far may be an earlier attempt's, repeated at once."""
        self._first = None

    def description(self) -> str:
        """Three paragraphs; a run's page shows the beginning of each, so the numbers that matter lead."""
        took_s = time.monotonic() - self._began
        spent = [f"{dollars(self._usd_per_s * took_s)} so far"] if self._usd_per_s else []
        going = [f"{self.fraction:.0%} done", *self._left()]
        parts = [f"{self.outcome} after {duration(took_s)}"] if self.outcome else going
        return f"**{self._name}** {self._title}\n\n{', '.join([*parts, *spent])}\n\n{self._text}"

    def _left(self) -> list[str]:
        if self._first is None or self.fraction <= self._first[1]:
            return []
        since_s, fraction = self._first
        left_s = (time.monotonic() - since_s) / (self.fraction - fraction) * (1 - self.fraction)
        return [f"{duration(left_s)} left"]


class TaskProgress:
    """An observer that passes everything on, and keeps the task run's progress artifact up to date."""

    def __init__(self, outer: observe.Observer, name: str, plan: RunPlan) -> None:
        self._outer, self._name = outer, name
        self._training = TrainingState()
        self._told, self._version = Told(name, plan), 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._line_at_s, self._saved_step = 0.0, 0

    @property
    def has_run(self) -> bool:
        """Whether the step did something, rather than being found."""
        return self._thread is not None

    def step_started(self, step: str, title: str) -> None:
        self._outer.step_started(step, title)

    def step_progress(self, step: str, done: float, total: float, text: str) -> None:
        self._outer.step_progress(step, done, total, text)
        self._show(done / total if total else 0.0, text)

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        self._outer.step_record(step, record)
        fraction = self._training.update(record)
        if record["event"] == "start":
            self._told.restart()
            self._saved_step = record["step"]
            if record["step"]:
                self._show(record["step"] / record["num_steps"], f"resumed at step {record['step']:,}")
        if record["event"] == "checkpoint":
            self._saved_step = record["step"]
        if fraction is not None:
            self._show(fraction, self._training.line)
            if time.monotonic() - self._line_at_s >= LINE_EVERY_S:
                self._line_at_s = time.monotonic()
                page_log.info("%s: %s", self._name, self._training.line)

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        self._outer.step_finished(step, is_cached=is_cached, seconds=seconds, headline=headline)
        if self.has_run and step == self._name:
            self._told.outcome = "done"
            self._show(1.0, headline)

    def step_failed(self, step: str, message: str) -> None:
        self._outer.step_failed(step, message)
        if self.has_run and step == self._name:
            is_stopped = message == STOPPED
            self._told.outcome = STOPPED if is_stopped else "failed"
            kept = f"stopped with the checkpoint of step {self._saved_step:,}" if self._saved_step else STOPPED
            self._show(self._told.fraction, kept if is_stopped else message.split("\n")[0])
            if is_stopped:
                page_log.info("%s: %s", self._name, kept)  # the page of a task shows no state's message

    def note(self, text: str) -> None:
        self._outer.note(text)
        page_log.info("%s", text if text.startswith(self._name) else f"{self._name}: {text}")

    def close(self) -> None:
        """The last state, and no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _show(self, fraction: float, text: str) -> None:
        self._told.update(fraction, text)
        self._version += 1
        if self._thread is None:
            context = contextvars.copy_context()  # which task run the artifact belongs to, and which server it is on
            self._thread = threading.Thread(target=context.run, args=(self._publish,), name="progress", daemon=True)
            self._thread.start()

    def _publish(self) -> None:
        """Create the artifact, then update it while there is news."""
        artifact: UUID | None = None
        published = 0
        while True:
            is_last = self._closed.is_set()
            if self._version != published:
                published = self._version
                try:
                    artifact = self._write(artifact)
                except API_ERRORS as error:
                    log.debug("progress of %s was not recorded: %s", self._name, error)
            if is_last:
                return
            self._closed.wait(EVERY_S)

    def _write(self, artifact: UUID | None) -> UUID:
        percent, said = round(100 * self._told.fraction, 1), self._told.description()
        if artifact is not None:
            update_progress_artifact(artifact, percent, said)
            return artifact
        created = create_progress_artifact(percent, key=f"{self._name.replace('_', '-')}-progress", description=said)
        assert isinstance(created, UUID)
        return created


def publish_checks(name: str, checks: Sequence[Check]) -> None:
    """The quality checks of a step as a table of its task run, those that it did not pass first."""
    if not checks or TaskRunContext.get() is None:
        return
    num_failed = sum(not check.is_passed for check in checks)
    told = f"{num_failed} of {len(checks)} FAILED: nothing was published" if num_failed else f"all {len(checks)} passed"
    rows = check_rows(sorted(checks, key=lambda check: check.is_passed))
    try:
        create_table_artifact(
            table=rows, key=f"{name.replace('_', '-')}-checks", description=f"{told}: quality checks of {name}"
        )
    except API_ERRORS as error:
        log.debug("the checks of %s were not recorded: %s", name, error)


def check_rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    """Checks as the rows of a table."""
    return [
        {"result": "passed" if each.is_passed else "FAILED", "check": each.check, "found": each.found,
         "wanted": each.wanted}
        for each in checks
    ]  # fmt: skip


def publish_log(name: str, plan: RunPlan, inputs: Inputs) -> None:
    """The output of the step's ranks as an artifact of the task run, and where the whole of it is."""
    step, space = STEPS[name], workspace.current()
    key = step_key(step, plan, step.digests(inputs))
    kept = f"{LOG_FOLDER}/{LOG_NAME}"
    made = space.store.find(name, key.fingerprint)
    if made is not None and kept in made.files:
        path = space.store.fetch(made, [kept]) / kept
        where = f"{space.store.url}/{blob_key(made.files[kept].sha256)}"
    else:
        attempts = sorted(space.work(name, key.fingerprint).glob(f"{ATTEMPT}-*/{LOG_NAME}"))
        if not attempts:
            return
        path, where = attempts[-1], str(attempts[-1])
    try:
        create_markdown_artifact(
            markdown=log_page(path, where),
            key=f"{name.replace('_', '-')}-log",
            description=f"what the processes of {name} printed",
        )
    except API_ERRORS as error:
        log.debug("the log of %s was not recorded: %s", name, error)


def log_page(path: Path, where: str) -> str:
    """A log as markdown: all of it, or its end where it is long."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, num_bytes - LOG_SHOWN_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    if not num_bytes:
        return f"`{where}` is empty: the ranks printed nothing.\n"
    shown = "All of it" if num_bytes <= LOG_SHOWN_BYTES else f"Its last {size(LOG_SHOWN_BYTES)}"
    lines = "\n".join(f"    {line}" for line in text.splitlines())  # indented: no line can end the block
    return f"`{where}` ({size(num_bytes)}). {shown}:\n\n{lines}\n"
