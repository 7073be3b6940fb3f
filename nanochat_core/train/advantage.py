"""From rewards to gradients: advantages, and the policy-gradient loss of sampled tokens.

REINFORCE with the mean of a question's own answers as the baseline (Williams 1992; the group baseline of GRPO, arXiv
2402.03300, without its division by the deviation, which favours questions that are almost always or almost never
solved, arXiv 2503.20783). The answers come from the very weights that learn from them, so there is no ratio to clip.
Each sampled token counts the same, however long its answer is: the loss is divided by the sampled tokens of the whole
step. Tokens that were forced (tool results) and prompts are no choices of the model and are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.data.loader import IGNORED
from nanochat_core.model.admission import is_loss_of_logits
from nanochat_core.model.cross_entropy import Head, policy_sums
from nanochat_core.model.gpt import GPT

# B rows, T tokens, N sampled tokens of all rows, C model width, V vocabulary


def advantages(rewards: Sequence[float]) -> list[float]:
    """Of the answers to one question: how much better each is than their mean; all 0 where they are equally good."""
    mean = sum(rewards) / len(rewards)
    if all(reward == rewards[0] for reward in rewards):
        return [0.0] * len(rewards)  # a mean of thirds may differ from each of them in the last bit
    return [reward - mean for reward in rewards]


@dataclass(frozen=True)
class PolicyTerms:
    """Sums over the sampled tokens of some rows; gradients flow through `loss` alone."""

    loss: Tensor
    """-(advantage x log-prob), in nats."""
    entropy: Tensor
    """Of the distribution that each token was drawn from, before top-k."""
    kl: Tensor
    """KL(policy || reference) at each token, over the whole vocabulary and so without sampling noise of its own."""
    num_tokens: int


def policy_terms(
    model: GPT, ids: Tensor, targets: Tensor, *, row_advantages: Tensor, reference: GPT | None = None
) -> PolicyTerms:
    """Loss, entropy and divergence of targets (B, T), IGNORED where nothing was chosen, under `model`."""
    if not is_loss_of_logits(model.config):
        return plain_terms(model, ids, targets, row_advantages=row_advantages, reference=reference)
    with torch.no_grad():
        usual = None if reference is None else (reference.hidden(ids).flatten(0, 1), reference.head.weight)
    head = Head(
        vocab_size=model.config.vocab_size,
        softcap=model.config.softcap,
        factors=row_advantages.unsqueeze(1).expand_as(targets).flatten(),
        usual=usual,
    )
    sums = policy_sums(model.hidden(ids).flatten(0, 1), model.head.weight, targets.flatten(), head)
    return PolicyTerms(*sums, num_tokens=int((targets != IGNORED).sum()))


def plain_terms(
    model: GPT, ids: Tensor, targets: Tensor, *, row_advantages: Tensor, reference: GPT | None = None
) -> PolicyTerms:
    """The same from all logits of the chosen tokens, and some ten copies of them: whatever formula they are of."""
    is_chosen = targets != IGNORED
    log_probs = F.log_softmax(model.logits(model.hidden(ids)[is_chosen]), dim=-1)  # (N, V)
    weights = row_advantages.unsqueeze(1).expand_as(targets)[is_chosen]  # (N,)
    chosen = log_probs.gather(1, targets[is_chosen].unsqueeze(1)).squeeze(1)  # (N,)
    with torch.no_grad():
        probs = log_probs.exp()
        entropy = -(probs * log_probs).sum()
        kl = torch.zeros_like(entropy)
        if reference is not None:
            usual = F.log_softmax(reference.logits(reference.hidden(ids)[is_chosen]), dim=-1)
            kl = (probs * (log_probs - usual)).sum()
    return PolicyTerms(-(weights * chosen).sum(), entropy, kl, num_tokens=int(is_chosen.sum()))


def batch_of(
    sequences: Sequence[Sequence[int]], sampled: Sequence[Sequence[bool]], *, pad: int
) -> tuple[Tensor, Tensor]:
    """Inputs (B, T) and targets (B, T) of sequences of any length; `sampled` says which tokens the model chose."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    is_target = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, (sequence, chosen) in enumerate(zip(sequences, sampled, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        is_target[row, : len(chosen)] = torch.tensor(chosen)
    targets = ids[:, 1:].masked_fill(~is_target[:, 1:], IGNORED)
    return ids[:, :-1], targets
