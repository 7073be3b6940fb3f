"""POST /v1/chat/completions: a conversation in, the assistant's next message out, whole or in chunks."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import Response as PlainResponse

from nanochat_core.inference.logprobs import TokenLogprobs
from nanochat_core.inference.tool_loop import End, Event, Text, ToolCall, ToolError, ToolResult
from nanochat_core.serve import prompts
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.guards import client_of
from nanochat_core.serve.jobs import Answers, Job, end_of, merged
from nanochat_core.serve.logprobs import chat_logprobs, num_bytes_of
from nanochat_core.serve.pool import ModelPool
from nanochat_core.serve.replies import (
    AnswerPart,
    AnswerParts,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChunkChoice,
    Delta,
    Finish,
    Speed,
    Usage,
    heading,
    usage,
)
from nanochat_core.serve.schema import ChatBody
from nanochat_core.serve.streams import ReplyStream, gathered
from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Exchange:
    """One request and the job that answers it."""

    body: ChatBody
    card: ModelCard
    tokenizer: Tokenizer
    job: Job
    head: dict[str, Any]

    @property
    def usage(self) -> Usage:
        return usage(len(self.job.prompt.ids), self.job.num_tokens)

    @property
    def speed(self) -> Speed:
        assert self.job.request is not None
        return Speed(
            seed=self.job.request.sampling.seed,
            ttft_s=round(self.job.ttft_s, 6),
            tokens_per_s=round(self.job.tokens_per_s, 3),
            prompt_tokens=len(self.job.prompt.ids),
            completion_tokens=self.job.num_tokens,
            context_tokens=self.card.context_tokens,
        )

    def logprobs(self, entries: Iterable[TokenLogprobs]) -> ChatLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChatLogprobs(content=chat_logprobs(self.tokenizer, entries), refusal=None)


async def answer_chat(pool: ModelPool, body: ChatBody, request: Request) -> Response:
    """Answer one chat request."""
    body.check_supported()
    card, scheduler = pool.ready(body.model)
    client = client_of(request)
    scheduler.check_open(1, client)
    engine = scheduler.engine

    def read() -> Job:
        prompt = prompts.chat_prompt(engine.tokenizer, body, context_tokens=card.context_tokens)
        prompts.check_room(prompt, context_tokens=card.context_tokens, param="messages")
        room = card.context_tokens - len(prompt.ids)
        sampling = prompts.chat_sampling(engine.tokenizer, body, room=room)
        return Job(prompt, engine.request(prompt.ids, sampling))

    num_bytes = sum(len(part.text) for message in body.messages for part in message.content)
    job = await pool.lane.read(read, num_bytes=num_bytes, client=client[0])
    answers = Answers(scheduler, [job], client=client, is_whole=not body.stream)
    scheduler.submit(answers.jobs)
    exchange = Exchange(body, card, engine.tokenizer, job, heading("chatcmpl", model=card.id, ref=card.ref))
    if body.stream:
        return ReplyStream(_chunks(exchange, answers), answers, limits=pool.limits)
    updates = await gathered(request, answers)
    events = merged(event for update in updates for event in update.events)
    entries = [entry for update in updates for entry in update.logprobs]
    written = await pool.lane.do(
        lambda: _whole(exchange, events, entries).body(), num_bytes=num_bytes_of(entries), client=client[0]
    )
    return PlainResponse(written, media_type="application/json")


def _whole(exchange: Exchange, events: Sequence[Event], entries: Sequence[TokenLogprobs]) -> ChatCompletion:
    message = ChatMessage(
        role="assistant",
        content="".join(event.text for event in events if isinstance(event, Text)),
        refusal=None,
        nanochat=AnswerParts(parts=[part for event in events if (part := _part(event)) is not None]),
    )
    choice = ChatChoice(
        index=0, message=message, finish_reason=_finish(end_of(events)), logprobs=exchange.logprobs(entries)
    )
    return ChatCompletion(
        **exchange.head, object="chat.completion", choices=[choice], usage=exchange.usage, nanochat=exchange.speed
    )


def _part(event: Event) -> AnswerPart | None:
    """An event as a part of a message, in the form in which the next request can tell it to the model again."""
    if isinstance(event, Text):
        return AnswerPart(type="text", text=event.text)
    if isinstance(event, ToolCall):
        return AnswerPart(type="python", text=event.expression)
    if isinstance(event, ToolResult):
        return AnswerPart(type="python_output", text=event.text)
    return None


def _finish(end: End | None) -> Finish:
    return "stop" if end is not None and end.reason == "stop" else "length"


async def _chunks(exchange: Exchange, answers: Answers) -> AsyncIterator[ChatChunk]:
    yield _chunk(exchange, Delta(role="assistant", content=""))
    async for updates in answers.updates():
        entries = [entry for update in updates for entry in update.logprobs]
        for event in merged(event for update in updates for event in update.events):
            if isinstance(event, End):
                yield _chunk(exchange, Delta(), entries, end=event)
            elif isinstance(event, Text):
                yield _chunk(exchange, Delta(content=event.text), entries)
            else:
                yield _chunk(exchange, Delta(nanochat=_addition(event)), entries)
            entries = []
        if entries:  # a character or a stop string is not complete yet; its tokens have been chosen all the same
            yield _chunk(exchange, Delta(content=""), entries)
    if exchange.body.wants_usage:
        yield ChatChunk(**exchange.head, object="chat.completion.chunk", choices=[], usage=exchange.usage)


def _chunk(
    exchange: Exchange, delta: Delta, entries: Sequence[TokenLogprobs] = (), *, end: End | None = None
) -> ChatChunk:
    choice = ChunkChoice(
        index=0,
        delta=delta,
        finish_reason=None if end is None else _finish(end),
        logprobs=exchange.logprobs(entries) if entries else None,
    )
    chunk = ChatChunk(**exchange.head, object="chat.completion.chunk", choices=[choice])
    if end is not None:
        chunk.nanochat = exchange.speed
    return chunk


def _addition(event: Event) -> dict[str, dict[str, str]]:
    """What happened besides text."""
    if isinstance(event, ToolCall):
        return {"tool_call": {"expression": event.expression}}
    if isinstance(event, ToolResult):
        return {"tool_result": {"text": event.text}}
    assert isinstance(event, ToolError)
    return {"tool_error": {"expression": event.expression}}
