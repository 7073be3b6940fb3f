"""Flash attention of other packages and torch's own flash-attention 2, all with one calling convention.

FlashAttention-3 (arXiv 2407.08608) and 4 are separate packages and take (B, T, H, D). torch ships version 2 and gives
it to scaled_dot_product_attention without a window; the operator underneath takes one, also for a flattened batch with
boundaries, which is how documents stay apart. The operator's backward is called explicitly: it is the same in torch
2.11 and 2.13, while the Python function above it is not.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat_core.model.documents import Documents

# B rows, T tokens, H query heads, K key/value heads, D head size, N = B T
FA3_MODULES = ("flash_attn_interface", "flash_attn_3.flash_attn_interface")
FA4_MODULES = ("flash_attn.cute",)
HUB_LOADER = ("kernels",)  # Hugging Face's package, which fetches compiled kernels for this torch and this GPU
FA3_OF_THE_HUB = "kernels-community/flash-attn3"


class Attend(Protocol):
    """q (B, H, T, D) scaled, k and v (B, K, T, D) to (B, T, H, D); position t sees t - window .. t of its document."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor: ...


def installed(modules: tuple[str, ...]) -> str | None:
    """The first of `modules` that can be found, without importing it (a parent package is imported)."""
    return next((name for name in modules if _is_there(name)), None)


def _is_there(module: str) -> bool:
    parent, _, _ = module.rpartition(".")
    return (not parent or _is_there(parent)) and importlib.util.find_spec(module) is not None


def from_package(module: str) -> Attend:
    """The attention of an installed flash-attention package, version 3 or 4."""
    return _with_windows(importlib.import_module(module).flash_attn_func)


def from_hub(repository: str) -> Attend:
    """The attention of a repository of compiled kernels; fetched when it is first used, and kept by the hub's cache."""
    return _with_windows(importlib.import_module("kernels").get_kernel(repository).flash_attn_func)


def _with_windows(function: Callable[..., Any]) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor:
        assert documents is None, "the ladder does not offer this rung for documents"
        is_full = window >= q.size(2) - 1
        bounds = {} if is_full else {"window_size": (window, 0)}
        by_token = (x.transpose(1, 2) for x in (q, k, v))
        exact = {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}
        out = function(*by_token, softmax_scale=1.0, causal=True, **bounds, **exact)
        return out[0] if isinstance(out, tuple) else out  # some releases also return the logarithms of the sums

    return attend


def torch_flash(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor:
    """torch's flash-attention 2 with a window; see `Attend`."""
    rows, _, tokens, _ = q.shape
    if documents is None:
        boundaries = torch.arange(0, (rows + 1) * tokens, tokens, dtype=torch.int32, device=q.device)
    else:
        boundaries = documents.boundaries()
    flat = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (N, heads, D)
    left = None if window >= tokens - 1 else window
    return _TorchFlash.apply(*flat, boundaries, tokens, left).view(rows, tokens, q.size(1), q.size(3))


class _TorchFlash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, boundaries: Tensor, longest: int, window: int | None
    ) -> Tensor:
        out, log_sums, *random_state, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, boundaries, boundaries, longest, longest, 0.0, True, False, **_bounds(window)
        )
        ctx.save_for_backward(q, k, v, out, log_sums, boundaries, *random_state)
        ctx.longest, ctx.window = longest, window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sums, boundaries, *random_state = ctx.saved_tensors
        sizes = (boundaries, boundaries, ctx.longest, ctx.longest)
        grads = torch.ops.aten._flash_attention_backward(
            grad.contiguous(), q, k, v, out, log_sums, *sizes, 0.0, True, *random_state, **_bounds(ctx.window)
        )
        return (*grads, None, None, None)


def _bounds(window: int | None) -> dict[str, Any]:
    return {"scale": 1.0, "window_size_left": window, "window_size_right": 0}
