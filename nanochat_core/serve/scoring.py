"""Log-probabilities of a prompt's own tokens: one forward pass, for clients that ask for `echo` with `logprobs`.

A token's value and the likeliest token's come from one log-softmax in fp32, unrounded: lm-eval compares them for
equality to tell whether a continuation is the greedy one. The pass is the training forward over this prompt alone, so
that the numbers do not depend on what else is being served. Tokens are put behind it up to a rounded length, which
nothing before them sees: every other length that a CPU multiplies in bf16 keeps memory for good (inference/packed.py).
"""

from collections.abc import Sequence

import torch

from nanochat_core.inference.logprobs import TokenLogprobs, token_logprobs
from nanochat_core.inference.packed import rounded_rows
from nanochat_core.model.gpt import GPT

HEAD_ELEMENTS = 1 << 24  # logits at once: 64 MiB in fp32


@torch.no_grad()
def score_prompt(model: GPT, ids: Sequence[int], *, num_top: int) -> list[TokenLogprobs]:
    """What the model makes of ids[1:], and one more entry: the likeliest token after all of them."""
    length = max(len(ids), min(rounded_rows(len(ids)), model.config.sequence_len))
    padded = torch.zeros(1, length, dtype=torch.long, device=model.device)
    padded[0, : len(ids)] = torch.tensor(list(ids))
    hidden = model.hidden(padded)[0]  # (T, C)
    rows = max(1, HEAD_ELEMENTS // model.config.vocab_size)
    entries: list[TokenLogprobs] = []
    for first in range(0, len(ids), rows):
        logits = model.logits(hidden[first : first + rows])[: len(ids) - first]  # (t, V)
        tokens = list(ids[first + 1 : first + 1 + len(logits)])
        if len(tokens) < len(logits):
            tokens.append(int(logits[-1].argmax()))
        plain = [False] * len(tokens)
        entries += token_logprobs(logits, tokens, are_forced=plain, num_top=[num_top] * len(tokens))
    return entries
