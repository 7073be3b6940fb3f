"""Choosing the next tokens: greedy, or by temperature, top-k and top-p with random numbers of the request's own.

Many rows are drawn in a few tensor operations, grouped by how their candidates are cut; a row's draw depends on its
logits, its seed and how often it drew before, never on the other rows. So the same seed gives the same tokens alone or
in any batch. One uniform number per draw picks the token at which the cumulative probability, in the order of the ids,
passes it: that order does not change when rounding swaps two candidates that are nearly as likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.noise import uniform

# N rows, V vocabulary, K candidates that are left
NUCLEUS_HEAD = 1024  # top-p alone looks at so many tokens first: sorting all of 32,768 takes five times as long
GREEDY_BELOW = 1e-6  # smaller temperatures overflow fp32, and by then only the likeliest token has any chance


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request is sampled, and where it ends."""

    temperature: float = 0.0
    """0: the most likely token."""
    top_k: int | None = 50
    """Only the k most likely tokens; None: all."""
    top_p: float | None = None
    """Of those, the fewest whose probability at this temperature reaches p (arXiv 1904.09751); None: all."""
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer. They are never part of what is emitted."""
    stop_ids: tuple[int, ...] = ()
    """Further tokens that end the answer when the model says one; no text comes of them."""
    num_logprobs: int | None = None
    """None: no log-probs; n: those of each token and of the n likeliest in its place."""
    use_tools: bool = True
    """False: a plain continuation; nothing is computed or forced."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"temperature = {self.temperature} is not between 0 and 10")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k} is below 1", hint="leave it out to allow every token")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p = {self.top_p} is not above 0 and at most 1", hint="leave it out to allow all")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {self.max_new_tokens} is below 1")
        if not -(2**63) <= self.seed < 2**64:
            raise ConfigError(f"seed = {self.seed} does not fit into 64 bits")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"stop = {self.stop!r} is not a tuple of texts that say something")
        if self.num_logprobs is not None and self.num_logprobs < 0:
            raise ConfigError(f"num_logprobs = {self.num_logprobs} is below 0", hint="leave it out to have none")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


class Sampler:
    """The state of one request's randomness: how often it drew."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._num_drawn = 0

    def next_uniform(self) -> float:
        """The random number of the next draw."""
        self._num_drawn += 1
        return uniform(self.sampling.seed, self._num_drawn - 1)

    def next_token(self, logits: Tensor) -> int:
        """The next id for fp32 logits (V,)."""
        return next_tokens(logits.unsqueeze(0), [self])[0]


@dataclass(frozen=True)
class _Cut:
    """What rows that are drawn together have in common."""

    top_k: int | None
    has_top_p: bool


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next id of every row for fp32 logits (N, V)."""
    groups: dict[_Cut | None, list[int]] = {}
    for row, sampler in enumerate(samplers):
        groups.setdefault(_cut(sampler.sampling, logits.size(1)), []).append(row)
    if not set(groups) <= {None} and logits.device.type not in ("cpu", "cuda"):
        logits = logits.cpu()  # cumulative sums need fp64, which other devices lack
    chosen = torch.empty(logits.size(0), dtype=torch.long, device=logits.device)
    for cut, rows in groups.items():
        index = torch.tensor(rows, device=logits.device)
        part = logits if len(rows) == logits.size(0) else logits[index]
        chosen[index] = part.argmax(-1) if cut is None else _draw(part, [samplers[row] for row in rows], cut)
    return chosen.tolist()


def _cut(sampling: Sampling, vocab_size: int) -> _Cut | None:
    """None: greedy."""
    if sampling.is_greedy:
        return None
    top_k = sampling.top_k if sampling.top_k is not None and sampling.top_k < vocab_size else None
    return _Cut(top_k, sampling.top_p is not None and sampling.top_p < 1)


def _draw(logits: Tensor, samplers: Sequence[Sampler], cut: _Cut) -> Tensor:
    """One id (N,) for each row of logits (N, V); every row has the same k."""
    temperatures = _column(logits, [sampler.sampling.temperature for sampler in samplers])
    numbers = _column(logits, [sampler.next_uniform() for sampler in samplers])
    tokens = None
    if cut.top_k is not None:
        logits, tokens = logits.topk(cut.top_k)  # (N, K)
    probabilities = (logits / temperatures.float()).softmax(-1)
    if not cut.has_top_p:
        return _pick(probabilities, tokens, numbers)
    limits = _column(logits, [sampler.sampling.top_p or 1.0 for sampler in samplers])
    if tokens is not None:
        return _pick(_nucleus(probabilities, limits), tokens, numbers)
    return _draw_nucleus(probabilities, limits, numbers)


def _draw_nucleus(probabilities: Tensor, limits: Tensor, numbers: Tensor) -> Tensor:
    """One id (N,) for each row of probabilities (N, V) of all tokens."""
    head, tokens = probabilities.topk(min(NUCLEUS_HEAD, probabilities.size(1)))
    chosen = _pick(_nucleus(head, limits), tokens, numbers)
    is_wider = head.sum(-1, dtype=torch.float64) < limits.squeeze(1)
    if is_wider.any():  # flat distributions, where the nucleus is most of the vocabulary
        ordered, tokens = probabilities[is_wider].sort(descending=True, stable=True)
        chosen[is_wider] = _pick(_nucleus(ordered, limits[is_wider]), tokens, numbers[is_wider])
    return chosen


def _nucleus(probabilities: Tensor, limits: Tensor) -> Tensor:
    """Zero where the likelier candidates (N, K, in their order) already reach the limit (N, 1)."""
    before = probabilities.cumsum(-1, dtype=torch.float64) - probabilities  # exactly 0 for the first: it always stays
    return probabilities.masked_fill(before >= limits, 0.0)


def _pick(weights: Tensor, tokens: Tensor | None, numbers: Tensor) -> Tensor:
    """The candidate (N,) of weights (N, K) whose cumulative share, in the order of ids, passes the number (N, 1)."""
    if tokens is not None:
        tokens, order = tokens.sort(dim=-1)
        weights = weights.gather(1, order)
    upto = weights.cumsum(-1, dtype=torch.float64)  # (N, K)
    place = torch.searchsorted(upto, numbers * upto[:, -1:], right=True)  # right: never one of weight 0
    return place.squeeze(1) if tokens is None else tokens.gather(1, place).squeeze(1)


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(1)  # (N, 1)
