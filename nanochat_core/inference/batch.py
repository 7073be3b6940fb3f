"""Continuous batching: requests that are decoded together, each joining and leaving at any step.

`add` gives requests free rows, `step` advances everything by one token, `drop` frees a row at once. A step first spends
a chunk on prompts that wait, then feeds every row its last token, then chooses the next ones, so that a token is told
as soon as it is known. Rows differ in age; a request's answer does not depend on what the other rows do.
Continuous batching: Orca, OSDI 2022.
"""

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.inference.logprobs import token_logprobs
from nanochat_core.inference.prefill import Prefill
from nanochat_core.inference.request import Request
from nanochat_core.inference.sampling import GREEDY, NOT_FINITE, choose, settings_of
from nanochat_core.inference.tool_loop import Event

if TYPE_CHECKING:
    from nanochat_core.inference.engine import Engine

# R rows, A active rows, V vocabulary
Happened = list[tuple[Request, list[Event]]]
CHUNK_TOKENS = 256  # prompt tokens per step: about the time of a few decode steps on a CPU, of one on a GPU


class Batch:
    """Rows for requests: `add` while rows are free, `step` until none is active."""

    def __init__(
        self, engine: "Engine", *, num_rows: int, max_len: int, chunk_tokens: int | None = CHUNK_TOKENS
    ) -> None:
        """`chunk_tokens` is what a step may spend on prompts; None: it computes all that wait."""
        if chunk_tokens is not None and chunk_tokens < 1:
            raise ConfigError(f"chunk_tokens = {chunk_tokens} is below 1", hint="None computes prompts in one piece")
        self.decoder = engine.decoder(num_rows=num_rows, max_len=max_len)
        self.max_len = max_len
        self.rows: list[Request | None] = [None] * num_rows
        self._prefill = Prefill(self.decoder, chunk_tokens=chunk_tokens)
        self._unfed: dict[int, int] = {}
        """The last token of each row that is decoding; the decoder does not hold it yet."""

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def num_active(self) -> int:
        return sum(request is not None for request in self.rows)

    @property
    def num_free(self) -> int:
        return self.num_rows - self.num_active

    def add(self, requests: Sequence[Request]) -> None:
        """Give requests free rows. Their prompts are computed in the next steps, equal prompts once."""
        if len(requests) > self.num_free:
            raise ConfigError(f"{len(requests)} requests for {self.num_free} free rows", hint="step or drop some first")
        for request in requests:
            if request.max_len > self.max_len:
                raise ConfigError(
                    f"a prompt of {len(request.prompt)} tokens and {request.sampling.max_new_tokens} new ones do not "
                    f"fit into rows of {self.max_len}",
                    hint="lower max_new_tokens, or make the batch with a larger max_len",
                )
        free = [row for row, request in enumerate(self.rows) if request is None]
        for row, request in zip(free, requests, strict=False):
            self.rows[row] = request
            self._prefill.add(row, request.prompt)

    @torch.no_grad()
    def step(self, only: Set[Request] | None = None) -> Happened:
        """The next token of every request whose prompt is complete; finished requests leave their rows.

        Nothing comes back while all that are active wait for their prompts. `only`: those that go on (None: all); the
        others stay where they are.
        """
        chosen = self._rows_of(only)
        complete = self._prefill.advance(chosen)
        unfed = sorted(self._unfed if chosen is None else self._unfed.keys() & chosen)
        if not complete and not unfed:
            return []
        rows, logits = self._next_logits(unfed, complete)
        return self._choose(rows, logits)

    def drop(self, request: Request) -> None:
        """Free the row of a request that nobody waits for any more; nothing happens if it has left already."""
        for row, held in enumerate(self.rows):
            if held is request:
                self._prefill.drop(row)
                self.decoder.scrub_row(row)  # nobody has seen whether its numbers are any
                self._free(row)

    def shrink(self) -> None:
        """Give up free rows once they are at least half: they would cost as much as active ones."""
        active = [row for row, request in enumerate(self.rows) if request is not None]
        if not active or 2 * len(active) > self.num_rows:
            return
        self._keep(active)
        self._prefill.keep(active)
        self._unfed = {active.index(row): token for row, token in self._unfed.items()}
        self.rows = [self.rows[row] for row in active]

    def _keep(self, rows: list[int]) -> None:
        self.decoder.shrink(rows)

    def _rows_of(self, only: Set[Request] | None) -> Set[int] | None:
        return None if only is None else {row for row, request in enumerate(self.rows) if request in only}

    def _next_logits(self, rows: list[int], complete: Mapping[int, Tensor]) -> tuple[list[int], Tensor]:
        """The rows that get a token now, those of complete prompts too, and the logits (A, V) it is chosen from."""
        parts = []
        if rows:
            is_full = len(rows) == self.num_rows
            parts.append(self.decoder.step([self._unfed[row] for row in rows], None if is_full else rows))
        if complete:
            parts.append(torch.stack(list(complete.values())))
        return [*rows, *complete], parts[0] if len(parts) == 1 else torch.cat(parts)

    def _choose(self, rows: Sequence[int], logits: Tensor) -> Happened:
        """Give the request of each row the token that follows from logits (A, V)."""
        requests = [request for request in (self.rows[row] for row in rows) if request is not None]
        tokens = _choose(requests, logits)
        return [self._take(row, *pair) for row, pair in zip(rows, zip(requests, tokens, strict=True), strict=True)]

    def _take(self, row: int, request: Request, token: int) -> tuple[Request, list[Event]]:
        events: list[Event] = []
        if request.failure is None:
            try:
                events = request.take(token)
            except Exception as error:  # a tool, a stop text: what belongs to this request ends this request
                request.fail(error)
        self._unfed[row] = token
        if request.failure is not None:
            self.decoder.scrub_row(row)
        if request.is_done:
            self._free(row)
        return request, events

    def _free(self, row: int) -> None:
        self.rows[row] = None
        self._unfed.pop(row, None)
        self.decoder.clear_row(row)


