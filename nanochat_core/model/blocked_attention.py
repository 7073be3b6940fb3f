"""Causal attention with a window, in blocks of queries against only the keys that they can see.

Time and memory grow with tokens x window, never with a tokens x tokens mask. On a CPU in bf16 this also beats torch's
scaled_dot_product_attention on short rows by about four to one, forward and backward: it is nothing but large matrix
products and torch's fused softmax kernels, and the backward re-reads the kept probabilities instead of redoing them.
The queries come already scaled by 1 / sqrt(D).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat_core.model.documents import Documents

# B rows, T tokens, H query heads, K key/value heads, G = H / K, D head size, n queries of a block, m keys of a block
BLOCK_QUERIES = 128


class _Block(NamedTuple):
    """Queries first .. last - 1 against keys oldest .. last - 1."""

    oldest: int
    first: int
    last: int


def _blocks(tokens: int, window: int) -> Iterator[_Block]:
    for first in range(0, tokens, BLOCK_QUERIES):
        yield _Block(max(0, first - window), first, min(first + BLOCK_QUERIES, tokens))


@lru_cache(maxsize=64)
def _bias(before: int, queries: int, window: int, group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where a query may look, -inf elsewhere, for `queries` positions that follow `before` keys: (1, G n, m)."""
    position = torch.arange(before, before + queries, device=device).unsqueeze(1)
    key = torch.arange(before + queries, device=device).unsqueeze(0)
    hidden = (key > position) | (key < position - window)
    bias = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
    return bias.repeat(group, 1).unsqueeze(0)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None = None) -> Tensor:
    """q (B, H, T, D), k and v (B, K, T, D) to (B, T, H, D); t sees t - window .. t, of its own document if given."""
    return _BlockedAttention.apply(q, k, v, min(window, q.size(2)), documents)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, documents: Documents | None) -> Tensor:
        rows, heads, tokens, head_dim = q.shape
        n_kv_head = k.size(1)
        group = heads // n_kv_head
        keys, values = k.reshape(-1, tokens, head_dim), v.reshape(-1, tokens, head_dim)  # (B K, T, D)
        out = q.new_empty(rows, tokens, heads, head_dim)
        kept = []
        for block in _blocks(tokens, window):
            oldest, first, last = block
            bias = _bias(first - oldest, last - first, window, group, q.dtype, q.device)
            scores = torch.baddbmm(bias, _queries(q, block, n_kv_head), keys[:, oldest:last].mT)  # (B K, G n, m)
            if documents is not None:
                _hide_other_documents(scores, documents, block)
            probs = torch.softmax(scores, -1)
            mixed = torch.bmm(probs, values[:, oldest:last])  # (B K, G n, D)
            out[:, first:last].copy_(mixed.view(rows, heads, last - first, head_dim).transpose(1, 2))
            if any(ctx.needs_input_grad):
                kept.append(probs)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        rows, heads, tokens, head_dim = q.shape
        n_kv_head = k.size(1)
        keys, values = k.reshape(-1, tokens, head_dim), v.reshape(-1, tokens, head_dim)  # (B K, T, D)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(keys), torch.zeros_like(values)
        grad_by_head = grad_out.transpose(1, 2)  # (B, H, T, D)
        for block, probs in zip(_blocks(tokens, ctx.window), kept, strict=True):
            oldest, first, last = block
            grad = _queries(grad_by_head, block, n_kv_head)  # (B K, G n, D)
            grad_v[:, oldest:last].add_(torch.bmm(probs.mT, grad))
            grad_probs = torch.bmm(grad, values[:, oldest:last].mT)  # (B K, G n, m)
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            mixed = torch.bmm(grad_scores, keys[:, oldest:last])  # (B K, G n, D)
            grad_q[:, :, first:last].copy_(mixed.view(rows, heads, last - first, head_dim))
            grad_k[:, oldest:last].add_(torch.bmm(grad_scores.mT, _queries(q, block, n_kv_head)))
        return grad_q, grad_k.view_as(k), grad_v.view_as(v), None, None


def _hide_other_documents(scores: Tensor, documents: Documents, block: _Block) -> None:
    are_different = documents.are_different(slice(block.first, block.last), slice(block.oldest, block.last))
    rows, queries, keys = are_different.shape
    by_head = scores.view(rows, -1, queries, keys)  # (B, K G, n, m)
    by_head.masked_fill_(are_different.unsqueeze(1), -torch.inf)


def _queries(x: Tensor, block: _Block, n_kv_head: int) -> Tensor:
    """The block's queries of all heads that share a key head, side by side: (B K, G n, D)."""
    rows, heads, _, head_dim = x.shape
    queries = block.last - block.first
    return x[:, :, block.first : block.last].reshape(rows * n_kv_head, heads // n_kv_head * queries, head_dim)
