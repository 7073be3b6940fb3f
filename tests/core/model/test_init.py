"""Statistics of a fresh model."""

import math

import pytest
import torch

from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT

CONFIG = GPTConfig(sequence_len=64, vocab_size=1000, n_layer=4, n_head=4, n_kv_head=2, n_embd=128)


@pytest.fixture(scope="module")
def model():
    model = GPT(CONFIG)
    model.init_weights(7)
    return model


def test_standard_deviations_are_as_documented(model):
    assert model.embed.weight.std().item() == pytest.approx(0.8, rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    for block in model.blocks:
        for linear in (block.attn.q, block.attn.k, block.attn.v):
            assert linear.weight.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.03)
        assert block.mlp.fc.weight.std().item() == pytest.approx(0.4 / math.sqrt(128), rel=0.03)


def test_every_block_starts_as_the_identity(model):
    assert not any(block.attn.proj.weight.any() or block.mlp.proj.weight.any() for block in model.blocks)


def test_scalars_fall_linearly_and_gates_start_small(model):
    torch.testing.assert_close(model.residual_weights.data, torch.tensor([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05]))
    torch.testing.assert_close(model.skip_weights.data, torch.tensor([0.2, 0.15, 0.1, 0.05]))
    assert model.smear_weight.item() == 0
    assert model.backout_weight.item() == pytest.approx(0.2)
    gates = [model.smear_gate.weight] + [
        block.attn.value_gate.weight for block in model.blocks if block.attn.value_gate
    ]
    assert all(gate.min() >= 0 and 0 < gate.max() <= 0.02 for gate in gates)


def test_first_loss_is_the_logarithm_of_the_vocabulary(model):
    ids = torch.randint(0, 1000, (2, 65), generator=torch.Generator().manual_seed(0))
    assert model.loss(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(1000), abs=0.01)


def test_same_seed_same_weights_and_the_global_generator_is_not_touched(model):
    state = torch.get_rng_state()
    other = GPT(CONFIG)
    other.init_weights(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    other.init_weights(8)
    assert not torch.equal(other.embed.weight, model.embed.weight)
