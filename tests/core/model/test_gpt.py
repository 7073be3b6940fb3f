"""What the whole model promises: causality, bf16 near fp32, gradients for every parameter."""

import torch
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT

CONFIG = GPTConfig(sequence_len=256, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=64)


def _model():
    model = GPT(CONFIG)
    model.init_weights(0)
    nudge(model, 0.05, seed=1)
    return model


def _ids(*shape):
    return torch.randint(0, 90, shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_later_tokens_do_not_change_earlier_logits():
    model, ids = _model(), _ids(1, 40)
    changed = ids.clone()
    changed[0, 25] = (changed[0, 25] + 1) % 90
    same = (model(ids) == model(changed)).all(dim=-1)[0]
    assert same[:25].all()
    assert not same[25:].any()


@torch.no_grad()
def test_logits_stay_within_the_cap():
    model = _model()
    model.head.weight.mul_(1000)
    assert model(_ids(1, 8)).abs().max() <= 15


def test_bf16_gradients_are_near_fp32_ones():
    model, ids = _model(), _ids(4, 257)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    exact = {name: param.grad.clone() for name, param in model.named_parameters()}
    model.zero_grad()
    model.compute_dtype = torch.bfloat16
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, param in model.named_parameters():
        assert exact[name].any(), f"{name} has no gradient"
        assert param.grad.dtype == torch.float32
        if param.dim() > 1:  # scalars are sums of many terms that cancel
            assert (param.grad - exact[name]).norm() < 0.1 * exact[name].norm(), name


def test_gradients_of_the_whole_model_equal_finite_differences():
    model, ids = _model(), _ids(2, 140)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    step = 1e-2
    for name, param in model.named_parameters():
        direction = param.grad / param.grad.norm()
        losses = []
        for sign in (1, -1):
            param.data += sign * step * direction
            losses.append(model.loss(ids[:, :-1], ids[:, 1:], reduction="none").double().mean().item())
            param.data -= sign * step * direction
        slope, expected = (losses[0] - losses[1]) / (2 * step), param.grad.norm().item()
        assert abs(slope - expected) < 0.02 * expected + 2e-4, name


@torch.no_grad()
def test_changed_weights_are_seen_by_the_next_bf16_call():
    model = _model()
    model.compute_dtype = torch.bfloat16
    before = model(_ids(1, 4))
    model.head.weight.mul_(2)
    assert not torch.equal(before, model(_ids(1, 4)))
    model.head.weight.div_(2)
    assert torch.equal(before, model(_ids(1, 4)))
