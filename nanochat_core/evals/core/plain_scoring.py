"""CORE by the model's own forward, for a model that the shared-prefix scorer does not compute."""

import logging
from functools import lru_cache

import numpy as np
import torch

from nanochat_core.config import GPTConfig
from nanochat_core.evals.core.prompts import Prompt
from nanochat_core.evals.core.row_scoring import RowScorer
from nanochat_core.evals.core.scoring import MAX_CONTEXTS, GPTScorer, Scorer
from nanochat_core.model.gpt import GPT
from nanochat_core.model.probe import drawn, probe_config

log = logging.getLogger(__name__)

TOLERANCE_NATS = 5e-3  # of losses of some tens of nats, in fp32; another network is off by a hundred times that
# prompts of the self-test: tokens of the prefix, of each choice, and how many of those are scored
SHAPES = ((40, (5, 12, 1), (5, 12, 1)), (3, (90,), (4,)), (150, (2, 2), (2, 1)), (20, (1, 1, 1, 1), (1, 1, 1, 1)))


class PlainScorer(RowScorer):
    """Every choice is a row of its own that goes through `GPT.forward`: slower, and always the trained network."""

    def __init__(self, model: GPT, *, batch_tokens: int) -> None:
        self.model = model.eval()
        self.batch_tokens, self.device, self.vocab_size = batch_tokens, model.device, model.config.vocab_size
        self.max_tokens = MAX_CONTEXTS * model.config.sequence_len

    def _streams(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (B T, V)."""
        return self.model(ids).flatten(0, 1)  # type: ignore[no-any-return]

    def _logits(self, stream: torch.Tensor) -> torch.Tensor:
        return stream.float()


def scorer_for(model: GPT, *, batch_tokens: int) -> Scorer:
    """The fast scorer, once it was seen to compute what models of this shape compute."""
    kind = GPTScorer if why_plain(model.config) is None else PlainScorer
    return kind(model, batch_tokens=batch_tokens)


@lru_cache(maxsize=16)
def why_plain(config: GPTConfig) -> str | None:
    """Why models of this shape are scored by their own forward; None: prefixes are shared. Said once in the log."""
    reason = _difference(probe_config(config))
    if reason is not None:
        log.warning("CORE is measured by the model's own forward, slowly: %s", reason)
    return reason


def _difference(config: GPTConfig) -> str | None:
    generator = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return generator.integers(0, config.vocab_size, length).astype(np.int32)

    prompts = [Prompt(ids(prefix), list(map(ids, suffixes)), list(scored), 0) for prefix, suffixes, scored in SHAPES]
    try:
        model = drawn(config)
        plain, fast = (
            kind(model, batch_tokens=1024).score(prompts, lambda done: None) for kind in (PlainScorer, GPTScorer)
        )
    except Exception as error:  # whatever a changed model makes fast code stumble over
        log.debug("the self-test of the scorer failed", exc_info=True)
        return f"the self-test of the shared-prefix scorer ended with {type(error).__name__}: {error}"
    off = max(np.abs(np.subtract(one.losses, other.losses)).max() for one, other in zip(plain, fast, strict=True))
    if off <= TOLERANCE_NATS:
        return None
    return f"the shared-prefix scorer's losses differ from the model's own by up to {off:.2g} nats"
