"""Log-probabilities of a prompt's own tokens: one forward pass, for clients that ask for `echo` with `logprobs`.

A token's value and the likeliest token's come from one log-softmax in fp32, unrounded: lm-eval compares them for
equality to tell whether a continuation is the greedy one. The pass is the training forward at the prompt's own length,
so that the numbers do not depend on what else is being served.
"""

from collections.abc import Sequence

import torch

from nanochat_core.inference.logprobs import TokenLogprobs, token_logprobs
from nanochat_core.model.gpt import GPT

HEAD_ELEMENTS = 1 << 24  # logits at once: 64 MiB in fp32


@torch.no_grad()
def score_prompt(model: GPT, ids: Sequence[int], *, num_top: int) -> list[TokenLogprobs]:
    """What the model makes of ids[1:], and one more entry: the likeliest token after all of them."""
    hidden = model.hidden(torch.tensor([list(ids)], device=model.device))[0]  # (T, C)
    rows = max(1, HEAD_ELEMENTS // model.config.vocab_size)
    entries: list[TokenLogprobs] = []
    for first in range(0, len(ids), rows):
        logits = model.logits(hidden[first : first + rows])  # (t, V)
        tokens = list(ids[first + 1 : first + 1 + len(logits)])
        if len(tokens) < len(logits):
            tokens.append(int(logits[-1].argmax()))
        plain = [False] * len(tokens)
        entries += token_logprobs(logits, tokens, are_forced=plain, num_top=[num_top] * len(tokens))
    return entries
