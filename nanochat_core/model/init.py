"""Initial weights, drawn on the CPU from one seeded generator: the same seed gives the same model on every device.

Every block starts as the identity (both projections are zero), the head starts near zero, so that the first loss is the
logarithm of the vocabulary, and the layers' residual weights fall slowly with depth. Values are nanochat's.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nanochat_core.model.gpt import GPT

EMBED_STD = 0.8
HEAD_STD = 0.001
MLP_FRAC = 0.4  # fc relative to the bound of the attention matrices
RESIDUAL_FIRST, RESIDUAL_LAST = 1.15, 1.05
SKIP_FIRST, SKIP_LAST = 0.20, 0.05
BACKOUT = 0.2
GATE_MAX = 0.02


@torch.no_grad()
def init_weights(model: "GPT", seed: int) -> None:
    """Fill every parameter of `model`."""
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(3 / model.config.n_embd)  # a uniform distribution of standard deviation 1 / sqrt(width)
    _normal(model.embed.weight, EMBED_STD, generator=generator)
    _normal(model.head.weight, HEAD_STD, generator=generator)
    for table in model.value_embeds.parameters():
        _uniform(table, -bound, bound, generator=generator)
    for block in model.layers:
        attention, mlp = block.attn, block.mlp
        for linear in (attention.q, attention.k, attention.v):
            _uniform(linear.weight, -bound, bound, generator=generator)
        _uniform(mlp.fc.weight, -MLP_FRAC * bound, MLP_FRAC * bound, generator=generator)
        attention.proj.weight.zero_()
        mlp.proj.weight.zero_()
        if attention.value_gate is not None:
            _uniform(attention.value_gate.weight, 0.0, GATE_MAX, generator=generator)
    _uniform(model.smear_gate.weight, 0.0, GATE_MAX, generator=generator)
    n_layer = model.config.n_layer
    model.residual_weights.copy_(torch.linspace(RESIDUAL_FIRST, RESIDUAL_LAST, n_layer))
    model.skip_weights.copy_(torch.linspace(SKIP_FIRST, SKIP_LAST, n_layer))
    model.smear_weight.zero_()
    model.backout_weight.fill_(BACKOUT)


def _normal(weight: Tensor, std: float, *, generator: torch.Generator) -> None:
    weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))


def _uniform(weight: Tensor, low: float, high: float, *, generator: torch.Generator) -> None:
    weight.copy_(torch.empty(weight.shape).uniform_(low, high, generator=generator))
