"""How far a step is, as a progress artifact beside the task run; and the log of its ranks when it has ended.

The artifact is written by a thread of its own, every 10 s at most: a server that is slow or away then slows neither
the training nor the supervisor that follows it. A step that was found in the store shows no progress.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException

from nanochat_core import observe, workspace
from nanochat_core.base.child import LOG_NAME
from nanochat_core.base.units import dollars, size
from nanochat_core.cli.display import TrainingState
from nanochat_core.pipeline.step import ATTEMPT, LOG_FOLDER, Ref, step_key
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import GPUS, RunPlan
from nanochat_core.store.blobs import blob_key

log = logging.getLogger(__name__)
EVERY_S = 10.0
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
    finally:
        observe.use(outer)
        watching.close()
        if has_log and watching.has_run:
            publish_log(name, plan, inputs)


class TaskProgress:
    """An observer that passes everything on, and keeps the task run's progress artifact up to date."""

    def __init__(self, outer: observe.Observer, name: str, plan: RunPlan) -> None:
        self._outer, self._name = outer, name
        self._title = STEPS[name].title(plan)
        runtime = plan.config.runtime
        price = GPUS[runtime.gpu][2] if runtime.gpu in GPUS else 0.0
        price = runtime.usd_per_gpu_hour if runtime.usd_per_gpu_hour is not None else price
        self._usd_per_s = price * runtime.num_gpus / 3600
        self._began = time.monotonic()
        self._training = TrainingState()
        self._fraction, self._text, self._version = 0.0, "", 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

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
        if fraction is not None:
            self._show(fraction, self._training.line)

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        self._outer.step_finished(step, is_cached=is_cached, seconds=seconds, headline=headline)
        if self.has_run and step == self._name:
            self._show(1.0, headline)

    def step_failed(self, step: str, message: str) -> None:
        self._outer.step_failed(step, message)
        if self.has_run and step == self._name:
            self._show(self._fraction, f"failed: {message.splitlines()[0] if message else ''}")

    def note(self, text: str) -> None:
        self._outer.note(text)

    def close(self) -> None:
        """The last state, and no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _show(self, fraction: float, text: str) -> None:
        self._fraction, self._text, self._version = fraction, text, self._version + 1
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
        percent = round(100 * min(1.0, self._fraction), 1)
        if artifact is not None:
            update_progress_artifact(artifact, percent, self.description())
            return artifact
        key = f"{self._name.replace('_', '-')}-progress"
        created = create_progress_artifact(percent, key=key, description=self.description())
        assert isinstance(created, UUID)
        return created

    def description(self) -> str:
        """What the artifact says: the step, and on the last line its numbers."""
        spent = self._usd_per_s * (time.monotonic() - self._began)
        parts = [self._text, *([f"{dollars(spent)} so far"] if self._usd_per_s else [])]
        return f"**{self._name}** {self._title}\n\n{'  '.join(parts)}"


def publish_log(name: str, plan: RunPlan, inputs: Inputs) -> None:
    """The output of the step's ranks as an artifact of the task run, and where the whole of it is."""
    step, space = STEPS[name], workspace.current()
    digests = {source: ref.content if step.reads_logs else ref.digest for source, ref in inputs.items()}
    key = step_key(step, plan, digests)
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
            markdown=log_page(path, where), key=f"{name.replace('_', '-')}-log", description=f"output of {name}'s ranks"
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
