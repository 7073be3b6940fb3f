"""Drawing tokens by temperature, top-k and top-p: tensor operations alone, so that a CUDA graph may hold it.

Weights are whole numbers: the exponential of what a logit lies below its row's largest, in units of 2^-40. Sums of
whole numbers are the same in whatever order a device adds, so a row's token depends on its own logits, settings and
random number, and not on the other rows or on how many candidates they want. One number per draw picks the token at
which the weights, added up in the order of the ids, pass it. Candidates are cut by value and not by place, so tokens
that are exactly as likely as the last one kept are kept too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# N rows, V vocabulary, K and S of the likeliest candidates
BLOCK = 128  # tokens whose largest logit is looked at first
UNITS = 2.0**40  # of the likeliest token's weight; 2^23 tokens of it still fit into 64 bits


@dataclass(frozen=True)
class Cut:
    """Which operations a draw takes: fixed in a captured graph."""

    top_k: int = 0
    """At least the largest k of the rows that have one; 0: none has."""
    num_sorted: int = 0
    """Candidates looked at for top-p before all are; 0: no row has one."""


@dataclass(frozen=True)
class RowSettings:
    """How each row is drawn, on the device of the logits."""

    temperatures: Tensor
    """(N,) fp64, above 0."""
    top_k: Tensor
    """(N,) int64; V: all."""
    top_p: Tensor
    """(N,) fp64; 1: all."""
    numbers: Tensor
    """(N,) fp64 from 0 up to, but never, 1."""


def draw(logits: Tensor, rows: RowSettings, cut: Cut) -> Tensor:
    """One id (N,) for each row of fp32 logits (N, V)."""
    vocab_size = logits.size(1)
    below = (logits - logits.amax(-1, keepdim=True)) / rows.temperatures.float().unsqueeze(1)
    weights = below.exp_().mul_(UNITS).long()  # (N, V)
    if cut.top_k:
        last = kth_largest(logits, rows.top_k, largest_k=cut.top_k)
        weights.masked_fill_(logits < last.masked_fill((rows.top_k >= vocab_size).unsqueeze(1), -torch.inf), 0)
    if cut.num_sorted:
        weights.masked_fill_(weights < _nucleus_floor(weights, rows.top_p.unsqueeze(1), cut.num_sorted), 0)
    upto = weights.cumsum(-1)  # (N, V)
    total = upto[:, -1:]
    passed = (rows.numbers.unsqueeze(1) * total.double()).long().minimum(total - 1)  # the product may round up to it
    return torch.searchsorted(upto, passed, right=True).squeeze(1)  # right: never one of weight 0


def kth_largest(logits: Tensor, k: Tensor, *, largest_k: int) -> Tensor:
    """The k-th largest (N, 1) of each row of logits (N, V), for k (N,); above `largest_k`, that one."""
    likeliest = logits.topk(min(largest_k, logits.size(1))).values  # (N, K)
    return likeliest.gather(1, (k.clamp(max=likeliest.size(1)) - 1).unsqueeze(1))


def first_largest(logits: Tensor) -> Tensor:
    """The id (N,) of the largest of each row of logits (N, V), of equal ones the first: argmax, on a CPU in a third."""
    num_blocks, is_uneven = divmod(logits.size(1), BLOCK)
    if is_uneven or logits.is_cuda:
        return logits.argmax(-1)
    blocks = logits.view(-1, num_blocks, BLOCK)
    block = blocks.amax(-1).argmax(-1, keepdim=True)  # (N, 1)
    read = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK))  # (N, 1, BLOCK)
    return (block * BLOCK + read.argmax(-1)).squeeze(1)


def likeliest(logits: Tensor, top_k: Tensor, *, largest_k: int) -> tuple[Tensor, Tensor]:
    """Logits and ids, in the order of the ids, of each row's `top_k` (N,) likeliest and of few others: twice (N, K).

    The k likeliest lie in the k blocks of the vocabulary with the largest maxima, unless others are exactly as large,
    so after the maxima only those blocks are read. Rows with fewer candidates than others end in -inf. Drawing from
    them gives what drawing from all gives; how many there are is asked of the device, so no graph may hold this.
    """
    num_blocks, is_uneven = divmod(logits.size(1), BLOCK)
    if is_uneven or 2 * largest_k > num_blocks:
        return _compact(logits, kth_largest(logits, top_k, largest_k=largest_k))
    blocks = logits.view(-1, num_blocks, BLOCK)
    maxima, block = blocks.amax(-1).topk(largest_k + 1)  # (N, k + 1)
    last = maxima.gather(1, top_k.unsqueeze(1) - 1)
    if (maxima[:, -1:] >= last).any():
        return _compact(logits, kth_largest(logits, top_k, largest_k=largest_k))
    block = block[:, :-1].sort(-1).values
    read = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK)).flatten(1)  # (N, k BLOCK)
    found, place = _compact(read, last)
    return found, block.gather(1, place // BLOCK) * BLOCK + place % BLOCK


def _compact(logits: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Those logits that are at least `last` (N, 1), and their places: (N, K) and (N, K)."""
    row, place = (logits >= last).nonzero(as_tuple=True)
    if logits.size(0) == 1:
        return logits[:, place], place.unsqueeze(0)
    counts = row.bincount(minlength=logits.size(0))
    column = torch.arange(row.numel(), device=logits.device) - (counts.cumsum(0) - counts)[row]
    found = logits.new_full((logits.size(0), int(counts.max())), -torch.inf)
    found[row, column] = logits[row, place]
    return found, torch.zeros(found.shape, dtype=torch.long, device=logits.device).index_put_((row, column), place)


def _nucleus_floor(weights: Tensor, top_p: Tensor, num_sorted: int) -> Tensor:
    """The smallest weight (N, 1) among the fewest candidates whose share reaches `top_p` (N, 1)."""
    limit = (top_p * weights.sum(-1, keepdim=True).double()).masked_fill(top_p >= 1, torch.inf)
    head = weights.topk(min(num_sorted, weights.size(1))).values  # (N, S)
    upto = head.cumsum(-1)
    num_kept = (upto - head < limit).sum(-1, keepdim=True)  # at least 1: nothing comes before the first
    floor = head.gather(1, num_kept - 1)
    if head.size(1) < weights.size(1):  # never so in a graph: looking costs a wait for the device
        is_wider = (upto[:, -1:] < limit).squeeze(1)
        if is_wider.any():  # flat distributions, where the nucleus is most of the vocabulary
            floor[is_wider] = _nucleus_floor(weights[is_wider], top_p[is_wider], weights.size(1))
    return floor
