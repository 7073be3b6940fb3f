"""Choosing the next token: greedy, or by temperature and top-k with a random generator of the request's own.

Every request draws from its own generator, so the same seed gives the same tokens alone or in any batch.
"""

from dataclasses import dataclass

import torch

from nanochat_core.base.errors import ConfigError

GREEDY_BELOW = 1e-6  # smaller temperatures overflow fp32, and by then only the likeliest token has any chance


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request is sampled."""

    temperature: float = 0.0
    """0: the most likely token."""
    top_k: int | None = 50
    """Only the k most likely tokens; None: all."""
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"temperature = {self.temperature} is not between 0 and 10")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k} is below 1", hint="leave it out to allow every token")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {self.max_new_tokens} is below 1")
        if not -(2**63) <= self.seed < 2**64:
            raise ConfigError(f"seed = {self.seed} does not fit into 64 bits")


class Sampler:
    """The state of one request's randomness."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def next_token(self, logits: torch.Tensor) -> int:
        """The next id for fp32 logits (V,)."""
        if self.sampling.temperature < GREEDY_BELOW:
            return int(logits.argmax())
        logits = logits.cpu() / self.sampling.temperature
        if self.sampling.top_k is None or self.sampling.top_k >= len(logits):
            return int(torch.multinomial(logits.softmax(-1), 1, generator=self._generator))
        top = logits.topk(self.sampling.top_k)
        return int(top.indices[torch.multinomial(top.values.softmax(-1), 1, generator=self._generator)])
