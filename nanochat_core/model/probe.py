"""A small model that uses every part of the network, to see whether fast code still computes what the model does.

Decoding, scoring of branches and the exported file are written apart from the modules of this folder, for speed or to
travel alone. Whoever changes a line here must not be answered by the old network there. So such code is admitted per
process: at the shape of the model in question, narrowed where that is large, with every parameter drawn (those that
start at zero as well, and those that somebody added), its logits are compared with the plain forward's.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import SMEAR_CHANNELS, count_params

log = logging.getLogger(__name__)

# T tokens, V vocabulary
NUM_TOKENS = 150  # longer than the shortest window, 128
CONTEXT, VOCABULARY, SHORT_WINDOW = 256, 96, 128
MAX_PARAMS = 4_000_000  # a tenth of a second for a model of this size
NARROW_HEAD_DIMS = (32, 16)
LOGITS_STD = 10.0  # so that the soft cap of 15 matters
TOLERANCE = 1e-3  # of the largest logit, in fp32; another network is off by a hundred times that
SEED = 20_260_713


def probe_config(config: GPTConfig) -> GPTConfig:
    """The same layers and heads in a context and a vocabulary that are cheap, narrower where that takes long."""
    small = replace(
        config, sequence_len=min(config.sequence_len, CONTEXT), vocab_size=min(config.vocab_size, VOCABULARY)
    )
    if small.short_window_tokens is not None:  # short enough to hide some of the tokens
        small = replace(small, short_window_tokens=min(small.short_window_tokens, SHORT_WINDOW))
    narrowest = max(SMEAR_CHANNELS, config.value_gate_channels)
    for head_dim in NARROW_HEAD_DIMS:
        if count_params(small).total > MAX_PARAMS and narrowest <= config.n_head * head_dim < small.n_embd:
            small = replace(small, n_embd=config.n_head * head_dim)
    return small


def probe_ids(config: GPTConfig) -> Tensor:
    """Ids (T,) for a probe, T at most its context."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(config.vocab_size, (min(NUM_TOKENS, config.sequence_len),), generator=generator)


@torch.no_grad()
def drawn(config: GPTConfig) -> GPT:
    """A model whose every parameter is drawn, large enough that none can be left out unseen."""
    model, generator = GPT(config), torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        fan_in = parameter.size(-1) if parameter.dim() > 1 else 1
        std = LOGITS_STD / math.sqrt(fan_in) if name.startswith("head.") else 0.5 / math.sqrt(fan_in)
        values = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        # scalars around 1: a factor of a stream that is near zero would hide what it multiplies
        parameter.copy_(values if parameter.dim() > 1 else 1 + values / 2)
    return model.eval()


def own_forward(reason: str | None) -> dict[str, str]:
    """What the metrics of an evaluation say where fast code did not answer; nothing where it did."""
    return {} if reason is None else {"own_forward": reason}


def why_not(config: GPTConfig, compute: Callable[[GPT, Tensor], Tensor]) -> str | None:
    """Why `compute` may not stand for the model's own forward; None: its logits are the same.

    `compute` takes a model and ids (T,) and returns logits (n, V) after the last n of the tokens, in fp32 on the CPU.
    """
    small = probe_config(config)
    ids = probe_ids(small)
    with torch.no_grad():
        try:
            model = drawn(small)
            expected = model(ids.unsqueeze(0))[0]  # (T, V)
            found = compute(model, ids)
        except Exception as error:  # whatever a changed model makes fast code stumble over
            log.debug("the self-test of fast code failed", exc_info=True)
            return f"its self-test ended with {type(error).__name__}: {error}"
    off = (found.float() - expected[len(ids) - len(found) :]).abs().max() / expected.abs().max()
    if off <= TOLERANCE:
        return None
    return f"its logits differ from the model's own by {off:.2g} of the largest (at most {TOLERANCE:g} is rounding)"
