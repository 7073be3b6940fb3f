# mypy: disallow-untyped-defs=False
"""From the joint q/k/v product to normalised, rotated queries and keys and to values, and back, in one pass each.

The formulas are those of model/rotary.py: with r = gain / rms(x), y = R(r x) and
dx = r R^T(dy - y (dy . y) / (gain^2 D)).
One program takes all heads of one token. Results lie in memory as (B, T, heads, D), what flash attention reads, and are
handed out as (B, heads, T, D); incoming gradients may have any strides but the last.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from nanochat_core.kernels.launch import power_of_two

# B rows, T tokens, H query heads, K key/value heads, D head size; "half" is a half of a head
NUM_WARPS = 4


@dataclass(frozen=True, kw_only=True)
class HeadGains:
    """What a normalised query and key are multiplied by, and the constant that keeps the norm above zero."""

    query: float
    key: float
    eps: float


@triton.jit
def _split(
    qkv, added, cos, sin, q, k, v, inverses, tokens, table_stride, n_head, n_kv_head, gain_q, gain_k, eps,
    HALF: tl.constexpr, HALVES: tl.constexpr, HEADS: tl.constexpr, HAS_ADDED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    normed, size = n_head + n_kv_head, 2 * HALF
    head = tl.arange(0, HEADS)[:, None]
    lane = tl.arange(0, HALVES)[None, :]
    is_inside = (head < normed) & (lane < HALF)
    source = qkv + token * (normed + n_kv_head) * size + head * size + lane
    x1 = tl.load(source, mask=is_inside, other=0.0).to(tl.float32)
    x2 = tl.load(source + HALF, mask=is_inside, other=0.0).to(tl.float32)
    table = (token // tokens) * table_stride + (token % tokens) * size + lane
    c = tl.load(cos + table, mask=lane < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + table, mask=lane < HALF, other=0.0).to(tl.float32)
    is_query = head < n_head
    gain = tl.where(tl.arange(0, HEADS) < n_head, gain_q, gain_k)
    inverse = gain * tl.rsqrt(tl.sum(x1 * x1 + x2 * x2, 1) / size + eps)
    number = tl.arange(0, HEADS)
    tl.store(inverses + token * normed + number, inverse, mask=number < normed)
    x1, x2 = x1 * inverse[:, None], x2 * inverse[:, None]
    y1, y2 = x1 * c + x2 * s, x2 * c - x1 * s
    to_q = q + token * n_head * size + head * size + lane
    to_k = k + token * n_kv_head * size + (head - n_head) * size + lane
    tl.store(to_q, y1.to(q.dtype.element_ty), mask=is_inside & is_query)
    tl.store(to_q + HALF, y2.to(q.dtype.element_ty), mask=is_inside & is_query)
    tl.store(to_k, y1.to(k.dtype.element_ty), mask=is_inside & (head >= n_head))
    tl.store(to_k + HALF, y2.to(k.dtype.element_ty), mask=is_inside & (head >= n_head))
    is_value = (head < n_kv_head) & (lane < HALF)
    values = source + normed * size
    added += token * n_kv_head * size
    v += token * n_kv_head * size
    plus = head * size + lane
    for part in tl.static_range(2):
        value = tl.load(values + part * HALF, mask=is_value, other=0.0).to(tl.float32)
        if HAS_ADDED:
            value += tl.load(added + plus + part * HALF, mask=is_value, other=0.0).to(tl.float32)
        tl.store(v + plus + part * HALF, value.to(v.dtype.element_ty), mask=is_value)


@triton.jit
def _join(
    grad_q, grad_k, grad_v, q, k, inverses, cos, sin, out, tokens, table_stride, n_head, n_kv_head, gain_q, gain_k,
    q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token,
    HALF: tl.constexpr, HALVES: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    normed, size = n_head + n_kv_head, 2 * HALF
    row, place = token // tokens, token % tokens
    head = tl.arange(0, HEADS)[:, None]
    lane = tl.arange(0, HALVES)[None, :]
    is_query = (head < n_head) & (lane < HALF)
    is_key = (head >= n_head) & (head < normed) & (lane < HALF)
    key = head - n_head
    from_q = grad_q + row * q_row + place * q_token + head * q_head + lane
    from_k = grad_k + row * k_row + place * k_token + key * k_head + lane
    at_q = q + token * n_head * size + head * size + lane
    at_k = k + token * n_kv_head * size + key * size + lane
    g1 = _either(from_q, from_k, is_query, is_key)
    g2 = _either(from_q + HALF, from_k + HALF, is_query, is_key)
    y1 = _either(at_q, at_k, is_query, is_key)
    y2 = _either(at_q + HALF, at_k + HALF, is_query, is_key)
    number = tl.arange(0, HEADS)
    gain = tl.where(number < n_head, gain_q, gain_k)
    along = (tl.sum(g1 * y1 + g2 * y2, 1) / (gain * gain * size))[:, None]
    table = row * table_stride + place * size + lane
    c = tl.load(cos + table, mask=lane < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + table, mask=lane < HALF, other=0.0).to(tl.float32)
    inverse = tl.load(inverses + token * normed + number, mask=number < normed, other=0.0)[:, None]
    a1, a2 = (g1 - y1 * along) * inverse, (g2 - y2 * along) * inverse
    target = out + token * (normed + n_kv_head) * size + head * size + lane
    tl.store(target, (a1 * c - a2 * s).to(out.dtype.element_ty), mask=is_query | is_key)
    tl.store(target + HALF, (a2 * c + a1 * s).to(out.dtype.element_ty), mask=is_query | is_key)
    is_value = (head < n_kv_head) & (lane < HALF)
    from_v = grad_v + row * v_row + place * v_token + head * v_head + lane
    for part in tl.static_range(2):
        value = tl.load(from_v + part * HALF, mask=is_value, other=0.0)
        tl.store(target + normed * size + part * HALF, value.to(out.dtype.element_ty), mask=is_value)


@triton.jit
def _either(first, second, is_first, is_second):
    a = tl.load(first, mask=is_first, other=0.0).to(tl.float32)
    return a + tl.load(second, mask=is_second, other=0.0).to(tl.float32)


def split(
    qkv: Tensor, added: Tensor | None, *, n_head: int, cos: Tensor, sin: Tensor, gains: HeadGains
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv (B, T, H + 2K, D), added (B, T, K, D) to q (B, H, T, D), k and v (B, K, T, D) and inverses (B, T, H + K)."""
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    rows, tokens, heads, head_dim = qkv.shape
    n_kv_head = (heads - n_head) // 2
    q = qkv.new_empty(rows, tokens, n_head, head_dim)
    k, v = (qkv.new_empty(rows, tokens, n_kv_head, head_dim) for _ in range(2))
    inverses = torch.empty(rows, tokens, n_head + n_kv_head, dtype=torch.float32, device=qkv.device)
    has_added = added is not None
    more = qkv if added is None else added.contiguous()
    sizes = (tokens, _row_stride(cos), n_head, n_kv_head)
    _split[(rows * tokens,)](
        qkv, more, cos, sin, q, k, v, inverses, *sizes, gains.query, gains.key, gains.eps,
        HAS_ADDED=has_added, **_blocks(n_head + n_kv_head, head_dim),
    )  # fmt: skip
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), inverses


