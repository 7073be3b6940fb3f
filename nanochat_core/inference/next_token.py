"""The logits of chosen tokens right after each of many prompts: one forward pass, no generation.

Multiple choice is answered this way: the prompt ends where the assistant is to speak, and the letters are compared.
Prompts of similar length share a batch of at most `batch_tokens` tokens, and the head, which is most of a small model's
work, runs at one position per prompt.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from nanochat_core.model.gpt import GPT

LENGTH_MULTIPLE = 32  # few different shapes: masks and kernels are made per shape


@torch.no_grad()
def next_token_logits(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    on_done: Callable[[int], None] = lambda num_done: None,
) -> list[list[float]]:
    """For each prompt the logits of its candidates as the next token. Prompts may not outgrow the context."""
    model.eval()
    results: list[list[float]] = [[] for _ in prompts]
    num_done = 0
    for members in _batches([len(prompt) for prompt in prompts], batch_tokens):
        ids, lengths = _padded([prompts[i] for i in members], limit=model.config.sequence_len)
        hidden = model.hidden(ids.to(model.device))
        last = hidden[torch.arange(len(members), device=hidden.device), lengths.to(hidden.device) - 1]  # (B, C)
        logits = model.logits(last).cpu()  # (B, V)
        for row, member in enumerate(members):
            results[member] = logits[row, list(candidates[member])].tolist()
        num_done += len(members)
        on_done(num_done)
    return results


def _padded(prompts: Sequence[Sequence[int]], *, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) with zeros behind each prompt, which nothing before them sees, and the lengths (B,)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = min(limit, _rounded(int(lengths.max())))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    return ids, lengths


def _rounded(length: int) -> int:
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices by descending length, as many as fit into `batch_tokens` with their padding (at least one)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # the largest first: too little memory shows at once
    first = 0
    while first < len(order):
        count = max(1, batch_tokens // _rounded(lengths[order[first]]))
        yield order[first : first + count]
        first += count
