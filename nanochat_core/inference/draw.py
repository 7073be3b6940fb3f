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


def compact(logits: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Those logits that are at least `last` (N, 1), and their ids, in the order of the ids: (N, K) and (N, K).

    Rows with fewer than others end in -inf. Drawing from few candidates gives what drawing from all gives, and on a CPU
    in a fraction of the time; how many there are is asked of the device, so no graph may hold this.
    """
    row, token = (logits >= last).nonzero(as_tuple=True)
    counts = row.bincount(minlength=logits.size(0))
    place = torch.arange(row.numel(), device=logits.device) - (counts.cumsum(0) - counts)[row]
    found = logits.new_full((logits.size(0), int(counts.max())), -torch.inf)
    found[row, place] = logits[row, token]
    return found, torch.zeros(found.shape, dtype=torch.long, device=logits.device).index_put_((row, place), token)


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
