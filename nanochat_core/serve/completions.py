"""POST /v1/completions: plain continuations of texts or ids, with `echo` and log-probs as lm-eval needs them.

Echoed log-probs hold one entry per token of the prompt and one per generated token, the end token too although it has
no text: lm-eval leaves out the last entry, and a server that drops the end token makes it leave out a real one. A
greedy single token after a scored prompt comes from the same forward pass as the scores.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.responses import Response as PlainResponse

from nanochat_core.inference.engine import Engine
from nanochat_core.inference.logprobs import TokenLogprobs
from nanochat_core.inference.sampling import GREEDY_BELOW
from nanochat_core.inference.tool_loop import Event, Text
from nanochat_core.serve import prompts
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.guards import client_of
from nanochat_core.serve.jobs import Answers, Job, Update, end_of, merged
from nanochat_core.serve.logprobs import completion_logprobs, num_bytes_of
from nanochat_core.serve.pool import ModelPool
from nanochat_core.serve.prompts import DEFAULT_TEMPERATURE, Prompt
from nanochat_core.serve.replies import Completion, CompletionChoice, CompletionLogprobs, Finish, Usage, heading, usage
from nanochat_core.serve.schema import CompletionBody
from nanochat_core.serve.streams import ReplyStream, gathered
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass
class Continuation:
    """One prompt of a request: the jobs it needs, and what has come of them."""

    prompt: Prompt
    scored: Job | None = None
    generated: Job | None = None
    is_one_token: bool = False
    """The one token that is wanted is the likeliest after the prompt, so the scores end with it."""
    scores: list[TokenLogprobs] = field(default_factory=list)
    """Of prompt.ids[1:] and of the token after them."""
    entries: list[TokenLogprobs] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def take(self, update: Update) -> None:
        """Keep what a step brought."""
        self.scores += update.scores
        self.entries += update.logprobs
        self.events += update.events

    @property
    def num_generated(self) -> int:
        if self.generated is not None:
            return self.generated.num_tokens
        return int(self.is_one_token)


async def answer_completion(pool: ModelPool, body: CompletionBody, request: Request) -> Response:
    """Answer one completion request, which may hold many prompts."""
    body.check_supported()
    card, scheduler = pool.ready(body.model)
    client = client_of(request)
    sent, most = prompts.listed(body), pool.limits.max_prompts
    scheduler.check_open(min(len(sent), most), client)
    parts = await pool.lane.read(
        lambda: _continuations(scheduler.engine, body, card, most=most), num_bytes=sum(map(len, sent)), client=client[0]
    )
    jobs = [job for part in parts for job in (part.scored, part.generated) if job is not None]
    answers = Answers(scheduler, jobs, client=client, is_whole=not body.stream)
    scheduler.submit(jobs)
    head = heading("cmpl", model=card.id, ref=card.ref)
    tokenizer = scheduler.engine.tokenizer
    if body.stream:
        return ReplyStream(_chunks(body, parts, answers, head, tokenizer), answers, limits=pool.limits)
    for update in await gathered(request, answers):
        parts[update.index].take(update)

    def write() -> str:
        choices = [_choice(tokenizer, body, number, part) for number, part in enumerate(parts)]
        return Completion(**head, object="text_completion", choices=choices, usage=_usage(parts)).body()

    # twenty log-probs of every token of 64 long prompts take a second to write
    num_bytes = sum(num_bytes_of(part.scores) + num_bytes_of(part.entries) for part in parts)
    written = await pool.lane.do(write, num_bytes=num_bytes, client=client[0])
    return PlainResponse(written, media_type="application/json")


def _continuations(engine: Engine, body: CompletionBody, card: ModelCard, *, most: int) -> list[Continuation]:
    found = prompts.completion_prompts(engine.tokenizer, body, context_tokens=card.context_tokens, most=most)
    return [_continuation(engine, body, card, prompt, number) for number, prompt in enumerate(found)]


def _continuation(engine: Engine, body: CompletionBody, card: ModelCard, prompt: Prompt, number: int) -> Continuation:
    """What has to be computed for one prompt."""
    made = Continuation(prompt)
    wanted = prompts.max_tokens(body)
    if body.echo and body.num_logprobs is not None:
        made.scored = Job(prompt, index=number, num_top=body.num_logprobs)
    made.is_one_token = made.scored is not None and _is_one_greedy(body, wanted)
    needs_engine = wanted != 0 and not made.is_one_token
    context = card.context_tokens
    prompts.check_room(prompt, context_tokens=context, param="prompt", needs_room=needs_engine)
    if needs_engine:
        sampling = prompts.completion_sampling(engine.tokenizer, body, room=context - len(prompt.ids))
        made.generated = Job(prompt, engine.request(prompt.ids, sampling), index=number)
    return made


def _is_one_greedy(body: CompletionBody, wanted: int) -> bool:
    temperature = DEFAULT_TEMPERATURE if body.temperature is None else body.temperature
    return wanted == 1 and temperature < GREEDY_BELOW


def _choice(tokenizer: Tokenizer, body: CompletionBody, number: int, part: Continuation) -> CompletionChoice:
    prompt_ids = part.prompt.echoed
    text = "".join(event.text for event in part.events if isinstance(event, Text))
    entries, finish = part.entries, _finish(part.events)
    if part.is_one_token:
        entries = part.scores[-1:]
        text, finish = _one_token(tokenizer, entries[0].token)
    before = tokenizer.decode(prompt_ids) if body.echo else ""
    logprobs = None
    if body.num_logprobs is not None:
        echoed = _echoed(part) if body.echo else []
        logprobs = CompletionLogprobs(**completion_logprobs(tokenizer, [*echoed, *entries]))
    return CompletionChoice(index=number, text=before + text, finish_reason=finish, logprobs=logprobs)


def _echoed(part: Continuation) -> list[TokenLogprobs | int]:
    """One entry for each id that the client sent; the first has none where nothing stood before it."""
    scores = part.scores[:-1]  # of ids[1:]
    return [*scores] if part.prompt.num_hidden else [part.prompt.ids[0], *scores]


def _one_token(tokenizer: Tokenizer, token: int) -> tuple[str, Finish]:
    """The text of a single token, as the engine would have told it."""
    special = {tokenizer.special(name): name for name in tk.SPECIAL_TOKENS}
    if token not in special:
        return tokenizer.decode([token]), "length"
    return "", "stop" if special[token] in (tk.ASSISTANT_END, tk.BOS) else "length"


def _finish(events: Sequence[Event]) -> Finish:
    end = end_of(events)
    return "stop" if end is not None and end.reason == "stop" else "length"


def _usage(parts: Sequence[Continuation]) -> Usage:
    """Tokens that the model read and made; a BOS of ours is one that it read."""
    return usage(sum(len(part.prompt.ids) for part in parts), sum(part.num_generated for part in parts))


async def _chunks(
    body: CompletionBody, parts: Sequence[Continuation], answers: Answers, head: dict[str, Any], tokenizer: Tokenizer
) -> AsyncIterator[Completion]:
    offsets = [0] * len(parts)
    for number, part in enumerate(parts):
        if body.echo:
            text = tokenizer.decode(part.prompt.echoed)
            offsets[number] = len(text)
            yield _chunk(head, number, text)
        if part.generated is None:
            yield _chunk(head, number, "", finish="length")
    async for updates in answers.updates():
        for number in sorted({update.index for update in updates}):
            own = [update for update in updates if update.index == number]
            events = merged(event for update in own for event in update.events)
            entries = [entry for update in own for entry in update.logprobs]
            text = "".join(event.text for event in events if isinstance(event, Text))
            logprobs = None
            if body.num_logprobs is not None:
                listed = completion_logprobs(tokenizer, entries, first_offset=offsets[number])
                logprobs = CompletionLogprobs(**listed)
            offsets[number] += len(text)
            yield _chunk(head, number, text, logprobs=logprobs, finish=_finish(events) if end_of(events) else None)
    if body.wants_usage:
        yield Completion(**head, object="text_completion", choices=[], usage=_usage(parts))


def _chunk(
    head: dict[str, Any],
    number: int,
    text: str,
    *,
    logprobs: CompletionLogprobs | None = None,
    finish: Finish | None = None,
) -> Completion:
    choice = CompletionChoice(index=number, text=text, finish_reason=finish, logprobs=logprobs)
    return Completion(**head, object="text_completion", choices=[choice])
