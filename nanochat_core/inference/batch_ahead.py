"""A batch that is one step ahead of its reader: the device decodes while the host reads what came before.

Each step is started before the tokens of the last one are read, so the device never waits for the host. That is safe
because a token decides what may follow, not what it is itself: a row whose request turns out to be done has computed
one token in vain, and one whose next token is forced by a tool has it put in place of the one that was chosen.
Answers are those of `Batch`, each told a step later.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nanochat_core.inference.batch import CHUNK_TOKENS, Batch, Happened, not_finite, note_logprobs
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.device_steps import ON_DEVICE, Chosen, DeviceSteps, Feed
from nanochat_core.inference.request import Request
from nanochat_core.inference.sampling import NOT_FINITE, settings_of

if TYPE_CHECKING:
    from nanochat_core.inference.engine import Engine


@dataclass(frozen=True)
class _Flight:
    """A step whose tokens have not been read."""

    requests: list[Request]
    chosen: Chosen


class AheadBatch(Batch):
    """`Batch` for a device that computes beside its host."""

    def __init__(
        self, engine: "Engine", *, num_rows: int, max_len: int, chunk_tokens: int | None = CHUNK_TOKENS
    ) -> None:
        super().__init__(engine, num_rows=num_rows, max_len=max_len, chunk_tokens=chunk_tokens)
        assert isinstance(self.decoder, Decoder)  # the engine's choice
        self.steps = DeviceSteps(self.decoder)
        self._flight: _Flight | None = None

    @torch.no_grad()
    def step(self, only: Set[Request] | None = None) -> Happened:
        """As `Batch.step`; a token is told by the step after the one that computed it, a first token at once.

        What is not among `only` waits with its prompt alone: rows that decode cost such a device next to nothing.
        """
        complete = self._prefill.advance(self._rows_of(only))
        last, self._flight = self._flight, self._launch()
        happened = [] if last is None else self._read(last)
        if complete:
            happened += self._choose([*complete], torch.stack([*complete.values()]))
        return happened

    def _keep(self, rows: list[int]) -> None:
        self.steps.shrink(rows)

    def _launch(self) -> _Flight | None:
        rows = sorted(self._unfed)
        if not rows:
            return None
        feeds, requests = [], []
        unread = set() if self._flight is None else {id(request) for request in self._flight.requests}
        for row in rows:
            request = self.rows[row]
            assert request is not None
            # a token that is chosen already and not yet read has drawn, unless it is to be replaced
            ahead = int(id(request) in unread and not request.is_forced)
            settings = settings_of(request.sampler, self.decoder.model.config.vocab_size, ahead=ahead)
            feeds.append(Feed(row, self._unfed[row], settings))
            requests.append(request)
            self._expect(row, request)
        with_logits = any(request.sampling.num_logprobs is not None for request in requests)
        return _Flight(requests, self.steps.launch(feeds, with_logits=with_logits))

    def _read(self, flight: _Flight) -> Happened:
        """Hand in the tokens of a step to those requests that are still there."""
        row_of = {id(request): row for row, request in enumerate(self.rows) if request is not None}
        places = [place for place, request in enumerate(flight.requests) if id(request) in row_of]
        requests = [flight.requests[place] for place in places]
        found = flight.chosen.read()
        are_forced = [request.is_forced for request in requests]
        tokens = [
            request.loop.forced[0] if request.is_forced else found[place]
            for place, request in zip(places, requests, strict=True)
        ]
        if flight.chosen.logits is not None and requests:
            note_logprobs(requests, flight.chosen.logits[places], tokens, are_forced)
        happened = []
        for request, token, is_forced, place in zip(requests, tokens, are_forced, places, strict=True):
            if found[place] == NOT_FINITE:
                request.fail(not_finite(request))
            request.sampler.num_drawn += not is_forced
            row = row_of[id(request)]
            happened.append(self._take(row, request, token))
            if not request.is_done:
                self._expect(row, request)
        return happened

    def _expect(self, row: int, request: Request) -> None:
        """What the next step feeds this row: the result of a tool that is being told, or what the device chose."""
        self._unfed[row] = request.loop.forced[0] if request.is_forced else ON_DEVICE
