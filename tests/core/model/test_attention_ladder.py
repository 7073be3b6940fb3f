"""Every attention that runs here against a dense softmax in fp64, the choice between them, and the self-test."""

import logging
import sys
import types
from functools import partial

import pytest
import torch

from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.model import attention_ladder, flex_attention
from nanochat_core.model.attention_ladder import RUNGS, TOLERANCE, Case, forced, resolve, self_test
from nanochat_core.model.blocked_attention import blocked_attention
from nanochat_core.model.documents import Documents
from nanochat_core.model.flash_attention import (
    FA3_MODULES,
    FA3_OF_THE_HUB,
    _TorchFlash,
    from_hub,
    from_package,
    installed,
)
from nanochat_core.model.flex_attention import flex

B, K, D, T = 2, 2, 16, 300
CPU = torch.device("cpu")
DYNAMO = ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
DOCUMENT_STARTS = ([0, 1, 90, 250], [0, 130])


def _case(**changes):
    return Case(**{"device": CPU, "dtype": torch.float32, "head_dim": D, "is_full": False, **changes})


def _documents():
    is_start = torch.zeros(B, T, dtype=torch.bool)
    for row, starts in enumerate(DOCUMENT_STARTS):
        is_start[row, starts] = True
    return Documents.starting_at(is_start)


def _inputs(heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, heads, T, D), (B, K, T, D), (B, K, T, D))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def _dense(q, k, v, *, window, documents=None):
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    distance = torch.arange(q.size(2)).unsqueeze(1) - torch.arange(k.size(2))
    hidden = ((distance < 0) | (distance > window)).expand(B, 1, -1, -1)
    if documents is not None:
        hidden = hidden | (documents.ids.unsqueeze(2) != documents.ids.unsqueeze(1)).unsqueeze(1)
    return ((q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("window", [50, 128, T])
def test_blocks_with_documents_equal_a_dense_masked_softmax(window, heads):
    inputs, documents = _inputs(heads), _documents()
    found = blocked_attention(*inputs, window=window, documents=documents)
    expected = _dense(*inputs, window=window, documents=documents)
    torch.testing.assert_close(found, expected)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), atol=1e-10, rtol=1e-7
    )


@torch.no_grad()
def test_blocks_with_documents_equal_each_document_alone():
    q, k, v = (tensor.detach() for tensor in _inputs(4))
    found = blocked_attention(q, k, v, window=60, documents=_documents())
    for row, starts in enumerate(DOCUMENT_STARTS):
        for first, last in zip(starts, [*starts[1:], T], strict=True):
            part = (slice(row, row + 1), slice(None), slice(first, last))
            alone = blocked_attention(q[part], k[part], v[part], window=60)
            torch.testing.assert_close(found[row : row + 1, first:last], alone)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
@pytest.mark.parametrize("documents", [None, _documents()], ids=["one document", "documents"])
def test_flex_masks_equal_a_dense_masked_softmax(documents):
    inputs = [tensor.detach() for tensor in _inputs(4, torch.float32)]
    for window in (50, T):
        found = flex(*inputs, window=window, documents=documents)
        torch.testing.assert_close(
            found, _dense(*inputs, window=window, documents=documents), atol=1e-5, rtol=1e-4, check_dtype=False
        )


def test_boundaries_of_documents_are_those_of_the_flattened_batch():
    assert _documents().boundaries().tolist() == [0, 1, 90, 250, T, T + 130, 2 * T]


@pytest.mark.parametrize("has_documents", [False, True])
@pytest.mark.parametrize("is_full", [False, True])
def test_the_self_test_passes_what_is_right(is_full, has_documents):
    case = _case(is_full=is_full, has_documents=has_documents, has_groups=True)
    assert self_test(blocked_attention, case) == 0
    low = _case(is_full=is_full, has_documents=has_documents, dtype=torch.bfloat16)
    assert 0 < self_test(blocked_attention, low) < TOLERANCE[torch.bfloat16]


def _off_by_one(q, k, v, *, window, documents):
    return blocked_attention(q, k, v, window=window - 1, documents=documents)


def _blind_to_documents(q, k, v, *, window, documents):
    return blocked_attention(q, k, v, window=window)


def _with_unscaled_gradient(q, k, v, *, window, documents):
    return blocked_attention(q * 2 - q.detach(), k, v, window=window, documents=documents)


def _not_a_number(q, k, v, *, window, documents):
    return blocked_attention(q, k, v, window=window, documents=documents) * float("nan")


@pytest.mark.parametrize("wrong", [_off_by_one, _blind_to_documents, _with_unscaled_gradient, _not_a_number])
def test_the_self_test_refuses_what_is_slightly_wrong(wrong):
    case = _case(has_documents=True, dtype=torch.bfloat16)
    assert not self_test(wrong, case) <= TOLERANCE[torch.bfloat16]


def test_a_wrong_or_broken_rung_is_passed_over_and_the_log_says_why(monkeypatch, caplog):
    def broken(*inputs, **options):
        raise RuntimeError("no kernel image\nfor this device")

    for name, attend in (("wrong", _off_by_one), ("broken", broken)):
        rung = attention_ladder.Rung(name, lambda case: None, lambda attend=attend: attend)
        monkeypatch.setattr(attention_ladder, "RUNGS", {name: rung, **attention_ladder.RUNGS})
    caplog.set_level(logging.DEBUG, logger=attention_ladder.__name__)
    resolve.cache_clear()
    backend = resolve(_case())
    resolve.cache_clear()
    assert backend.name == "blocked"
    assert "no wrong: self-test is off by" in backend.reason
    assert "no broken: self-test failed with RuntimeError: no kernel image" in backend.reason
    assert backend.reason in caplog.text


