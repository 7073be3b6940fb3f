"""Decoding with nothing but the model's own forward, for a model that the fast decoder does not compute.

Every token is the forward pass of its whole row: slow (a row of T tokens costs T times what a cache would), and always
the network that was trained. Rows of equal length go through the model together, so that nothing is padded and a change
to the model need not even keep to causal attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.model.gpt import GPT

# R rows, B rows of one call, T tokens, V vocabulary
LOGITS_AT_ONCE = 1 << 26


class PlainDecoder:
    """`Decoder` as far as a `Batch` uses it: `num_rows` sequences of at most `max_len` tokens."""

    def __init__(self, model: GPT, *, num_rows: int, max_len: int) -> None:
        if num_rows < 1 or max_len < 1:
            raise ConfigError(f"a decoder of {num_rows} rows of {max_len} tokens", hint="both must be at least 1")
        self.model, self.max_len = model, max_len
        self._tokens: list[list[int]] = [[] for _ in range(num_rows)]

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row."""
        return [len(tokens) for tokens in self._tokens]

    @property
    def num_rows(self) -> int:
        return len(self._tokens)

    def prefill_rows(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Append chunks ids (B, T) to B rows; the fp32 logits (B, V) after their last tokens."""
        self._append(rows, ids.tolist())
        return self._next(rows)

    def step(self, tokens: Sequence[int] | Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """One token for each of A `rows` (None: all); fp32 logits (A, V)."""
        active = list(range(self.num_rows)) if rows is None else list(rows)
        self._append(active, [[token] for token in torch.as_tensor(tokens).tolist()])
        return self._next(active)

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        self._tokens[target] = list(self._tokens[source])

    def clear_row(self, row: int) -> None:
        """Free a row; its next token starts a new sequence."""
        self._tokens[row] = []

    def scrub_row(self, row: int) -> None:
        """As `Decoder.scrub_row`: what is held are ids, and those are numbers."""
        self._tokens[row] = []

    def shrink(self, rows: Sequence[int]) -> None:
        """Keep `rows` only, in that order."""
        self._tokens = [self._tokens[row] for row in rows]

    def _append(self, rows: Sequence[int], chunks: Sequence[Sequence[int]]) -> None:
        for row, chunk in zip(rows, chunks, strict=True):
            if len(self._tokens[row]) + len(chunk) > self.max_len:
                raise ConfigError(
                    f"row {row} holds {len(self._tokens[row])} of {self.max_len} tokens, {len(chunk)} more do not fit",
                    hint="make the decoder with a larger max_len",
                )
            self._tokens[row] += chunk

    @torch.no_grad()
    def _next(self, rows: Sequence[int]) -> Tensor:
        """Logits (B, V) after the last token of each row."""
        logits = torch.empty(len(rows), self.model.config.vocab_size, device=self.model.device)
        by_length: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_length.setdefault(len(self._tokens[row]), []).append(place)
        for length, places in by_length.items():
            most = max(1, LOGITS_AT_ONCE // (length * self.model.config.vocab_size))
            for first in range(0, len(places), most):
                part = places[first : first + most]
                ids = torch.tensor([self._tokens[rows[place]] for place in part], device=self.model.device)
                logits[part] = self.model(ids)[:, -1].float()
        return logits
