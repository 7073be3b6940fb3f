"""Which parameters are trained how: the groups of a model, with their learning rates.

Lookup tables, head and scalars go to AdamW, every matrix inside a layer to Muon. AdamW's rates for tables and head
shrink with the model's width (`adamw_lr_scale`, (width / 768)^-0.5 in the plan); `lr_scale` is the correction for the
batch size and multiplies every group, the fixed rates included. Constants without a field are nanochat's.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from nanochat_core.model.gpt import GPT

ADAMW_EPS = 1e-10
MUON_BETA2 = 0.9  # of the factored second moment
RESIDUAL_LR_FRAC = 0.01  # residual weights multiply through all layers: a hundredth of the scalar rate
GATE_LR = 0.2  # smear gate, smear and backout weights


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Base learning rates (what they are at width 768 and the reference batch) and their scales."""

    embedding_lr: float = 0.3
    value_embedding_lr: float = 0.15
    unembedding_lr: float = 0.008
    matrix_lr: float = 0.02
    scalar_lr: float = 0.5
    adamw_lr_scale: float = 1.0
    """Multiplies the rates of head, embedding and value embeddings."""
    lr_scale: float = 1.0
    """Multiplies every rate."""
    weight_decay: float = 0.28
    """Cautious decay on the matrices, as it is to be used (the plan has scaled it)."""


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters that share one rule. `betas`: of the first and the second moment; Muon's first is its momentum."""

    name: str
    kind: Literal["adamw", "muon"]
    params: dict[str, nn.Parameter]
    """By the names that the model gives them."""
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


def parameter_groups(model: GPT, config: OptimConfig) -> list[ParamGroup]:
    """Every parameter of `model` in exactly one group: AdamW's groups first, then Muon's by shape."""
    params = dict(model.named_parameters())
    groups = _adamw_groups(params, config) + _muon_groups(params, config)
    assert sum(len(group.params) for group in groups) == len(params)
    return groups


def _adamw_groups(params: dict[str, nn.Parameter], config: OptimConfig) -> list[ParamGroup]:
    table_scale = config.adamw_lr_scale * config.lr_scale
    value_embeds = tuple(name for name in params if name.startswith("value_embeds."))
    gates = ("smear_gate.weight", "smear_weight", "backout_weight")
    # name, parameters, learning rate, betas, weight decay
    table: tuple[tuple[str, tuple[str, ...], float, tuple[float, float], float], ...] = (
        ("head", ("head.weight",), config.unembedding_lr * table_scale, (0.8, 0.96), 0.01),
        ("embedding", ("embed.weight",), config.embedding_lr * table_scale, (0.8, 0.995), 0.001),
        ("value_embeddings", value_embeds, config.value_embedding_lr * table_scale, (0.8, 0.995), 0.01),
        ("residual", ("residual_weights",), config.scalar_lr * RESIDUAL_LR_FRAC * config.lr_scale, (0.8, 0.95), 0.05),
        ("skip", ("skip_weights",), config.scalar_lr * config.lr_scale, (0.96, 0.95), 0.0),
        ("gates", gates, GATE_LR * config.lr_scale, (0.8, 0.95), 0.0),
    )
    return [
        ParamGroup(
            name=name,
            kind="adamw",
            params=found,
            lr=lr,
            betas=betas,
            eps=ADAMW_EPS,
            weight_decay=weight_decay,
        )
        for name, names, lr, betas, weight_decay in table
        if (found := {key: params[key] for key in names if key in params})  # an older model has not all of them
    ]


def _muon_groups(params: dict[str, nn.Parameter], config: OptimConfig) -> list[ParamGroup]:
    """One group per shape: its matrices are stacked and orthogonalised together."""
    matrices = {name: param for name, param in params.items() if name.startswith("blocks.")}
    shapes = sorted({tuple(param.shape) for param in matrices.values()})
    return [
        ParamGroup(
            name="matrices_" + "x".join(map(str, shape)),
            kind="muon",
            params={name: param for name, param in matrices.items() if tuple(param.shape) == shape},
            lr=config.matrix_lr * config.lr_scale,
            betas=(0.95, MUON_BETA2),
            eps=0.0,
            weight_decay=config.weight_decay,
        )
        for shape in shapes
    ]
