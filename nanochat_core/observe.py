"""Events go up: what a running step tells whoever watches (a terminal, Prefect, nobody).

The watcher is a context variable with one owner, the command line or the flow; steps and libraries only speak.
"""

import os
import platform
from contextvars import ContextVar
from typing import Any, Protocol


class Observer(Protocol):
    """What can be told."""

    def step_started(self, step: str, title: str) -> None: ...

    def step_progress(self, step: str, done: float, total: float, text: str) -> None: ...

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        """A record of a training as it happens: loss, throughput, validation."""
        ...

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None: ...

    def step_failed(self, step: str, message: str) -> None: ...

    def note(self, text: str) -> None: ...


class Silence:
    """Nobody watches."""

    def step_started(self, step: str, title: str) -> None: ...

    def step_progress(self, step: str, done: float, total: float, text: str) -> None: ...

    def step_record(self, step: str, record: dict[str, Any]) -> None: ...

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None: ...

    def step_failed(self, step: str, message: str) -> None: ...

    def note(self, text: str) -> None: ...


_observer: ContextVar[Observer] = ContextVar("observer", default=Silence())  # noqa: B039 (Silence has no state)


_run_name: ContextVar[str] = ContextVar("run name", default="")


def call_run(name: str) -> None:
    """Say which run this context's steps are of, for those who wait for what they hold."""
    _run_name.set(name)


def who() -> str:
    """This process, for people: its run, where that has a name, and its number."""
    process = f"process {os.getpid()} on {platform.node() or 'this machine'}"
    return f"{name} ({process})" if (name := _run_name.get()) else process


def current() -> Observer:
    return _observer.get()


def use(observer: Observer) -> None:
    """Make `observer` the one that this context's steps speak to."""
    _observer.set(observer)
