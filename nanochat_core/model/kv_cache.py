"""Keys and values of the tokens already seen, for generation.

Every row has its own length, so that requests of different age decode together: a prompt is prefilled alone, in a cache
of one row, and moved into a free row of the batch with `copy_row_from`. Lengths live twice, as Python integers (slices
and checks need no synchronisation) and as a tensor on the device (masks and writes), and only this file changes them.
The smear of the next token needs the embedding of the last one, so that is kept here as well.
"""

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig

# B rows, T new tokens, K key/value heads, M capacity, L visible tokens, D head size, C model width


class KVCache:
    """Room for `max_len` tokens in each of `batch` rows."""

    def __init__(
        self, config: GPTConfig, batch: int, *, max_len: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (config.n_layer, batch, config.n_kv_head, max_len, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (layers, B, K, M, D)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.last_embedding = torch.zeros(batch, config.n_embd, dtype=dtype, device=device)  # (B, C)
        self.positions = torch.zeros(batch, dtype=torch.long, device=device)  # (B,): tokens held, = the next position
        self.lengths = [0] * batch
        self.max_len = max_len
        self._rows = torch.arange(batch, device=device)
        self._masks: dict[tuple[int, int], Tensor | None] = {}

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def is_empty(self) -> bool:
        return not any(self.lengths)

    @property
    def is_uniform(self) -> bool:
        """All rows hold equally many tokens."""
        return min(self.lengths) == max(self.lengths)

    def check_room(self, ids: Tensor) -> None:
        """Raise `ConfigError` if `ids` (B, T) cannot be appended."""
        rows, tokens = ids.shape
        if rows != self.batch:
            raise ConfigError(f"{rows} rows for a cache of {self.batch}", hint="make the cache with that batch")
        if tokens > 1 and not self.is_uniform:
            raise ConfigError(
                f"{tokens} tokens at once onto rows of different lengths {self.lengths}",
                hint="prefill each prompt in a cache of one row and move it with copy_row_from",
            )
        if max(self.lengths) + tokens > self.max_len:
            raise ConfigError(
                f"{max(self.lengths)} + {tokens} tokens do not fit into a cache of {self.max_len}",
                hint="make the cache with a larger max_len, or stop the row earlier",
            )

    def next_positions(self, tokens: int) -> Tensor:
        """Positions of the next `tokens` tokens of every row, (B, T)."""
        return self.positions.unsqueeze(1) + torch.arange(tokens, device=self.positions.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write k and v (B, K, T, D) behind what `layer` holds; `advance` follows once all layers have written."""
        tokens = k.size(2)
        for store, new in ((self.keys[layer], k.detach()), (self.values[layer], v.detach())):
            if self.is_uniform:
                store[:, :, self.lengths[0] : self.lengths[0] + tokens] = new
            else:
                store[self._rows, :, self.positions] = new[:, :, 0]

    def visible(self, layer: int, *, window: int, tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (B, K, L, D) that the `tokens` just appended may see, and the mask where rows differ."""
        oldest = max(0, min(self.lengths) - window)
        newest = max(self.lengths) + tokens
        keys, values = self.keys[layer, :, :, oldest:newest], self.values[layer, :, :, oldest:newest]
        if (window, tokens) not in self._masks:  # the layers of one step share their masks
            self._masks[window, tokens] = self._mask(oldest, newest, window=window, tokens=tokens)
        return keys, values, self._masks[window, tokens]

    def _mask(self, oldest: int, newest: int, *, window: int, tokens: int) -> Tensor | None:
        if tokens == 1 and self.is_uniform:
            return None  # the slice is exactly what every row may see
        position = self.next_positions(tokens).unsqueeze(-1)  # (B, T, 1)
        key = torch.arange(oldest, newest, device=position.device)  # (L,)
        return ((key <= position) & (key >= position - window)).unsqueeze(1)  # (B, 1, T, L)

    def advance(self, tokens: int, *, last_embedding: Tensor) -> None:
        """Count `tokens` more tokens in every row; `last_embedding` (B, C) is the last one's."""
        self.lengths = [length + tokens for length in self.lengths]
        self.positions += tokens
        self.last_embedding.copy_(last_embedding.detach())
        self._masks.clear()

    def copy_row_from(self, other: "KVCache", source: int, target: int) -> None:
        """Make row `target` what row `source` of `other` is."""
        length = other.lengths[source]
        if length > self.max_len:
            raise ConfigError(f"a row of {length} tokens for a cache of {self.max_len}", hint="use a larger max_len")
        self.keys[:, target, :, :length] = other.keys[:, source, :, :length]
        self.values[:, target, :, :length] = other.values[:, source, :, :length]
        self.last_embedding[target] = other.last_embedding[source]
        self._set_length(target, length)

    def clear_row(self, row: int) -> None:
        """Free a row; its next token starts a new sequence."""
        self.last_embedding[row] = 0
        self._set_length(row, 0)

    def _set_length(self, row: int, length: int) -> None:
        self.lengths[row] = length
        self.positions[row] = length
        self._masks.clear()
