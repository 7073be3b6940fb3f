"""One prompt on its way through the engine's thread, and what the event loop hears of it.

Two threads meet here and share nothing but these objects: the engine's thread makes `Update`s and hands them over with
`call_soon_threadsafe`; the event loop reads them from one queue per HTTP request. Numbers that the engine's thread
writes are read after the last update only.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nanochat_core.inference.engine import Request
from nanochat_core.inference.logprobs import TokenLogprobs
from nanochat_core.inference.tool_loop import End, Event, Text
from nanochat_core.serve.errors import ApiError

if TYPE_CHECKING:
    from nanochat_core.serve.prompts import Prompt

TELL_EVERY_S = 0.01  # of one answer, shorter than a screen shows: a small model says ten tokens in it
SHORT_TOKENS = 192  # prompts and answers of a request that may take a row which is kept for the short


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought for one prompt."""

    index: int
    events: Sequence[Event] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    scores: Sequence[TokenLogprobs] = ()
    """Of the prompt's own tokens after the first, and of the one that would follow."""
    error: ApiError | None = None
    is_last: bool = False


class Job:
    """A prompt to be continued (`request`), or one whose own tokens are to be scored (`request` is None)."""

    def __init__(self, prompt: "Prompt", request: Request | None = None, *, index: int = 0, num_top: int = 0) -> None:
        self.prompt, self.request, self.index, self.num_top = prompt, request, index, num_top
        self.inbox: Inbox | None = None
        self.client: tuple[str, str] = ("", "")
        """Whose turn it is: address and key."""
        self.is_short = self.is_single = self.is_whole = False
        """Whether its whole request asks for little, is this one prompt, and is told of the end alone, not of steps."""
        self.is_cancelled = False
        self.asked_s = time.monotonic()
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.num_tokens = 0
        self._told_s = -math.inf
        self._events: list[Event] = []
        self._logprobs: list[TokenLogprobs] = []

    @property
    def turn(self) -> tuple[str, str, int]:
        """Address, key and request: those on each level take turns."""
        return *self.client, id(self.inbox)

    @property
    def is_light(self) -> bool:
        """Neither part of a batch nor a long prompt that is being read: what others should not have to wait for."""
        return self.is_single and (self.first_s is not None or len(self.prompt.ids) <= SHORT_TOKENS)

    @property
    def cost(self) -> int:
        """Tokens that the model may have to read and write for it."""
        return len(self.prompt.ids) + (0 if self.request is None else self.request.sampling.max_new_tokens)

    @property
    def ttft_s(self) -> float:
        """From the request to its first token."""
        return (self.first_s or time.monotonic()) - self.asked_s

    @property
    def tokens_per_s(self) -> float:
        """Of the tokens after the first, which waited for the prompt."""
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return 0.0
        return (self.num_tokens - 1) / (self.last_s - self.first_s)

    def keep(self, events: Sequence[Event], logprobs: Sequence[TokenLogprobs]) -> bool:
        """Take note of what a step brought; whether it is time to tell it, with what was kept before."""
        self._events += events
        self._logprobs += logprobs
        is_anything = bool(self._events or self._logprobs)
        return is_anything and (self.last_s or 0.0) >= self._told_s + TELL_EVERY_S

    def update(self, *, error: ApiError | None = None, is_last: bool = False) -> Update:
        """All that is not told yet; an error comes after it."""
        events, self._events = self._events, []
        logprobs, self._logprobs = self._logprobs, []
        self._told_s = time.monotonic()
        return Update(self.index, events, logprobs, error=error, is_last=is_last)

    def count_tokens(self) -> list[float]:
        """Take note of the tokens that a step brought; the seconds each took after the one before."""
        assert self.request is not None
        num_new = len(self.request.answer.tokens) - self.num_tokens
        now = time.monotonic()
        gaps = [] if self.last_s is None or not num_new else [(now - self.last_s) / num_new] * num_new
        if num_new:
            self.first_s, self.last_s = self.first_s or now, now
            self.num_tokens += num_new
        return gaps


class Listener(Protocol):
    """Who can take a job back."""

    def cancel(self, jobs: Sequence[Job]) -> None: ...


@dataclass
class Inbox:
    """Where the updates of one HTTP request arrive, in the order in which they happened."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    updates: asyncio.Queue[Update] = field(default_factory=asyncio.Queue)


class Answers:
    """The prompts of one HTTP request, being answered."""

    def __init__(
        self,
        scheduler: Listener,
        jobs: Sequence[Job],
        *,
        client: tuple[str, str] = ("", ""),
        is_whole: bool = False,
    ) -> None:
        self.scheduler, self.jobs = scheduler, list(jobs)
        self._inbox = Inbox()
        is_short = sum(job.cost for job in self.jobs) <= SHORT_TOKENS
        for job in self.jobs:
            job.inbox, job.client, job.is_whole = self._inbox, client, is_whole
            job.is_short, job.is_single = is_short, len(self.jobs) == 1
        self._num_open = len(self.jobs)

    async def updates(self) -> AsyncIterator[list[Update]]:
        """Everything that has happened since the last look, until every prompt has its end; ApiError on failure."""
        while self._num_open:
            arrived = [await self._inbox.updates.get()]
            while not self._inbox.updates.empty():  # a reader that is behind gets more at once
                arrived.append(self._inbox.updates.get_nowait())
            self._num_open -= sum(update.is_last for update in arrived)
            yield arrived
            for update in arrived:
                if update.error is not None:
                    raise update.error

    def cancel(self) -> None:
        """Nobody waits any more; what is finished stays finished. May be called twice."""
        self.scheduler.cancel([job for job in self.jobs if not job.is_cancelled])


def deliver(updates: Iterable[tuple[Job, Update]]) -> None:
    """From the engine's thread: one wake-up of each event loop, whatever the number of updates."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Update], Update]]] = {}
    for job, update in updates:
        if job.inbox is not None:
            by_loop.setdefault(job.inbox.loop, []).append((job.inbox.updates, update))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, pairs)
        except RuntimeError:  # the loop is closed: its clients are gone with it
            continue


def _put_all(pairs: list[tuple[asyncio.Queue[Update], Update]]) -> None:
    for queue, update in pairs:
        queue.put_nowait(update)


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring texts joined."""
    joined: list[Event] = []
    for event in events:
        if isinstance(event, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + event.text)
        else:
            joined.append(event)
    return joined


def end_of(events: Iterable[Event]) -> End | None:
    return next((event for event in events if isinstance(event, End)), None)
