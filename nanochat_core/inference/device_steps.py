"""Decoding steps that choose their tokens on the device, so that the next one need not wait for the host.

A step reads one small table that the host sends along (which rows take part, which tokens are given, how each row is
drawn) and keeps everything else on the device: the tokens that it chose are what the next step feeds. The host reads
them while the device computes on; a graph holds the whole step, so a token costs one copy, one launch and one copy.
Without a GPU the same steps run operation by operation, which is how they are tested.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.decoder_graphs import Shape, StepGraphs, bucket
from nanochat_core.inference.draw import Cut, RowSettings, draw
from nanochat_core.inference.sampling import GREEDY, GREEDY_BELOW, NOT_FINITE, Settings

# R rows, B of them computed, A active, V vocabulary
ON_DEVICE = -1  # as the token to feed: the one that the step before chose for this row
VISIBLE_BUCKET = 256  # a captured graph looks at 256, 512, 1024, ... places of a row
TOP_K_BUCKETS = (64, 1024)  # largest k that a graph is made for; above: all tokens
GIVEN, IS_ACTIVE, TEMPERATURE, TOP_K, TOP_P, NUMBER = range(6)  # lines of the table


@dataclass(frozen=True)
class Feed:
    """What one row of a step takes."""

    row: int
    token: int = ON_DEVICE
    settings: Settings = GREEDY
    """Of the token that follows."""


class Chosen:
    """The tokens of one step, which may still be on their way."""

    def __init__(self, rows: Sequence[int], tokens: Tensor, logits: Tensor | None) -> None:
        self._rows, self.logits = list(rows), logits
        self._tokens, self._event = tokens, None
        if tokens.is_cuda:
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._tokens = tokens.clone()

    def read(self) -> list[int]:
        """One token for each row of the step, in its order; waits for this step and for no later one."""
        if self._event is not None:
            self._event.synchronize()
        return [int(self._tokens[row]) for row in self._rows]


class DeviceSteps:
    """Steps of one decoder; between them rows may be filled, copied and cleared as ever."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.graphs = StepGraphs(self._step, self._rehearsal) if decoder.ids.is_cuda else None
        self._table = self._new_table()

    def launch(self, feeds: Sequence[Feed], *, with_logits: bool = False) -> Chosen:
        """Start a step for these rows; `with_logits` keeps their fp32 logits (A, V), on the device."""
        rows = [feed.row for feed in feeds]
        self.decoder.check_room(rows)
        self._send(feeds)
        with torch.inference_mode():
            shape = self._shape(feeds)
            logits, tokens = self._step(*shape) if self.graphs is None else self.graphs.run(shape)
            self.decoder.count(rows)
            kept = logits.index_select(0, self._index(rows)) if with_logits else None
            return Chosen(rows, tokens, kept)

    def shrink(self, rows: Sequence[int]) -> None:
        """Keep `rows` only, in that order."""
        self.decoder.shrink(rows)
        self._table = self._new_table()
        if self.graphs is not None:
            self.graphs.clear()  # they hold the addresses of the old cache

    def _new_table(self) -> Tensor:
        return torch.zeros(NUMBER + 1, self.decoder.num_rows, dtype=torch.float64, device=self.decoder.ids.device)

    def _send(self, feeds: Sequence[Feed]) -> None:
        """The host's part of a step, in one copy that nobody waits for."""
        idle = (ON_DEVICE, 0, *GREEDY)
        columns: list[tuple[float, ...]] = [idle] * self.decoder.num_rows
        for feed in feeds:
            columns[feed.row] = (feed.token, 1, *feed.settings)
        table = torch.tensor(columns, dtype=torch.float64).T.contiguous()  # (6, R)
        self._table.copy_(table.pin_memory() if self._table.is_cuda else table, non_blocking=True)

    def _index(self, rows: Sequence[int]) -> Tensor:
        index = torch.tensor(rows)
        return index.pin_memory().to(self._table.device, non_blocking=True) if self._table.is_cuda else index

    def _shape(self, feeds: Sequence[Feed]) -> Shape:
        """Whole buckets of rows and of places, and the least that the settings ask for."""
        decoder = self.decoder
        rows = bucket(max(feed.row for feed in feeds) + 1, 1, limit=decoder.num_rows)
        visible = bucket(max(decoder.lengths[:rows]) + 1, VISIBLE_BUCKET, limit=decoder.max_len)
        return rows, visible, _cut([feed.settings for feed in feeds], decoder.model.config.vocab_size)

    def _step(self, rows: int, visible: int, cut: Cut | None) -> tuple[Tensor, Tensor]:
        """Logits (B, V) and chosen tokens (B,) of rows 0 .. rows - 1; the active ones have one token more."""
        decoder, cache = self.decoder, self.decoder.cache
        table = self._table[:, :rows]
        ids, is_active = decoder.ids[:rows], table[IS_ACTIVE] > 0
        ids.copy_(torch.where(table[GIVEN] >= 0, table[GIVEN].long(), ids))
        logits, embedding = decoder.next_logits(rows, visible)
        is_broken = ~logits.amax(-1).isfinite()  # (B,)
        logits = logits.masked_fill(is_broken.unsqueeze(1), 0.0)  # what is drawn from must be numbers
        tokens = logits.argmax(-1)
        if cut is not None:
            settings = RowSettings(
                temperatures=table[TEMPERATURE].clamp(min=GREEDY_BELOW),
                top_k=table[TOP_K].long(),
                top_p=table[TOP_P],
                numbers=table[NUMBER],
            )
            tokens = torch.where(table[TEMPERATURE] > 0, draw(logits, settings, cut), tokens)
        ids.copy_(torch.where(is_active, tokens, ids))
        held = cache.last_embedding[:rows]
        held.copy_(torch.where(is_active.unsqueeze(1), embedding, held))
        cache.positions[:rows].add_(is_active)
        return logits, tokens.masked_fill(is_broken, NOT_FINITE)

    @contextmanager
    def _rehearsal(self) -> Iterator[None]:
        """No row takes part, so that a step changes nothing that the next one does not write again."""
        is_active = self._table[IS_ACTIVE].clone()
        self._table[IS_ACTIVE] = 0
        yield
        self._table[IS_ACTIVE] = is_active


def _cut(settings: Sequence[Settings], vocab_size: int) -> Cut | None:
    drawn = [(top_k, top_p) for temperature, top_k, top_p, _ in settings if temperature > 0]
    if not drawn:
        return None
    most = max((top_k for top_k, _ in drawn if top_k < vocab_size), default=0)
    size = next((size for size in TOP_K_BUCKETS if size >= most), vocab_size) if most else 0
    return Cut(min(size, vocab_size), vocab_size if any(top_p < 1 for _, top_p in drawn) else 0)
