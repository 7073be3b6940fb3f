"""Counts and FLOPs against nanochat's own, and against what the model allocates."""

from dataclasses import replace

import nanochat_golden
import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import (
    count_params,
    decode_flops_per_token,
    flops_per_token,
    kv_bytes_per_token,
    window_sizes,
)

SMALL = GPTConfig(sequence_len=64, vocab_size=100, n_layer=3, n_head=4, n_kv_head=2, n_embd=32)


def _config(row: dict) -> GPTConfig:
    return GPTConfig(
        sequence_len=row["sequence_len"],
        vocab_size=row["vocab_size"],
        n_layer=row["depth"],
        n_head=row["n_head"],
        n_kv_head=row["n_head"],
        n_embd=row["n_embd"],
        window_pattern=row["window_pattern"],
    )


def test_every_derived_number_equals_nanochats():
    for row in nanochat_golden.plan_table():
        config = _config(row)
        counts = count_params(config)
        assert {name: getattr(counts, name) for name in row["params"]} == row["params"]
        assert counts.scaling == row["scaling_params"]
        assert flops_per_token(config) == row["flops_per_token"]
        assert window_sizes(config) == row["window_sizes"]
        assert decode_flops_per_token(config, context=1024) == row["decode_flops_per_token_ctx1024"]
        assert kv_bytes_per_token(config) == row["kv_bytes_per_token_bf16"]


@pytest.mark.parametrize("n_layer", [1, 2, 3, 4])
def test_counted_params_are_the_allocated_ones(n_layer):
    config = replace(SMALL, n_layer=n_layer)
    model = GPT(config)
    counts = count_params(config)
    assert sum(param.numel() for param in model.parameters()) == counts.total
    assert sum(param.numel() for param in model.blocks.parameters()) == counts.transformer_matrices
    assert sum(param.numel() for param in model.value_embeds.parameters()) == counts.value_embeds
    assert model.embed.weight.numel() == counts.wte
    assert model.head.weight.numel() == counts.lm_head


def test_last_layer_sees_the_whole_context_whatever_the_pattern():
    assert window_sizes(replace(SMALL, sequence_len=2048, window_pattern="S")) == [512, 512, 2048]


@pytest.mark.parametrize(
    "change",
    [
        {"n_embd": 34},
        {"n_kv_head": 3},
        {"window_pattern": "SX"},
        {"window_pattern": ""},
        {"n_embd": 16},
        {"n_head": 32},
    ],
)
def test_impossible_shapes_are_refused_with_a_hint(change):
    with pytest.raises(ConfigError) as caught:
        GPT(replace(SMALL, **change))
    assert caught.value.hint