def not_finite(request: Request) -> CorruptError:
    """What is said of a request whose logits hold NaN or no largest number."""
    return CorruptError(
        f"the model's numbers for token {len(request.answer.tokens) + 1} of an answer are not finite",
        hint="its weights are damaged, or its training diverged",
    )


def _choose(requests: Sequence[Request], logits: Tensor) -> list[int]:
    """The next token of each request: a forced one first, else one drawn from its row of logits (A, V).

    A request whose logits are none fails, whatever its token is.
    """
    are_forced = [request.is_forced for request in requests]
    settings = [
        GREEDY if is_forced else settings_of(request.sampler, logits.size(1))
        for request, is_forced in zip(requests, are_forced, strict=True)
    ]
    tokens = choose(logits, settings)
    for row, (request, is_forced) in enumerate(zip(requests, are_forced, strict=True)):
        if tokens[row] == NOT_FINITE:
            request.fail(not_finite(request))
        if is_forced:
            tokens[row] = request.loop.forced[0]
        request.sampler.num_drawn += not is_forced
    note_logprobs(requests, logits, tokens, are_forced)
    return tokens


def note_logprobs(
    requests: Sequence[Request], logits: Tensor, tokens: Sequence[int], are_forced: Sequence[bool]
) -> None:
    """Give those requests that asked for it the log-probs of their token."""
    asking = [
        row
        for row, request in enumerate(requests)
        if request.sampling.num_logprobs is not None and request.failure is None
    ]
    if not asking:
        return
    found = token_logprobs(
        logits[asking],
        [tokens[row] for row in asking],
        are_forced=[are_forced[row] for row in asking],
        num_top=[requests[row].sampling.num_logprobs or 0 for row in asking],
    )
    for row, logprobs in zip(asking, found, strict=True):
        requests[row].answer.logprobs.append(logprobs)
