"""A pool of warm workers that run programs side by side; how they shut programs in is chosen once, by trying."""

import os
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self

from nanochat_core.base.errors import ConfigError, HardwareError, NanochatError
from nanochat_core.sandbox.launcher import MODES, UNSAFE
from nanochat_core.sandbox.outcome import Limits, Outcome
from nanochat_core.sandbox.seccomp import is_known_machine
from nanochat_core.sandbox.worker import Worker, WorkerLostError

HINT = "runtime.allow_unsafe_code=true (--unsafe) runs them unprotected: only on a machine with nothing to lose"


class Sandbox:
    """Runs programs that nobody has read, `num_workers` at once. A context manager.

    `allow_unsafe`: where this machine can isolate nothing, go on with limits and clean-up only, instead of refusing.
    `modes`: the ways of isolation to try, best first; for tests of the second best.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        num_workers: int | None = None,
        allow_unsafe: bool = False,
        modes: Sequence[str] = MODES,
    ) -> None:
        self.limits = limits or Limits()
        self.num_workers = num_workers or os.cpu_count() or 1
        self._modes = [*modes, *([UNSAFE] if allow_unsafe else [])]
        self._mode: str | None = None
        self._capabilities: dict[str, str] = {}
        # One entry per worker; None: not started yet, or lost.
        self._idle: queue.Queue[Worker | None] = queue.Queue()

    def __enter__(self) -> Self:
        first = self._first_worker()
        self._capabilities = first.facts
        for worker in [first, *[None] * (self.num_workers - 1)]:
            self._idle.put(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(self.num_workers):
            worker = self._idle.get()
            if worker is not None:
                worker.stop()
        self._mode = None

    def run(self, program: str) -> Outcome:
        """Run one program; once more, on a new worker, where its worker is lost: that may be the machine's doing."""
        try:
            return self._run(program)
        except WorkerLostError:
            pass
        try:
            return self._run(program)
        except WorkerLostError as lost:
            return Outcome("crashed", "", "", f"its sandbox was lost twice: {lost}", self.limits.wall_s)

    def _run(self, program: str) -> Outcome:
        if self._mode is None:
            raise ConfigError("the sandbox is not open", hint="with Sandbox(limits) as sandbox: ...")
        worker = self._idle.get()
        try:
            if worker is None or not worker.is_usable:
                worker = None
                worker = Worker(self._mode, self.limits)
            return worker.run(program)
        finally:
            self._idle.put(worker)

    def run_many(self, programs: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """Run all programs; outcome i belongs to program i. `progress(done, total)` is called after each."""
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="sandbox") as threads:
            running = [threads.submit(self.run, program) for program in programs]
            try:
                for done, _ in enumerate(as_completed(running), start=1):
                    if progress:
                        progress(done, len(programs))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            return [one.result() for one in running]

    def capabilities(self) -> dict[str, str]:
        """What this machine gives: isolation, and how network, files and left-over processes are dealt with."""
        return dict(self._capabilities)

    def _first_worker(self) -> Worker:
        if sys.platform != "linux" or not is_known_machine():
            raise HardwareError(
                f"generated code is run on Linux (x86_64 or aarch64) only; this is {sys.platform}",
                hint="use a Linux machine or a container",
            )
        refusals = []
        for mode in self._modes:
            try:
                worker = Worker(mode, self.limits)
            except NanochatError as error:
                refusals.append(error.message)
                continue
            self._mode = mode
            return worker
        raise HardwareError(f"generated code cannot be shut in here ({'; '.join(refusals)})", hint=HINT)
