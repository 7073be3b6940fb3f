"""The whole optimizer: resuming, layout of its state, determinism."""

import pytest
import torch

from nanochat_core.base.errors import CorruptError
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig, parameter_groups
from nanochat_core.optim.optimizer import MuonAdamW

CONFIG = GPTConfig(sequence_len=64, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=64)


def _model():
    model = GPT(CONFIG)
    model.init_weights(0)
    model.compute_dtype = torch.bfloat16
    return model


def _train(model, optimizer, steps):
    for step in steps:
        ids = torch.randint(0, 90, (4, 33), generator=torch.Generator().manual_seed(step))
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(lr_multiplier=1.0 - 0.1 * step, momentum=0.9, weight_decay=0.1)
        optimizer.zero_grad()


def _weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def test_resumed_run_matches_unbroken_run_bit_for_bit():
    unbroken = _model()
    _train(unbroken, MuonAdamW(unbroken, OptimConfig()), range(6))
    first = _model()
    optimizer = MuonAdamW(first, OptimConfig())
    _train(first, optimizer, range(3))
    saved = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    second = _model()
    second.load_state_dict(first.state_dict())
    resumed = MuonAdamW(second, OptimConfig())
    resumed.load_state_dict(saved)
    _train(second, resumed, range(3, 6))
    expected = _weights(unbroken)
    assert all(torch.equal(weight, expected[name]) for name, weight in _weights(second).items())


def test_state_layout_is_known_before_the_first_step():
    model = _model()
    optimizer = MuonAdamW(model, OptimConfig())
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer.state_dict().items()}
    _train(model, optimizer, range(1))
    assert before == {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer.state_dict().items()}
    assert {"exp_avg.embed.weight", "momentum.blocks.0.attn.q.weight", "step"} <= before.keys()
    assert optimizer.state_dict()["second_moment.blocks.0.mlp.fc.weight"].shape == (256, 1)


def test_every_parameter_is_in_one_group_and_moves():
    model = _model()
    before = _weights(model)
    optimizer = MuonAdamW(model, OptimConfig())
    names = [name for group in optimizer.groups for name in group.params]
    assert sorted(names) == sorted(before)
    _train(model, optimizer, range(4))
    assert not [name for name, weight in _weights(model).items() if torch.equal(weight, before[name])]


def test_the_batch_scale_multiplies_every_rate_and_the_width_scale_only_tables_and_head():
    base = parameter_groups(_model(), OptimConfig())
    scaled = parameter_groups(_model(), OptimConfig(lr_scale=0.5, adamw_lr_scale=3.0))
    for before, after in zip(base, scaled, strict=True):
        is_table = after.name in ("head", "embedding", "value_embeddings")
        assert after.lr == pytest.approx(before.lr * (1.5 if is_table else 0.5))


def test_a_foreign_state_is_refused():
    optimizer = MuonAdamW(_model(), OptimConfig())
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    with pytest.raises(CorruptError, match="1 tensors differ"):
        optimizer.load_state_dict({name: tensor for name, tensor in state.items() if name != "step"})
    state["exp_avg.head.weight"] = torch.zeros(3)
    with pytest.raises(CorruptError, match=r"exp_avg\.head\.weight"):
        optimizer.load_state_dict(state)


def test_the_loss_falls_on_a_repeated_batch():
    model = _model()
    optimizer = MuonAdamW(model, OptimConfig())
    ids = torch.randint(0, 90, (4, 33), generator=torch.Generator().manual_seed(0))
    first = model.loss(ids[:, :-1], ids[:, 1:]).item()
    for _ in range(20):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.9, weight_decay=0.0)
        optimizer.zero_grad()
    assert loss.item() < 0.7 * first
