"""Attention routes against a dense fp32 masked softmax."""

import pytest
import torch

from nanochat_core.model.attention import causal_attention, masked_attention

B, K, D = 2, 2, 16


def _dense(q, k, v, *, window):
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    distance = torch.arange(q.size(2)).unsqueeze(1) - torch.arange(k.size(2))
    scores = (q @ k.mT).masked_fill((distance < 0) | (distance > window), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def _inputs(tokens, heads, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, heads, tokens, D), (B, K, tokens, D), (B, K, tokens, D))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize(
    ("tokens", "window"), [(1, 9), (40, 7), (300, 300), (300, 128), (300, 50), (257, 200), (256, 1)]
)
def test_windowed_attention_equals_a_dense_masked_softmax(tokens, window, heads):
    q, k, v = _inputs(tokens, heads)
    found, expected = causal_attention(q, k, v, window=window), _dense(q, k, v, window=window)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad),
        torch.autograd.grad(expected, (q, k, v), grad),
        atol=1e-5,
        rtol=1e-4,
    )


def test_an_explicit_mask_equals_the_window():
    q, k, v = _inputs(30, 4)
    distance = torch.arange(30).unsqueeze(1) - torch.arange(30)
    mask = ((distance >= 0) & (distance <= 6)).expand(B, 1, 30, 30)
    torch.testing.assert_close(masked_attention(q, k, v, mask=mask), _dense(q, k, v, window=6), atol=1e-5, rtol=1e-4)


def test_a_token_outside_the_window_changes_nothing():
    q, k, v = (tensor.detach() for tensor in _inputs(300, 4))
    before = causal_attention(q, k, v, window=100)
    k[:, :, 120], v[:, :, 120] = 9.0, 9.0
    changed = (causal_attention(q, k, v, window=100) != before).any(dim=(0, 2, 3)).nonzero().flatten()
    assert changed.tolist() == list(range(120, 221))
