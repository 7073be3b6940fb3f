"""Choosing the next tokens: greedy, or by temperature, top-k and top-p with random numbers of the request's own.

Many rows are drawn in one call (native_draw.c) or in a few tensor operations (draw.py), grouped by which of them they
need; a row's draw depends on its logits, its seed and how often it drew before, never on the other rows. So the same
seed gives the same tokens alone or in any batch.
"""

from collections.abc import Sequence
from ctypes import CDLL, c_double
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.draw import Cut, RowSettings, draw, first_largest, likeliest
from nanochat_core.inference.native import Whole, library
from nanochat_core.inference.noise import uniform

# N rows, V vocabulary
Settings = tuple[float, int, float, float]
"""Of one draw: temperature (0: greedy), k (V: all), p (1: all), and a random number below 1."""
GREEDY: Settings = (0.0, 1, 1.0, 0.0)
NUCLEUS_HEAD = 1024  # top-p alone looks at so many tokens first: sorting all of 32,768 takes five times as long
NOT_FINITE = -1  # as the token: there is nothing to choose from
GREEDY_BELOW = 1e-6  # smaller temperatures overflow fp32, and by then only the likeliest token has any chance


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request is sampled, and where it ends."""

    temperature: float = 0.0
    """0: the most likely token."""
    top_k: int | None = 50
    """Only the k most likely tokens, and those exactly as likely as the last of them; None: all."""
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
        return self.temperature < GREEDY_BELOW or self.top_k == 1


class Sampler:
    """The state of one request's randomness: how often it drew."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.num_drawn = 0

    def uniform(self, ahead: int = 0) -> float:
        """The random number of the draw that comes after `ahead` others."""
        return 0.0 if self.sampling.is_greedy else uniform(self.sampling.seed, self.num_drawn + ahead)

    def next_token(self, logits: Tensor) -> int:
        """The next id for fp32 logits (V,)."""
        return next_tokens(logits.unsqueeze(0), [self])[0]


def next_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next id of every row for fp32 logits (N, V); each sampler has drawn once more."""
    tokens = choose(logits, [settings_of(sampler, logits.size(1)) for sampler in samplers])
    for sampler in samplers:
        sampler.num_drawn += 1
    return tokens


def choose(logits: Tensor, settings: Sequence[Settings]) -> list[int]:
    """The next id of every row for fp32 logits (N, V); NOT_FINITE where one holds NaN or has no largest number."""
    if logits.device.type not in ("cpu", "cuda"):
        logits = logits.cpu()  # random numbers are fp64, which other devices lack
    compiled, vocab_size = library() if logits.device.type == "cpu" else None, logits.size(1)
    if compiled is not None and all(top_k < vocab_size or top_p >= 1 for _, top_k, top_p, _ in settings):
        return _draw_compiled(compiled, logits, settings)
    is_broken = ~logits.amax(-1).isfinite()  # (N,)
    logits = logits.masked_fill(is_broken.unsqueeze(1), 0.0) if is_broken.any() else logits
    groups: dict[tuple[bool, bool] | None, list[int]] = {}
    for row, each in enumerate(settings):
        groups.setdefault(_kind(each, vocab_size), []).append(row)
    chosen = [0] * len(settings)
    for kind, rows in groups.items():
        part = logits if len(rows) == len(settings) else logits[rows]
        found = first_largest(part) if kind is None else _draw(part, [settings[row] for row in rows], kind)
        for row, token in zip(rows, found.tolist(), strict=True):
            chosen[row] = token
    return [NOT_FINITE if broken else token for broken, token in zip(is_broken.tolist(), chosen, strict=True)]


def settings_of(sampler: Sampler, vocab_size: int, *, ahead: int = 0) -> Settings:
    """How the draw that comes after `ahead` others is made."""
    sampling = sampler.sampling
    top_k = vocab_size if sampling.top_k is None else min(sampling.top_k, vocab_size)
    temperature = 0.0 if sampling.is_greedy else sampling.temperature
    return temperature, top_k, sampling.top_p or 1.0, sampler.uniform(ahead)


def _kind(settings: Settings, vocab_size: int) -> tuple[bool, bool] | None:
    """Whether it cuts by top-k and by top-p; None: greedy."""
    temperature, top_k, top_p, _ = settings
    return None if temperature == 0 else (top_k < vocab_size, top_p < 1)


def _draw_compiled(compiled: CDLL, logits: Tensor, settings: Sequence[Settings]) -> list[int]:
    """As draw.py has it; for top-p over the whole vocabulary it sorts all of it, which takes longer than there."""
    num_rows, vocab_size = logits.shape
    temperature, top_k, top_p, number = zip(*settings, strict=True)
    Reals, Wholes = c_double * num_rows, Whole * num_rows
    tokens, logits = Wholes(), logits.contiguous()
    is_done = compiled.draw(
        num_rows, vocab_size, logits.data_ptr(), Reals(*temperature), Wholes(*top_k), Reals(*top_p), Reals(*number),
        tokens,
    )  # fmt: skip
    if not is_done:
        raise MemoryError(f"no memory to draw from {vocab_size:,} tokens")
    return list(tokens)


def _draw(logits: Tensor, settings: Sequence[Settings], kind: tuple[bool, bool]) -> Tensor:
    """One id (N,) for each row of logits (N, V); the rows are of one kind."""
    has_top_k, has_top_p = kind
    temperatures, top_k, top_p, numbers = zip(*settings, strict=True)
    device = logits.device
    rows = RowSettings(
        temperatures=torch.tensor(temperatures, dtype=torch.float64, device=device),
        top_k=torch.tensor(top_k, device=device),
        top_p=torch.tensor(top_p, dtype=torch.float64, device=device),
        numbers=torch.tensor(numbers, dtype=torch.float64, device=device),
    )
    num_sorted = NUCLEUS_HEAD if has_top_p else 0
    if not has_top_k:
        return draw(logits, rows, Cut(num_sorted=num_sorted))
    found, tokens = likeliest(logits, rows.top_k, largest_k=max(top_k))
    chosen = draw(found, rows, Cut(max(top_k), num_sorted))
    return tokens.gather(1, chosen.unsqueeze(1)).squeeze(1)
