"""The thread that runs one model: it admits requests into free rows, steps, and hands out what happened.

The thread owns the batch; others only append to its queue and mark jobs as cancelled, under one lock that is never
held while the model computes. A job that is cancelled leaves its row before the next step. When the engine fails, every
job that waits is told so at once, later ones are refused, and /health says why: nobody is left hanging.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence

from nanochat_core.inference.engine import Batch, Engine, Request
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import Event
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.jobs import Job, Update, deliver
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.metrics import ModelMetrics
from nanochat_core.serve.scoring import score_prompt
from nanochat_core.serve.turns_taken import Turns

log = logging.getLogger(__name__)
LIGHT_SHARE = 3  # seconds for those who wait for one prompt, for each second that also went to batches and long prompts
MEMORY = 0.9  # of the running mean of seconds per answer, which Retry-After is guessed from


class Scheduler:
    """Serves one engine; `submit` and `cancel` may be called from any thread."""

    def __init__(self, name: str, engine: Engine, *, limits: Limits, metrics: ModelMetrics) -> None:
        self.name, self.engine, self.limits, self.metrics = name, engine, limits, metrics
        self.failure: str | None = None
        self._changed = threading.Condition()
        self._waiting = Turns()
        self._running: dict[int, Job] = {}  # by _key: what holds a row, or is being scored
        self._is_closing = self._has_cancelled = False
        self._mean_s = 1.0
        self._light_s = -math.inf  # when a light request was here
        self._owed_s = 0.0  # to the light ones, for what was computed beside them
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        metrics.watch("queue_requests", self._num_waiting)
        metrics.watch("running_requests", lambda: float(len(self._running)))
        metrics.watch("rows", lambda: float(limits.num_rows))

    def start(self) -> None:
        self._thread.start()

    @property
    def is_missed(self) -> bool:
        """Whether a light request would miss the time that other work takes: one has been here within a second."""
        return time.monotonic() < self._light_s + 1.0

    def _num_waiting(self) -> float:
        with self._changed:  # whoever counts while somebody adds gets an error and no number
            return float(len(self._waiting))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs into the queue, all or none. ApiError 429 when it is full, 503 when the engine is gone."""
        with self._changed:
            self._check_open(len(jobs), jobs[0].client if jobs else ("", ""))
            self._waiting.add(jobs)
            self._changed.notify()
        for job in jobs:
            self.metrics.count("prompt_tokens", len(job.prompt.ids))

    def check_open(self, num_jobs: int, client: tuple[str, str]) -> None:
        """The refusal that `submit` would give, before prompts are read for nothing."""
        with self._changed:
            self._check_open(num_jobs, client)

    def _check_open(self, num_jobs: int, client: tuple[str, str]) -> None:
        if self.failure is not None:
            raise ApiError(503, f"the engine of {self.name} has stopped: {self.failure}", code="engine_failed")
        if self._is_closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        limits, num_ahead = self.limits, len(self._waiting) + len(self._running)
        most = limits.num_rows + limits.max_waiting
        if num_jobs > most:
            raise ApiError(400, f"{num_jobs} prompts in one request; this server takes {most}", param="prompt")
        if num_jobs == 1:  # who fills the queue with batches, or from one address, keeps nobody else out of it
            most += limits.num_kept_places
            most += limits.num_kept_places * (num_ahead >= most and not self._holds_any(client[0]))
        if num_ahead + num_jobs > most:
            self.metrics.count("rejected_requests", num_jobs)
            wait_s = self._mean_s * max(1, len(self._waiting)) / limits.num_rows
            raise ApiError(
                429, f"{num_ahead} requests are being answered or waiting; this server takes {most}",
                code="queue_full", retry_after_s=min(wait_s, limits.retry_after_max_s),
            )  # fmt: skip

    def _holds_any(self, address: str) -> bool:
        return any(job.client[0] == address for job in [*self._running.values(), *self._waiting])

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
            self._has_cancelled = bool(jobs) or self._has_cancelled
            self._changed.notify()

    def close(self, *, timeout_s: float) -> None:
        """Stop after the current step; who still waits is told so."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            batch = self._rows()
            while not self._is_closing:
                try:
                    self._turn(batch)
                except Exception as error:
                    batch = self._after_failure(error)
        except Exception as error:  # whatever it was, those who wait must hear of it
            log.exception("the engine of %s has stopped", self.name)
            with self._changed:
                self.failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._end_all(ApiError(500, f"the engine of {self.name} failed", code="engine_failed"))
        else:
            self._end_all(ApiError(503, "the server is shutting down", code="shutting_down"))

    def _rows(self) -> Batch:
        return self.engine.slots(self.limits.num_rows + 2 * self.limits.num_kept_rows)

    def _after_failure(self, error: Exception) -> Batch:
        """Fresh rows after a step that failed for all who were in it; raises again where the engine itself is broken.

        Those who wait were no part of the step, and must not pay for what one request did to it.
        """
        with self._changed:
            ended = list(self._running.values())
            self._running.clear()
        self.metrics.count("failed_requests", len(ended))
        problem = ApiError(500, f"the engine of {self.name} failed", code="engine_failed")
        deliver((job, job.update(error=problem, is_last=True)) for job in ended)
        log.error("a step of %s failed and ended %d answers", self.name, len(ended), exc_info=error)
        batch = self._rows()
        probe = self.engine.request([self.engine.tokenizer.bos], Sampling(max_new_tokens=1, temperature=0.0))
        batch.add([probe])
        while not probe.is_done:
            batch.step()
        return batch

    def _turn(self, batch: Batch) -> None:
        """Wait for work; let go of what was cancelled, take on what fits, and step once."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._is_closing)
            gone = [job for job in self._running.values() if job.is_cancelled]
            abandoned = self._waiting.drop_cancelled() if self._has_cancelled else 0
            self._has_cancelled = False
        for job in gone:
            assert job.request is not None
            batch.drop(job.request)
            del self._running[_key(job)]
        self.metrics.count("cancelled_requests", len(gone) + abandoned)
        admitted = self._admit()
        if admitted:
            batch.add(admitted)
        if self._running:
            self._step(batch)

    def _step(self, batch: Batch) -> None:
        """Go on with all, or with the light ones alone until they had their share of the time."""
        light = self._light()
        if light:
            self._light_s = time.monotonic()
        is_mixed = 0 < len(light) < len(self._running)
        only = light if is_mixed and self._owed_s > 0 else None
        started = time.monotonic()
        self._hand_out(batch.step(only))
        took_s = time.monotonic() - started
        self._owed_s = LIGHT_SHARE * took_s if is_mixed and only is None else max(0.0, self._owed_s - took_s)

    def _light(self) -> set[Request]:
        """Who is not to wait for the others: light requests from addresses that hold no more rows than their share."""
        num_held = Counter(job.client[0] for job in self._running.values())
        share = len(self._running) / len(num_held)
        running = [job for job in self._running.values() if job.is_light and num_held[job.client[0]] <= share]
        return {job.request for job in running if job.request is not None}

    def _admit(self) -> list[Request]:
        """Take from the queue what there are rows for, in turns; a prompt to score is scored on the way."""
        admitted: list[Request] = []
        while True:
            with self._changed:
                job = self._waiting.take(self._may_go)
                if job is None:
                    break
                self._running[_key(job)] = job  # at no moment is it in neither
            if job.request is None:
                self._score(job)
                break  # between two scorings the others get a step
            admitted.append(job.request)
        return admitted

    def _may_go(self, job: Job) -> bool:
        """Whether there is a row for this job: the last are kept for who holds none, those before for the short too."""
        if job.request is None:  # others decode for as long as the scoring before took
            return not self._running or not self._owed_s
        num_beyond, num_kept = len(self._running) - self.limits.num_rows, self.limits.num_kept_rows
        if num_beyond < num_kept:
            return num_beyond < 0 or job.is_short or self._holds_no_row(job.client[0])
        return num_beyond < 2 * num_kept and self._holds_no_row(job.client[0])

    def _holds_no_row(self, address: str) -> bool:
        return all(held.client[0] != address for held in self._running.values())

    def _score(self, job: Job) -> None:
        started = time.monotonic()
        try:
            entries = score_prompt(self.engine.model, job.prompt.ids, num_top=job.num_top)
        except Exception as error:  # whatever this prompt did, it is nobody else's matter
            log.error("a prompt could not be scored by %s", self.name, exc_info=error)
            return self._fail(job)
        self._owed_s = LIGHT_SHARE * (time.monotonic() - started)
        if any(math.isnan(entry.logprob) for entry in entries):
            return self._fail(job)
        self._finish(job)
        deliver([(job, Update(job.index, scores=entries, is_last=True))])

    def _fail(self, job: Job) -> None:
        """End one job whose numbers are none, or on which its own work broke."""
        del self._running[_key(job)]
        self.metrics.count("failed_requests")
        problem = ApiError(500, "the model's answer to this prompt could not be computed", code="answer_failed")
        deliver([(job, job.update(error=problem, is_last=True))])

    def _hand_out(self, happened: Sequence[tuple[Request, Sequence[Event]]]) -> None:
        updates: list[tuple[Job, Update]] = []
        num_tokens = 0
        for request, events in happened:
            job = self._running.get(id(request))
            if job is None or job.request is None:
                continue
            if request.failure is not None:
                log.error("an answer of %s failed", self.name, exc_info=request.failure)
                self._fail(job)
                continue
            num_before, is_first = job.num_tokens, job.first_s is None
            for gap in job.count_tokens():
                self.metrics.gap.observe(gap)
            if is_first and job.first_s is not None:
                self.metrics.ttft.observe(job.ttft_s)
            num_tokens += job.num_tokens - num_before
            is_done, answer = job.request.is_done, job.request.answer
            if is_done:
                self._finish(job)
            logprobs = answer.logprobs[num_before : job.num_tokens]
            if job.is_whole:
                events, logprobs = (answer.events, answer.logprobs) if is_done else ((), [])
            if job.keep(events, logprobs) or is_done:
                updates.append((job, job.update(is_last=is_done)))
        self.metrics.count("generated_tokens", num_tokens)
        deliver(updates)

    def _finish(self, job: Job) -> None:
        del self._running[_key(job)]
        self.metrics.count("finished_requests")
        took_s = (job.last_s or job.asked_s) - (job.first_s or job.asked_s)
        self._mean_s = MEMORY * self._mean_s + (1 - MEMORY) * took_s

    def _end_all(self, error: ApiError) -> None:
        """Tell everybody who waits that no answer will come."""
        with self._changed:
            self._is_closing = True
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self.metrics.count("failed_requests", len(left))
        deliver((job, job.update(error=error, is_last=True)) for job in left)


def _key(job: Job) -> int:
    return id(job if job.request is None else job.request)
