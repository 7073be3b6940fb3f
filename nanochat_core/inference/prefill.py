"""Prompts on their way into the rows of a decoder: in chunks, and equal prompts once.

A step of a batch may spend a limited number of prompt tokens, so that a long prompt delays the rows that are decoding
by one chunk and not by its whole length (chunked prefill: arXiv 2308.16369). Prompts take turns: a short one does not
wait for the end of a long one. A prompt that is on its way already is not computed again, its row is copied.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.inference.admission import AnyDecoder

# N prompts, T tokens of a chunk, V vocabulary


@dataclass
class _Prompt:
    """A prompt that is not yet in its rows."""

    ids: tuple[int, ...]
    rows: list[int]
    """The first is being filled; the others get a copy of it."""
    num_done: int = 0

    def next_tokens(self, most: float) -> int:
        """Tokens of its next chunk."""
        return int(min(len(self.ids) - self.num_done, most))


class Prefill:
    """Every prompt that a decoder does not hold in full yet."""

    def __init__(self, decoder: AnyDecoder, *, chunk_tokens: int | None) -> None:
        self._decoder = decoder
        self._chunk_tokens = math.inf if chunk_tokens is None else chunk_tokens
        self._prompts: list[_Prompt] = []  # whose turn it is comes first

    @property
    def rows(self) -> set[int]:
        """Rows that wait for their prompt."""
        return {row for prompt in self._prompts for row in prompt.rows}

    def add(self, row: int, ids: Sequence[int]) -> None:
        """Put a prompt into a cleared row, over the next calls of `advance`."""
        wanted = tuple(ids)
        for prompt in self._prompts:
            if prompt.ids == wanted:
                prompt.rows.append(row)
                return
        self._prompts.append(_Prompt(wanted, [row]))

    def drop(self, row: int) -> None:
        """Nobody waits for this row any more; whoever shared its prompt goes on from where it was."""
        for prompt in self._prompts:
            if row in prompt.rows:
                if row == prompt.rows[0] and len(prompt.rows) > 1 and prompt.num_done:
                    self._decoder.copy_row(row, prompt.rows[1])
                prompt.rows.remove(row)
        self._prompts = [prompt for prompt in self._prompts if prompt.rows]

    def keep(self, rows: Sequence[int]) -> None:
        """The decoder keeps these rows only, in this order."""
        for prompt in self._prompts:
            prompt.rows = [rows.index(row) for row in prompt.rows]

    def advance(self, only: Set[int] | None = None) -> dict[int, Tensor]:
        """Compute the next chunks; for each row whose prompt is complete now, the fp32 logits (V,) behind it.

        `only`: the rows whose prompts may go on (None: all).
        """
        complete: dict[int, Tensor] = {}
        left = self._chunk_tokens
        while left > 0 and (prompts := [each for each in self._prompts if only is None or only & set(each.rows)]):
            members = _equal_chunks(prompts, left)
            num_tokens = members[0].next_tokens(left)
            left -= num_tokens * len(members)
            for prompt, logits in zip(members, self._compute(members, num_tokens), strict=True):
                self._prompts.remove(prompt)
                if prompt.num_done < len(prompt.ids):
                    self._prompts.append(prompt)
                    continue
                for row in prompt.rows:
                    complete[row] = logits
                    if row != prompt.rows[0]:
                        self._decoder.copy_row(prompt.rows[0], row)
        return complete

    def _compute(self, members: Sequence[_Prompt], num_tokens: int) -> Tensor:
        """Append the next `num_tokens` of each member to its row; logits (N, V)."""
        chunks = [prompt.ids[prompt.num_done : prompt.num_done + num_tokens] for prompt in members]
        for prompt in members:
            prompt.num_done += num_tokens
        return self._decoder.prefill_rows([prompt.rows[0] for prompt in members], torch.tensor(chunks))


def _equal_chunks(prompts: Sequence[_Prompt], left: float) -> list[_Prompt]:
    """The prompt whose turn it is, and others that fit into `left` tokens and one rectangle with it."""
    first = prompts[0]
    num_tokens = first.next_tokens(left)
    equal = [
        prompt for prompt in prompts if prompt.num_done == first.num_done and prompt.next_tokens(left) == num_tokens
    ]
    return equal if left == math.inf else equal[: max(1, int(left // num_tokens))]
