"""Hand-written backward passes against autograd's."""

import torch
import torch.nn.functional as F

from nanochat_core.model.stream import RMS_EPS, mix, rms_norm, squared_relu


def _draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def _assert_same(found, expected, inputs):
    torch.testing.assert_close(found, expected)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), atol=1e-5, rtol=1e-4
    )


def test_rms_norm_equals_torchs():
    x = _draw(3, 7, 48, seed=0)
    _assert_same(rms_norm(x), F.rms_norm(x, (48,), eps=RMS_EPS), (x,))


def test_mix_equals_the_formula():
    x, x0, a, b = _draw(3, 7, 48, seed=0), _draw(3, 7, 48, seed=1), _draw(1, seed=2), _draw(1, seed=3)
    _assert_same(mix(x, x0, x_weight=a, x0_weight=b), a * x + b * x0, (x, x0, a, b))


def test_squared_relu_equals_the_formula():
    x = _draw(3, 7, 48, seed=0)
    _assert_same(squared_relu(x), F.relu(x).square(), (x,))


def test_bf16_stays_bf16_with_fp32_weights():
    x = torch.ones(2, 3, 8, dtype=torch.bfloat16)
    mixed = mix(x, x, x_weight=torch.tensor([0.5]), x0_weight=torch.tensor([0.25]))
    assert mixed.dtype == rms_norm(x).dtype == squared_relu(x).dtype == torch.bfloat16
