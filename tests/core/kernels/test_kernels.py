"""Triton kernels against the PyTorch formulas they replace: on the GPU that is there, or in Triton's interpreter.

The interpreter is chosen when Triton is imported, so test_interpreter.py runs this file in a process of its own. It
rounds towards zero where a GPU rounds to nearest, hence tolerances of a whole step of bf16 and fp8 there.
"""

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton runs these on a CPU")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not IS_INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no CUDA device; test_interpreter.py runs these", allow_module_level=True)

from nanochat_core.kernels import quantize, relu_square, softcap_loss  # noqa: E402
from nanochat_core.model.cross_entropy import _Slices  # noqa: E402
from nanochat_core.model.rotary import Rotary, _FusedSplitHeads, _SplitHeads  # noqa: E402

DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
DTYPES = [torch.float32, torch.bfloat16]
SOFTCAP, GAIN, BASE = 15.0, 1.2, 100_000.0
STEP = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float8_e4m3fn: 2**-3, torch.float8_e5m2: 2**-2}


def _randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [8192, 128])
@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["small logits", "deep in the cap"])
def test_losses_and_gradients_equal_the_chunked_loss(dtype, block, scale, monkeypatch):
    monkeypatch.setattr(softcap_loss, "MAX_BLOCK", block)
    # a slice of a wider tensor: the row stride is not the vocabulary
    wide = scale * _randn(9, 330).to(dtype)
    targets = torch.tensor([-1, 0, 299, 7, 100, 128, 255, 3, -1], device=DEVICE)
    is_counted = targets >= 0
    counted = wide[is_counted, :300]
    expected, expected_losses = torch.zeros_like(wide[:, :300]), torch.zeros(9, device=DEVICE)
    [expected_losses[is_counted]] = _Slices(counted, targets[is_counted], softcap=SOFTCAP).terms(keep_gradient=True)
    expected[is_counted] = counted  # overwritten by its gradient
    found = wide.clone()
    losses = softcap_loss.softcap_losses(found[:, :300], targets, softcap=SOFTCAP, keep_gradient=True)
    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :300], expected, atol=1e-6, rtol=max(1e-5, STEP[dtype]))
    assert torch.equal(found[:, 300:], wide[:, 300:])
    assert not found[0, :300].any()


def test_losses_alone_leave_the_logits_as_they_are():
    logits, targets = _randn(3, 70), torch.tensor([5, -1, 69], device=DEVICE)
    before = logits.clone()
    losses = softcap_loss.softcap_losses(logits, targets, softcap=SOFTCAP, keep_gradient=False)
    assert torch.equal(logits, before)
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_square_and_its_gradient_equal_autograd(dtype):
    x, grad = _randn(37, 71, dtype=dtype), _randn(37, 71, dtype=dtype, seed=1)
    exact = x.double().requires_grad_()
    out = exact.relu().square()
    out.backward(grad.double())
    tolerance = {"atol": 1e-6, "rtol": STEP[dtype]}
    torch.testing.assert_close(relu_square.relu_square(x).double(), out.detach(), **tolerance)
    torch.testing.assert_close(relu_square.relu_square_backward(grad, x).double(), exact.grad, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_head", "n_kv_head", "head_dim"), [(4, 4, 32), (3, 1, 24)])
@pytest.mark.parametrize("has_added", [False, True])
def test_fused_heads_equal_the_separate_steps(dtype, n_head, n_kv_head, head_dim, has_added):
    B, T = 2, 5
    qkv = _randn(B, T, n_head + 2 * n_kv_head, head_dim, dtype=dtype)
    added = _randn(B, T, n_kv_head, head_dim, dtype=dtype, seed=1) if has_added else None
    cos, sin = (table[:T] for table in Rotary(head_dim, num_positions=T, base=BASE).to(DEVICE)(T, dtype=dtype))
    results = []
    for function, precision in ((_FusedSplitHeads, dtype), (_SplitHeads, torch.float64)):
        inputs = [x.detach().to(precision).requires_grad_() for x in (qkv, added) if x is not None]
        tables = (cos.to(precision), sin.to(precision))
        outputs = function.apply(inputs[0], inputs[1] if has_added else None, n_head, GAIN, *tables)
        grads = [_randn(*out.shape, seed=2 + i).to(precision) for i, out in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, grads)])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert (found.double() - expected).norm() < 2 * max(STEP[dtype], 1e-6) * expected.norm()


