"""Log-probabilities of the tokens of an answer: the model's own, before temperature, top-k and top-p.

Every value of a token comes from one log-softmax in fp32, so the chosen token and the likeliest one have the same float
when they are the same token: clients decide by `!=` whether an answer was the likeliest (lm-eval does).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# N rows, V vocabulary


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of an answer and what the model gave it."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The likeliest tokens with theirs, likeliest first; empty where none were asked for."""
    is_forced: bool = False
    """It is part of a tool's result: the model did not choose it."""


def token_logprobs(
    logits: Tensor, tokens: Sequence[int], *, are_forced: Sequence[bool], num_top: Sequence[int]
) -> list[TokenLogprobs]:
    """What fp32 logits (N, V) gave each row's token, and the `num_top` likeliest of each row."""
    logprobs = logits.log_softmax(-1)  # (N, V)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    first = logits.argmax(-1).tolist()
    tops: dict[int, list[tuple[int, float]]] = {}
    for most in {*num_top} - {0}:  # each number apart: which of equal values are cut off depends on it
        rows = [row for row, number in enumerate(num_top) if number == most]
        best = logits[rows].topk(min(most, logits.size(1)))
        values = logprobs[rows].gather(1, best.indices).tolist()
        for row, ids, keys, found in zip(rows, best.indices.tolist(), best.values.tolist(), values, strict=True):
            if first[row] not in ids:  # as likely as all of them, and what a greedy answer takes
                ids[-1] = first[row]
            order = sorted(range(len(ids)), key=lambda place: (-keys[place], ids[place]))
            tops[row] = [(ids[place], found[place]) for place in order]
    return [TokenLogprobs(token, chosen[row], tops.get(row, []), are_forced[row]) for row, token in enumerate(tokens)]
