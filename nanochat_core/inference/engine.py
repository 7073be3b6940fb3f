"""Generation with a key/value cache: one answer as a stream of events, or many at once.

Prompts are prefilled each at its own length and then decoded together, one token per row and step, each row at its own
position; a row that is done is given to the next prompt. A row's tokens do not depend on what else is in the batch:
its sampler and tool loop are its own.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.sampling import GREEDY_BELOW, Sampler, Sampling
from nanochat_core.inference.tool_loop import End, Event, Text, ToolLoop
from nanochat_core.model.gpt import GPT
from nanochat_core.model.kv_cache import KVCache
from nanochat_core.tokenizer.tokenizer import Tokenizer

MAX_ROWS = 64  # rows decoded together
REFILL_FRAC = 8  # new prompts wait until an eighth of the rows is free: prefilling one by one would stall the others


@dataclass
class Answer:
    """What became of one prompt."""

    tokens: list[int] = field(default_factory=list)
    """Everything after the prompt, forced tool results and the end token included."""
    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What a reader sees, without tool calls."""
        return "".join(event.text for event in self.events if isinstance(event, Text))


class Request:
    """One prompt being answered."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: Tokenizer) -> None:
        self.prompt = list(prompt)
        self.sampler = Sampler(sampling)
        self.loop = ToolLoop(tokenizer)
        self.answer = Answer()
        self.is_done = False

    @property
    def max_len(self) -> int:
        """Tokens that it needs room for."""
        return len(self.prompt) + self.sampler.sampling.max_new_tokens

    @property
    def is_greedy(self) -> bool:
        return self.sampler.sampling.temperature < GREEDY_BELOW

    def take(self, logits: torch.Tensor, likeliest: int) -> tuple[int, list[Event]]:
        """Choose the next token (a forced one first) and what it means."""
        if self.loop.forced:
            token = self.loop.forced[0]
        else:
            token = likeliest if self.is_greedy else self.sampler.next_token(logits)
        events = self.loop.feed(token)
        self.answer.tokens.append(token)
        if len(self.answer.tokens) >= self.sampler.sampling.max_new_tokens and not any(
            isinstance(e, End) for e in events
        ):
            events.append(End("length"))
        self.answer.events += events
        self.is_done = any(isinstance(event, End) for event in events)
        return token, events


class Engine:
    """Generates with one model; `model` is put into evaluation mode."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Event]:
        """Events of one answer as they happen; closing the iterator stops the generation."""
        request = self.request(prompt, sampling)
        batch = Batch(self, num_rows=1, max_len=request.max_len)
        batch.add([request])
        while not request.is_done:
            for _, events in batch.step():
                yield from events

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        *,
        max_rows: int | None = None,
        on_done: Callable[[int], None] = lambda num_done: None,
    ) -> list[Answer]:
        """One answer per prompt, `max_rows` at a time; `on_done` hears how many are finished."""
        requests = [self.request(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
        waiting = deque(sorted(requests, key=lambda r: len(r.prompt)))  # equal lengths prefill together
        if not waiting:
            return []
        num_rows = min(max_rows or MAX_ROWS, len(waiting))
        batch = Batch(self, num_rows=num_rows, max_len=max(request.max_len for request in requests))
        while waiting or batch.num_active:
            num_free = batch.num_rows - batch.num_active
            if waiting and num_free >= max(1, batch.num_rows // REFILL_FRAC):
                batch.add([waiting.popleft() for _ in range(min(num_free, len(waiting)))])
            if not waiting:
                batch.shrink()
            if any(request.is_done for request, _ in batch.step()):
                on_done(len(requests) - len(waiting) - batch.num_active)
        return [request.answer for request in requests]

    def request(self, prompt: Sequence[int], sampling: Sampling) -> Request:
        """A prompt with its own sampler and tool loop; ConfigError where it leaves no room in the context."""
        return Request(prompt, self._within_context(prompt, sampling), self.tokenizer)

    def _within_context(self, prompt: Sequence[int], sampling: Sampling) -> Sampling:
        room = self.model.config.sequence_len - len(prompt)
        if not prompt or room < 1:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens leaves no room in a context of {self.model.config.sequence_len}",
                hint="shorten the prompt, or start a new conversation",
            )
        kept = {**vars(sampling), "max_new_tokens": min(sampling.max_new_tokens, room)}
        return Sampling(**kept)


class Batch:
    """Requests that are decoded together: `add` while rows are free, `step` until none is active."""

    def __init__(self, engine: Engine, *, num_rows: int, max_len: int) -> None:
        self.model, self.tokenizer = engine.model, engine.tokenizer
        self.cache = self._new_cache(num_rows, max_len=max_len)
        self.rows: list[Request | None] = [None] * num_rows
        self._logits = torch.zeros(num_rows, self.model.config.vocab_size, device=self.model.device)
        """(rows, V): what each row's next token is chosen from."""

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def num_active(self) -> int:
        return sum(request is not None for request in self.rows)

    @torch.no_grad()
    def add(self, requests: Sequence[Request]) -> None:
        """Prefill requests into free rows, prompts of one length together."""
        free = [number for number, request in enumerate(self.rows) if request is None]
        by_length: dict[int, list[Request]] = {}
        for request in requests:
            by_length.setdefault(len(request.prompt), []).append(request)
        for length, members in by_length.items():
            part = self._new_cache(len(members), max_len=length)
            ids = torch.tensor([request.prompt for request in members], device=self.model.device)
            last = self.model.logits(self.model.hidden(ids, cache=part)[:, -1])
            for source, request in enumerate(members):
                number = free.pop(0)
                self.cache.copy_row_from(part, source, number)
                self._logits[number] = last[source]
                self.rows[number] = request

    @torch.no_grad()
    def step(self) -> list[tuple[Request, list[Event]]]:
        """The next token of every active request, with what it means; finished requests leave their rows."""
        likeliest = self._logits.argmax(-1).tolist()  # one transfer for all rows
        is_greedy = all(request is None or request.is_greedy for request in self.rows)
        logits = self._logits if is_greedy else self._logits.cpu()
        tokens, happened = [], []
        for number, request in enumerate(self.rows):
            if request is None:
                tokens.append(self.tokenizer.bos)  # a free row idles along; nobody reads it
                if self.cache.lengths[number] + 1 >= self.cache.max_len:
                    self.cache.clear_row(number)  # it may not outgrow the cache
                continue
            token, events = request.take(logits[number], likeliest[number])
            tokens.append(token)
            happened.append((request, events))
            if request.is_done:
                self.rows[number] = None
                self.cache.clear_row(number)
        if self.num_active:
            ids = torch.tensor(tokens, device=self.model.device).unsqueeze(1)
            self._logits = self.model.logits(self.model.hidden(ids, cache=self.cache)[:, -1])
        return happened

    def drop(self, request: Request) -> None:
        """Free the row of a request that nobody waits for any more."""
        number = next(number for number, held in enumerate(self.rows) if held is request)
        self.rows[number] = None
        self.cache.clear_row(number)

    def shrink(self) -> None:
        """Give up free rows once they are at least half: they would cost as much as active ones."""
        active = [number for number, request in enumerate(self.rows) if request is not None]
        if not active or 2 * len(active) > self.num_rows:
            return
        cache = self._new_cache(len(active), max_len=self.cache.max_len)
        for target, source in enumerate(active):
            cache.copy_row_from(self.cache, source, target)
        self.cache, self.rows = cache, [self.rows[number] for number in active]
        self._logits = self._logits[active]

    def _new_cache(self, num_rows: int, *, max_len: int) -> KVCache:
        return KVCache(
            self.model.config, num_rows, max_len=max_len, dtype=self.model.compute_dtype, device=self.model.device
        )