def test_a_process_without_a_gpu_uses_blocks_and_says_why_not_the_others():
    backend = resolve(_case(dtype=torch.bfloat16))
    assert backend.name == "blocked"
    assert all(f"no {name}:" in backend.reason for name in RUNGS if name != "blocked")


def test_a_forced_rung_that_cannot_run_is_an_error_not_a_fallback():
    q, k, v = _inputs(2, torch.float32)
    with forced("blocked"):
        found = attention_ladder.attend(q, k, v, window=50)
    assert torch.equal(found, blocked_attention(q, k, v, window=50))
    with forced("cudnn"), pytest.raises(HardwareError, match="has no windows"):
        attention_ladder.attend(q, k, v, window=50)
    with pytest.raises(ConfigError, match="fa9"), forced("fa9"):
        pass


@pytest.mark.parametrize("window", [None, 7])
def test_torchs_flash_operators_take_these_arguments_and_return_these_shapes(window):
    """On the meta device: the operators' signatures differ between torch releases, their kernels need a GPU."""
    options = {"device": "meta", "dtype": torch.bfloat16}
    q, k, v = (torch.empty(64, heads, 16, requires_grad=True, **options) for heads in (4, 2, 2))
    boundaries = torch.empty(3, device="meta", dtype=torch.int32)
    out = _TorchFlash.apply(q, k, v, boundaries, 32, window)
    assert out.shape == q.shape
    grads = torch.autograd.grad(out, (q, k, v), torch.empty_like(out))
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


def test_a_flash_package_is_given_tokens_before_heads_and_the_window(tmp_path, monkeypatch):
    """A package of the same interface as version 3, over a dense softmax."""
    (tmp_path / "flash_attn_interface.py").write_text(
        "import torch\n"
        "def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):\n"
        "    q, k, v = (x.transpose(1, 2) for x in (q, k, v))\n"
        "    far = torch.arange(q.size(2)).unsqueeze(1) - torch.arange(q.size(2))\n"
        "    hidden = (far < 0) & torch.tensor(causal)\n"
        "    if window_size[0] >= 0: hidden = hidden | (far > window_size[0])\n"
        "    scores = (softmax_scale * (q @ k.mT)).masked_fill(hidden, -torch.inf)\n"
        "    return (scores.softmax(-1) @ v).transpose(1, 2), None\n"
    )
    assert installed(FA3_MODULES) is None
    monkeypatch.syspath_prepend(tmp_path)
    assert installed(FA3_MODULES) == FA3_MODULES[0]
    attend = from_package(FA3_MODULES[0])
    for is_full in (False, True):
        assert self_test(attend, _case(is_full=is_full)) < 1e-5


def test_a_kernel_of_the_hub_is_asked_for_by_its_repository(monkeypatch):
    def flash_attn_func(q, k, v, *, softmax_scale, causal, window_size=(-1, 0)):
        window = q.size(1) if window_size[0] < 0 else window_size[0]
        q, k, v = (x.transpose(1, 2) for x in (q * softmax_scale, k, v))
        return blocked_attention(q, k, v, window=window), None

    asked = []
    loader = types.ModuleType("kernels")
    loader.get_kernel = lambda name: asked.append(name) or types.SimpleNamespace(flash_attn_func=flash_attn_func)
    monkeypatch.setitem(sys.modules, "kernels", loader)
    attend = from_hub(FA3_OF_THE_HUB)
    assert asked == [FA3_OF_THE_HUB]
    for is_full in (False, True):
        assert self_test(attend, _case(is_full=is_full)) < 1e-5


def test_passes_of_any_length_use_nothing_that_plans_or_compiles_for_one():
    gpu = {"device": torch.device("cuda"), "dtype": torch.bfloat16}
    assert RUNGS["flex"].obstacle(_case(**gpu)) is None
    assert RUNGS["flex"].obstacle(_case(**gpu, has_free_length=True)) == "compiles anew for every length"
    assert RUNGS["cudnn"].obstacle(_case(**gpu, is_full=True, has_free_length=True)) == "plans anew for every length"


def test_a_compiled_attention_takes_many_shapes_and_says_when_there_are_too_many(monkeypatch):
    import torch._dynamo
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    monkeypatch.setattr(flex_attention, "SHAPES", 12)
    flex_attention._attention.cache_clear()
    saved = {name: getattr(torch._dynamo.config, name) for name in DYNAMO}
    torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit = 8, 256  # torch's own
    try:
        compiled = flex_attention._attention(is_compiled=True)
        mask = flex_attention._window_mask(32, 8, CPU)
        for rows in range(1, 13):
            compiled(*(torch.randn(rows, 1, 32, 16) for _ in range(3)), block_mask=mask, scale=1.0)
        assert counter.frame_count == 12, "eight are torch's own limit"
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            compiled(*(torch.randn(13, 1, 32, 16) for _ in range(3)), block_mask=mask, scale=1.0)
    finally:
        for name, value in saved.items():
            setattr(torch._dynamo.config, name, value)
        torch._dynamo.reset()
        flex_attention._attention.cache_clear()
