"""Keys and values of many sequences in fixed places: a row per sequence, a ring per row on windowed layers.

A layer with a window of w needs the last w + 1 tokens only, so its rows are rings of that many places: position p lies
at place p modulo the ring's size, and a new token overwrites the one that has just gone out of sight. Rotary positions
are already in the keys, so the order of the places does not matter to attention. Every row has its own length; lengths
live twice, as Python integers (checks and slices need no synchronisation) and as a tensor on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.inference.threads import one_thread
from nanochat_core.model.shape import window_sizes

# R rows, B rows of one call, T new tokens, K key/value heads, M places, L places looked at, D head size, C model width


@dataclass(frozen=True)
class Places:
    """Where one call writes into the rings of one size, and what its queries see of them."""

    index: Tensor
    """(B K t,): places of the new keys in (R K M, D); t of T: what would be overwritten at once is not written."""
    length: int
    """L: the first L places are looked at."""
    mask: Tensor | None
    """Added to the scores, 0 or -inf: (B, 1, 1, L) for single tokens, (B, 1, T, L + T) for chunks; None: see all."""


class RingCache:
    """Room for `num_rows` sequences of at most `max_len` tokens."""

    def __init__(
        self, config: GPTConfig, num_rows: int, *, max_len: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.max_len, self.dtype, self.device = config, max_len, dtype, torch.device(device)
        self.sizes = [min(window + 1, max_len) for window in window_sizes(config)]
        """M of each layer."""
        shapes = [(num_rows, config.n_kv_head, size, config.head_dim) for size in self.sizes]
        with one_thread():  # the system hands over fresh pages one by one, whoever asks
            self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]  # (R, K, M, D)
            self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.last_embedding = torch.zeros(num_rows, config.n_embd, device=device)  # (R, C)
        self.positions = torch.zeros(num_rows, dtype=torch.long, device=device)  # (R,): tokens held
        self.lengths = [0] * num_rows
        self._starts = self._row_starts()

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    def check_room(self, rows: Sequence[int], tokens: int) -> None:
        """Raise `ConfigError` if one of `rows` cannot take `tokens` more."""
        longest = max(self.lengths[row] for row in rows)
        if longest + tokens > self.max_len:
            raise ConfigError(
                f"{longest} + {tokens} tokens do not fit into a row of {self.max_len}",
                hint="make the decoder with a larger max_len, or stop the row earlier",
            )

    def step_places(
        self, first: int, last: int, *, longest: int, is_uniform: bool, index: Tensor | None = None
    ) -> dict[int, Places]:
        """One token for each of rows first .. last - 1, or of those that `index` (A,) names, by ring size; `longest`
        tokens are held at most.

        Everything but those numbers comes from tensors on the device, so that a captured CUDA graph may replay it.
        """
        positions = self.positions[first:last]
        found = {}
        for size in set(self.sizes):
            length = min(longest + 1, size)
            mask = None
            if not is_uniform:
                held = (positions + 1).clamp(max=size).unsqueeze(1)  # (B, 1)
                is_hidden = torch.arange(length, device=self.device) >= held  # (B, L)
                mask = _bias(is_hidden, self.dtype)[:, None, None]
            place = (positions % size).view(-1, 1, 1)  # (B, 1, 1)
            new = self._starts[size][first:last] + place  # (B, K, 1)
            found[size] = Places((new if index is None else new[index]).flatten(), length, mask)
        return found

    def chunk_places(self, rows: Sequence[int], tokens: int) -> dict[int, Places]:
        """`tokens` tokens for each of `rows`, by window; masks are made only where a row already holds something."""
        row = torch.tensor(rows, device=self.device)
        held = self.positions[row].unsqueeze(1)  # (B, 1)
        positions = held + torch.arange(tokens, device=self.device)  # (B, T)
        longest = max(self.lengths[number] for number in rows)
        found = {}
        for size in set(self.sizes):
            length, mask = min(longest, size), None
            if longest > 0:
                place = torch.arange(length, device=self.device)
                # the newest position below `held` that lies at this place; negative where there is none
                old = place + size * torch.div(held - 1 - place, size, rounding_mode="floor")  # (B, L)
                key = torch.cat((old, positions), dim=1).unsqueeze(1)  # (B, 1, L + T)
                query = positions.unsqueeze(2)  # (B, T, 1)
                # a ring of max_len places never turns round, so its size hides nothing either
                mask = _bias((key < 0) | (key > query) | (key <= query - size), self.dtype).unsqueeze(1)
            place = (positions[:, -size:] % size).unsqueeze(1)  # (B, 1, t)
            found[size] = Places((self._starts[size][row] + place).flatten(), length, mask)
        return found

    def write(self, layer: int, places: Places, k: Tensor, v: Tensor) -> None:
        """Put k and v (B, K, T, D) into their places."""
        head_dim = self.config.head_dim
        if k.size(2) > self.sizes[layer]:
            k, v = k[:, :, -self.sizes[layer] :], v[:, :, -self.sizes[layer] :]
        for store, new in ((self.keys[layer], k), (self.values[layer], v)):
            store.view(-1, head_dim).index_copy_(0, places.index, new.reshape(-1, head_dim).to(self.dtype))

    def _row_starts(self) -> dict[int, Tensor]:
        """For each ring size the first place (R, K, 1) of every row and head in (R K M, D)."""
        row = torch.arange(self.num_rows * self.config.n_kv_head, device=self.device)
        return {size: (row * size).view(self.num_rows, self.config.n_kv_head, 1) for size in set(self.sizes)}

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        length = self.lengths[source]
        for store in (*self.keys, *self.values):
            store[target, :, :length].copy_(store[source, :, :length])
        self.last_embedding[target] = self.last_embedding[source]
        self._set_length(target, length)

    def clear_row(self, row: int) -> None:
        """Free a row; its next token starts a new sequence."""
        self.last_embedding[row] = 0
        self._set_length(row, 0)

    def scrub_row(self, row: int) -> None:
        """Forget what a row holds: a NaN there would reach whoever comes next, hidden or not, as 0 times NaN."""
        for store in (*self.keys, *self.values):
            store[row].zero_()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Give up all rows but `rows`, which become 0, 1, ... in that order."""
        index = torch.tensor(rows, device=self.device)
        self.keys = [store[index] for store in self.keys]
        self.values = [store[index] for store in self.values]
        self.last_embedding, self.positions = self.last_embedding[index], self.positions[index]
        self.lengths = [self.lengths[row] for row in rows]
        self._starts = self._row_starts()

    def advance(self, rows: Sequence[int], tokens: int) -> None:
        """Count `tokens` more tokens in each of `rows`."""
        for row in rows:
            self.lengths[row] += tokens
        if len(rows) == self.num_rows:
            self.positions += tokens
        else:
            self.positions[torch.tensor(rows, device=self.device)] += tokens

    def _set_length(self, row: int, length: int) -> None:
        self.lengths[row] = length
        self.positions[row] = length


def _bias(is_hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(is_hidden.shape, dtype=dtype, device=is_hidden.device).masked_fill_(is_hidden, -torch.inf)
