"""The fused loss against plain autograd."""

import pytest
import torch
import torch.nn.functional as F

from nanochat_core.model import cross_entropy
from nanochat_core.model.cross_entropy import linear_cross_entropy, token_losses

V, C, N = 70, 24, 50  # true vocabulary, width, tokens
SOFTCAP = 15.0


def _reference(hidden, weight, targets, *, reduction):
    logits = SOFTCAP * torch.tanh(hidden @ weight[:V].T / SOFTCAP)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


@pytest.fixture(params=["one chunk", "many chunks"])
def inputs(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(cross_entropy, "CHUNK_TOKENS", 16)
        monkeypatch.setattr(cross_entropy, "SLICE_ELEMENTS_CPU", 5 * V)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64).mul_(3).requires_grad_()
    weight = torch.randn(V + 10, C, generator=generator, dtype=torch.float64).requires_grad_()  # logits deep in the cap
    targets = torch.randint(-1, V, (N,), generator=generator)
    targets[:4] = -1
    return hidden, weight, targets


def test_loss_and_gradients_equal_autograd(inputs):
    hidden, weight, targets = inputs
    expected = torch.autograd.grad(_reference(hidden, weight, targets, reduction="sum") * 0.37, (hidden, weight))
    total = linear_cross_entropy(hidden, weight, targets, vocab_size=V, softcap=SOFTCAP)
    torch.testing.assert_close(total, _reference(hidden, weight, targets, reduction="sum"))
    found = torch.autograd.grad(total * 0.37, (hidden, weight))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-7)


def test_token_losses_equal_the_reference_and_are_zero_where_ignored(inputs):
    hidden, weight, targets = inputs
    losses = token_losses(hidden, weight, targets.view(5, 10), vocab_size=V, softcap=SOFTCAP)
    torch.testing.assert_close(losses.flatten(), _reference(hidden, weight, targets, reduction="none").detach())
    assert not losses.flatten()[:4].any()


def test_rows_beyond_the_vocabulary_get_no_gradient(inputs):
    hidden, weight, targets = inputs
    linear_cross_entropy(hidden, weight, targets, vocab_size=V, softcap=SOFTCAP).backward()
    assert not weight.grad[V:].any()


def test_bf16_gradients_are_near_fp32_ones():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(N, C, generator=generator), torch.randn(V, C, generator=generator) * 0.3
    targets = torch.randint(0, V, (N,), generator=generator)
    expected_hidden, expected_weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    _reference(expected_hidden, expected_weight, targets, reduction="sum").backward()
    low, master = hidden.bfloat16().requires_grad_(), weight.clone().requires_grad_()
    linear_cross_entropy(low, master, targets, vocab_size=V, softcap=SOFTCAP).backward()
    for found, expected in ((low.grad.float(), expected_hidden.grad), (master.grad, expected_weight.grad)):
        assert (found - expected).norm() < 0.02 * expected.norm()
