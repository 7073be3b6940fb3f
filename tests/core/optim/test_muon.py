"""Laws of Muon's pieces: singular values, stacking, cautious decay."""

import pytest
import torch

from nanochat_core.optim.muon import muon_step, orthogonalize, second_moment_shape


def _draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _step(params, grads, *, weight_decay=0.0, lr=0.1):
    rows, columns = params[0].shape
    muon_step(
        params,
        grads,
        momentum_buffer=torch.zeros(len(params), rows, columns),
        second_moment=torch.zeros(len(params), *second_moment_shape(rows, columns)),
        lr=lr,
        momentum=0.95,
        beta2=0.9,
        weight_decay=weight_decay,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("size", [1e-2, 1e-5, 1e-8])
def test_fp16_does_not_lose_small_updates(size):
    update = size * _draw(1, 48, 64)
    exact, found = (orthogonalize(update, dtype=dtype).float() for dtype in (torch.float32, torch.float16))
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 48), (16, 64), (64, 16)])
def test_singular_values_become_about_one(shape, dtype):
    values = torch.linalg.svdvals(orthogonalize(_draw(3, *shape), dtype=dtype).float())
    assert values.max() < 1.3
    assert values[..., : min(shape) // 2].min() > 0.7  # the smallest ones of a square matrix need more iterations


def test_a_stack_is_updated_as_its_matrices_alone():
    params, grads = list(_draw(3, 12, 20)), list(_draw(3, 12, 20, seed=1))
    alone = [param.clone() for param in params]
    _step(params, grads)
    for param, grad in zip(alone, grads, strict=True):
        _step([param], [grad])
    torch.testing.assert_close(params, alone, atol=1e-6, rtol=1e-4)


def test_decay_acts_only_where_the_update_agrees_with_the_weight():
    start, grad = _draw(12, 20), _draw(12, 20, seed=1)
    plain, decayed = start.clone(), start.clone()
    _step([plain], [grad])
    _step([decayed], [grad], weight_decay=0.5)
    agrees = (start - plain) * start >= 0
    torch.testing.assert_close(plain - decayed, torch.where(agrees, 0.1 * 0.5 * start, 0.0), atol=1e-6, rtol=1e-4)


def test_the_scale_of_the_gradient_does_not_matter():
    params, grad = [_draw(12, 20), _draw(12, 20)], _draw(12, 20, seed=1)
    _step(params[:1], [grad])
    _step(params[1:], [1000 * grad])
    torch.testing.assert_close(params[0], params[1], atol=1e-4, rtol=1e-3)


def test_a_zero_gradient_leaves_finite_weights():
    param = _draw(12, 20)
    _step([param], [torch.zeros(12, 20)], weight_decay=0.1)
    assert param.isfinite().all()
