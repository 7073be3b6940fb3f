"""Splitting, normalising and rotating heads against the formulas, with gradients."""

import torch

from nanochat_core.model.rotary import Rotary, split_heads

B, T, H, K, D = 2, 5, 4, 2, 8
QK_GAIN, BASE = 1.15, 10_000.0


def _reference(qkv, added):
    q, k, v = qkv.split((H, K, K), dim=2)
    angles = torch.arange(T).unsqueeze(1) / BASE ** (torch.arange(0, D, 2) / D)
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)

    def rotated(x):
        x1, x2 = x.chunk(2, dim=-1)
        y = torch.cat((x1 * cos + x2 * sin, -x1 * sin + x2 * cos), dim=-1)
        return QK_GAIN * y * (y.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()

    return tuple(x.transpose(1, 2) for x in (rotated(q) / D**0.5, rotated(k), v + added))


def test_heads_and_gradients_equal_the_formulas():
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(B, T, H + 2 * K, D, generator=generator).requires_grad_()
    added = torch.randn(B, T, K, D, generator=generator).requires_grad_()
    cos, sin = Rotary(D, num_positions=T, base=BASE)(T, dtype=torch.float32)
    found = split_heads(qkv, n_head=H, gain=QK_GAIN, rotation=(cos[:T], sin[:T]), added_values=added)
    expected = _reference(qkv, added)
    torch.testing.assert_close(found, expected)
    grads = [torch.randn(part.shape, generator=generator) for part in found]
    torch.testing.assert_close(
        torch.autograd.grad(found, (qkv, added), grads), torch.autograd.grad(expected, (qkv, added), grads)
    )


def test_tables_grow_without_changing_what_they_held():
    rotary = Rotary(D, num_positions=4, base=BASE)
    short, long = rotary(4, dtype=torch.float32)[0], rotary(9, dtype=torch.float32)[0]
    assert long.size(0) >= 9
    assert torch.equal(long[:4], short)