def join(
    grads: tuple[Tensor, ...], outputs: tuple[Tensor, ...], *, cos: Tensor, sin: Tensor,
    gains: HeadGains,
) -> Tensor:  # fmt: skip
    """The gradient (B, T, H + 2K, D) by qkv, from those of q, k and v; `outputs`: q, k and inverses of `split`."""
    grads = tuple(grad if grad.stride(-1) == 1 else grad.contiguous() for grad in grads)
    q, k = (x.transpose(1, 2).contiguous() for x in outputs[:2])  # (B, T, heads, D): how `split` wrote them
    rows, tokens, n_head, head_dim = q.shape
    n_kv_head = k.size(2)
    out = q.new_empty(rows, tokens, n_head + 2 * n_kv_head, head_dim)
    cos, sin = cos.contiguous(), sin.contiguous()
    strides = [stride for grad in grads for stride in grad.stride()[:3]]
    sizes = (tokens, _row_stride(cos), n_head, n_kv_head)
    _join[(rows * tokens,)](
        *grads, q, k, outputs[2], cos, sin, out, *sizes, gains.query, gains.key, *strides,
        **_blocks(n_head + n_kv_head, head_dim),
    )  # fmt: skip
    return out


def _row_stride(table: Tensor) -> int:
    """Of tables (T, D), the same for every row of the batch, or (B, 1, T, D)."""
    return 0 if table.dim() == 2 else table.stride(0)


def _blocks(heads: int, head_dim: int) -> dict[str, int]:
    half = head_dim // 2
    return {"HALF": half, "HALVES": power_of_two(half), "HEADS": power_of_two(heads), "num_warps": NUM_WARPS}
