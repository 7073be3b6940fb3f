"""Windows and documents through torch's FlexAttention, with block masks that are made once and kept.

Compiled, it is one Triton kernel that skips the blocks of keys no query of a block may see. Uncompiled it computes
every score, which only a test wants; there the same masks give the same numbers on a CPU (forward only, torch has no
backward for it there).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nanochat_core.model.documents import Documents

# B rows, T tokens, H query heads, K key/value heads, D head size
KEPT_MASKS = 32
SHAPES = 64  # of one compiled function: rows of a pass while they are searched, the self-test, evaluations, documents


def flex(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor:
    """q (B, H, T, D) scaled, k and v (B, K, T, D) to (B, T, H, D); t sees t - window .. t of its document."""
    tokens = q.size(2)
    if documents is None:
        mask = _window_mask(tokens, min(window, tokens), q.device)
    else:
        mask = _document_mask(documents, window, q.device)
    has_groups = q.size(1) != k.size(1)
    return _attention(q.is_cuda)(q, k, v, block_mask=mask, scale=1.0, enable_gqa=has_groups).transpose(1, 2)


@lru_cache(maxsize=KEPT_MASKS)
def _window_mask(tokens: int, window: int, device: torch.device) -> Any:
    def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    return _block_maker(is_compiled=False)(is_visible, None, None, tokens, tokens, device=device)


def _document_mask(documents: Documents, window: int, device: torch.device) -> Any:
    if window not in documents.block_masks:
        ids = documents.ids

        def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query - key <= window) & (ids[row, query] == ids[row, key])

        rows, tokens = ids.shape
        maker = _block_maker(is_compiled=device.type == "cuda")  # uncompiled it holds rows x tokens x tokens booleans
        documents.block_masks[window] = maker(is_visible, rows, None, tokens, tokens, device=device)
    return documents.block_masks[window]


@lru_cache(maxsize=2)
def _attention(is_compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # dynamic=False: shapes of a training are few and fixed, and a kernel for any length is slower
    attention: Callable[..., Any] = flex_attention
    if not is_compiled:
        return attention
    allow_shapes()
    return torch.compile(attention, dynamic=False)


@lru_cache(maxsize=2)
def _block_maker(is_compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    if not is_compiled:
        return create_block_mask
    allow_shapes()
    return torch.compile(create_block_mask, dynamic=False)


def allow_shapes() -> None:
    """Let torch.compile make a kernel for each of many shapes, and fail where there are more.

    By default it makes eight and then runs uncompiled, with a warning: here, every score of T x T.
    """
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 8 * SHAPES)
    dynamo.fail_on_recompile_limit_hit = True