def test_fused_heads_take_positions_of_their_own_for_every_row_and_strided_gradients():
    B, T, H, K, D = 2, 4, 2, 1, 16
    qkv = _randn(B, T, H + 2 * K, D).requires_grad_()
    cos, sin = Rotary(D, num_positions=20, base=BASE).to(DEVICE)(20, dtype=torch.float32)
    positions = torch.tensor([[0, 1, 2, 3], [9, 10, 4, 5]], device=DEVICE)
    tables = (cos[positions].unsqueeze(1), sin[positions].unsqueeze(1))  # (B, 1, T, D)
    found, expected = (f.apply(qkv, None, H, GAIN, *tables) for f in (_FusedSplitHeads, _SplitHeads))
    torch.testing.assert_close(found, expected)
    grads = [_randn(B, T, D, heads, seed=3).permute(0, 3, 1, 2) for heads in (H, K, K)]
    torch.testing.assert_close(torch.autograd.grad(found, qkv, grads), torch.autograd.grad(expected, qkv, grads))


def _record():
    return quantize.Record(torch.zeros(1, device=DEVICE), torch.zeros(1, dtype=torch.int32, device=DEVICE))


# The interpreter's own cast to fp8 is wrong where rounding carries into the exponent. There the kernels store in fp32
# what a GPU would cast, and numbers that fp8 holds exactly show that the cast is done.
@pytest.mark.parametrize("fp8", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("headroom", [0.5, 2.0], ids=["saturating", "fitting"])
def test_casts_equal_a_clamped_cast_and_note_what_they_saw(fp8, headroom):
    x, grad = _randn(70, 130), _randn(70, 130, seed=1)
    limit = torch.finfo(fp8).max
    for source, first, exact in (
        (quantize.PLAIN, x, x),
        (quantize.RELU_SQUARE, x, x.relu().square()),
        (quantize.RELU_SQUARE_BACKWARD, grad, 2 * x.relu() * grad),
    ):
        scale, record = limit / (headroom * exact.abs().max().reshape(1)), _record()
        dtype = torch.float32 if IS_INTERPRETED else fp8
        found = quantize._launch(first, x, scale, dtype=dtype, record=record, source=source, limit=limit)
        expected = (exact * scale).clamp(-limit, limit).to(dtype).float()
        torch.testing.assert_close(found.values.float(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.transposed.float(), found.values.float().T)
        assert record.saturated.item() == ((exact * scale).abs() > limit).sum().item()
        torch.testing.assert_close(record.amax[0], exact.abs().max())


@pytest.mark.parametrize("fp8", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_that_fp8_holds_are_cast_exactly(fp8):
    x = torch.tensor([[1.0, -1.5, 0.0], [2.0, 0.25, -3.0]], device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    for found, expected in (
        (quantize.cast(x, one, dtype=fp8, record=_record()), x),
        (quantize.cast_relu_square(x.clamp(max=2), 4 * one, dtype=fp8, record=_record()), 4 * x.relu().square()),
        (quantize.cast_relu_square_backward(x.abs(), x, one, dtype=fp8, record=_record()), 2 * x.relu().square()),
    ):
        assert found.values.dtype == found.transposed.dtype == fp8
        assert torch.equal(found.values.float(), expected)
        assert torch.equal(found.transposed.float(), expected.T)


def test_a_record_keeps_the_largest_of_several_casts():
    record, scale = _record(), torch.ones(1, device=DEVICE)
    for factor in (1.0, 3.0, 2.0):
        quantize.cast(factor * _randn(16, 16), scale, dtype=torch.float8_e4m3fn, record=record)
    torch.testing.assert_close(record.amax[0], 3 * _randn(16, 16).abs().max())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_does_not_become_a_large_number(bad):
    x = _randn(16, 16)
    x[3, 5] = bad
    one, dtype = torch.ones(1, device=DEVICE), torch.float32 if IS_INTERPRETED else torch.float8_e4m3fn
    found = quantize._launch(x, x, one, dtype=dtype, record=_record(), source=quantize.PLAIN, limit=448.0)
    assert found.values.float().isnan().nonzero().tolist() == [[3, 5]]
    assert found.transposed.float().isnan().nonzero().tolist() == [[5, 3]]


@pytest.mark.parametrize("size", [1, 8192, 20_001])
def test_the_largest_value_is_found_in_any_block(size):
    for place in {0, size // 2, size - 1}:
        x = _randn(size).clamp(-3, 3)
        x[place] = -7.5
        assert quantize.largest(x).item() == 7.5
