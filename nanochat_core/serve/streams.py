"""Waiting for answers over HTTP: server-sent events, or one body, and letting go when the client does.

sse-starlette frames the events, sends a comment when nothing else goes out, and ends the stream on a disconnect; what
is added here is that the jobs are cancelled on every way out, also when the stream never began.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import anyio
from fastapi import Request
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from nanochat_core.serve.errors import CLIENT_CLOSED, ApiError
from nanochat_core.serve.jobs import Answers, Update
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.replies import Reply

log = logging.getLogger(__name__)
DONE = "[DONE]"
SEPARATOR = "\n"


class ReplyStream(EventSourceResponse):
    """Chunks as they come, then [DONE]; an error after the start is an event of its own."""

    def __init__(self, chunks: AsyncIterator[Reply], answers: Answers, *, limits: Limits) -> None:
        super().__init__(
            _events(chunks),
            ping=limits.ping_s,
            ping_message_factory=lambda: ServerSentEvent(comment="waiting", sep=SEPARATOR),
            sep=SEPARATOR,
            send_timeout=limits.stalled_s,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=limits.shutdown_s,
        )
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("a reader took nothing of its stream for too long and was let go")
        finally:
            self._answers.cancel()


async def _events(chunks: AsyncIterator[Reply]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for chunk in chunks:
            yield ServerSentEvent(chunk.line(), sep=SEPARATOR)
    except ApiError as error:
        yield ServerSentEvent(json.dumps(error.body), sep=SEPARATOR)
    else:
        yield ServerSentEvent(DONE, sep=SEPARATOR)


async def gathered(request: Request, answers: Answers) -> list[Update]:
    """Every update until the last answer has ended. A client that goes away takes its jobs with it."""

    async def collect() -> list[Update]:
        return [update async for arrived in answers.updates() for update in arrived]

    collecting = asyncio.ensure_future(collect())
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ApiError(CLIENT_CLOSED, "the client went away")
        return collecting.result()
    finally:
        collecting.cancel()
        leaving.cancel()
        answers.cancel()


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
