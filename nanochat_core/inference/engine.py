"""Generation with a key/value cache: one answer as a stream of events, or many at once.

Prompts are prefilled each at its own length and then decoded together, one token per row and step, each row at its own
position. A row's tokens do not depend on what else is in the batch: its sampler and tool loop are its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.sampling import Sampler, Sampling
from nanochat_core.inference.tool_loop import End, Event, Text, ToolLoop
from nanochat_core.model.gpt import GPT
from nanochat_core.model.kv_cache import KVCache
from nanochat_core.tokenizer.tokenizer import Tokenizer

MAX_ROWS = 64  # rows decoded together


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


class _Row:
    """One request being decoded."""

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self.sampler = Sampler(sampling)
        self.loop = ToolLoop(tokenizer)
        self.answer = Answer()
        self.is_done = False

    def take(self, logits: torch.Tensor) -> tuple[int, list[Event]]:
        """Choose the next token (a forced one first) and what it means."""
        token = self.loop.forced[0] if self.loop.forced else self.sampler.next_token(logits)
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
        row = _Row(self.tokenizer, self._within_context(prompt, sampling))
        for _, events in self._decode([prompt], [row]):
            yield from events

    def generate(self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]) -> list[Answer]:
        """One answer per prompt."""
        rows = [
            _Row(self.tokenizer, self._within_context(prompt, sampling))
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))  # equal lengths prefill together
        for first in range(0, len(rows), MAX_ROWS):
            chosen = order[first : first + MAX_ROWS]
            for _ in self._decode([prompts[i] for i in chosen], [rows[i] for i in chosen]):
                pass
        return [row.answer for row in rows]

    def _within_context(self, prompt: Sequence[int], sampling: Sampling) -> Sampling:
        room = self.model.config.sequence_len - len(prompt)
        if not prompt or room < 1:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens leaves no room in a context of {self.model.config.sequence_len}",
                hint="shorten the prompt, or start a new conversation",
            )
        kept = {**vars(sampling), "max_new_tokens": min(sampling.max_new_tokens, room)}
        return Sampling(**kept)

    @torch.no_grad()
    def _decode(self, prompts: Sequence[Sequence[int]], rows: list[_Row]) -> Iterator[tuple[int, list[Event]]]:
        """Yield (row, its new events) until every row is done."""
        longest = max(len(p) + row.sampler.sampling.max_new_tokens for p, row in zip(prompts, rows, strict=True))
        cache = self._new_cache(len(rows), max_len=longest)
        logits = self._prefill(prompts, cache)
        while True:
            tokens = []
            for number, row in enumerate(rows):
                if row.is_done:
                    tokens.append(self.tokenizer.bos)  # a finished row idles along; nobody reads it
                    continue
                token, events = row.take(logits[number])
                tokens.append(token)
                if row.is_done:
                    cache.clear_row(number)  # it idles from position 0, so it cannot outgrow the cache
                yield number, events
            if all(row.is_done for row in rows):
                return
            ids = torch.tensor(tokens, device=self.model.device).unsqueeze(1)
            logits = self.model.logits(self.model.hidden(ids, cache=cache)[:, -1])

    def _new_cache(self, num_rows: int, *, max_len: int) -> KVCache:
        return KVCache(
            self.model.config, num_rows, max_len=max_len, dtype=self.model.compute_dtype, device=self.model.device
        )

    def _prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> torch.Tensor:
        """Fill the cache row by row, prompts of one length together; returns the logits (rows, V) after each prompt."""
        logits: list[torch.Tensor | None] = [None] * len(prompts)
        by_length: dict[int, list[int]] = {}
        for number, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(number)
        for length, members in by_length.items():
            part = self._new_cache(len(members), max_len=length)
            ids = torch.tensor([list(prompts[number]) for number in members], device=self.model.device)
            last = self.model.logits(self.model.hidden(ids, cache=part)[:, -1])
            for source, number in enumerate(members):
                cache.copy_row_from(part, source, number)
                logits[number] = last[source]
        return torch.stack([row for row in logits if row is not None])
