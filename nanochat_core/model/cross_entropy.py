"""Head, softcap and cross entropy in one step: the loss and both gradients in a single sweep over the vocabulary.

The logits of a batch are its largest tensor by far (tokens x vocabulary), and autograd would write and read several
copies of it. Here chunks of tokens go through the head, and slices of each chunk, small enough for the cache, through
the softmax in fp32; the gradient overwrites the logits. Matrix products run in the dtype of `hidden`. On a GPU one
Triton kernel does a chunk's softmax and gradient, and no fp32 logits exist at all (kernels/softcap_loss.py).
With s = sigmoid(2 z / cap) a capped logit is cap tanh(z / cap) = cap (2 s - 1) and its derivative 4 s (1 - s): torch's
sigmoid is an order of magnitude faster than its tanh on a CPU, and the softmax does not see the constant.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.kernels import launch

# N tokens, C model width, V vocabulary
CHUNK_TOKENS = 512  # rows of one matrix product: its logits stay in the last-level cache
CHUNK_TOKENS_GPU = 8192  # the weights' gradient is read and written once per chunk: larger ones cost less
SLICE_ELEMENTS_CPU = 1 << 19  # logits of one softmax: two fp32 buffers of them fit into the second-level cache
SLICE_ELEMENTS_GPU = 1 << 26


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, vocab_size: int, softcap: float) -> Tensor:
    """Sum of the losses in nats. hidden (..., C), weight (at least V, C), targets (...) with -1 ignored."""
    flat, flat_targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(flat, weight, flat_targets, vocab_size, softcap)
    return token_losses(flat, weight, flat_targets, vocab_size=vocab_size, softcap=softcap).sum()


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, vocab_size: int, softcap: float) -> Tensor:
    """The loss of every target in nats, in the shape of `targets`; 0 where ignored. Records no gradient."""
    flat, flat_targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    head = weight[:vocab_size].to(hidden.dtype)
    parts = []
    rows = _chunk_tokens(flat)
    for tokens, wanted in zip(flat.split(rows), flat_targets.split(rows), strict=True):
        parts.extend(_losses(F.linear(tokens, head), wanted, softcap=softcap, keep_gradient=False))
    return torch.cat(parts).view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float) -> Tensor:
        head = weight[:vocab_size].to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        losses, rows = [], _chunk_tokens(hidden)
        for start in range(0, hidden.size(0), rows):
            chunk = slice(start, start + rows)
            logits = F.linear(hidden[chunk], head)
            losses.extend(_losses(logits, targets[chunk], softcap=softcap, keep_gradient=True))
            grad_logits = logits  # overwritten by now
            torch.mm(grad_logits, head, out=grad_hidden[chunk])
            grad_weight[:vocab_size].add_(torch.mm(grad_logits.mT, hidden[chunk]))
        ctx.save_for_backward(grad_hidden, grad_weight)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None, None


def _chunk_tokens(hidden: Tensor) -> int:
    return CHUNK_TOKENS_GPU if hidden.is_cuda else CHUNK_TOKENS


def _losses(logits: Tensor, targets: Tensor, *, softcap: float, keep_gradient: bool) -> list[Tensor]:
    """Parts of the losses of one chunk; with `keep_gradient` their derivative by the logits replaces the logits."""
    if launch.available(logits.device) and logits.dtype != torch.float64:
        from nanochat_core.kernels.softcap_loss import softcap_losses

        return [softcap_losses(logits, targets, softcap=softcap, keep_gradient=keep_gradient)]
    return _Slices(logits, targets, softcap=softcap).losses(keep_gradient=keep_gradient)


class _Slices:
    """The softmax of one chunk of logits (N, V), a few rows at a time in two reused fp32 buffers."""

    def __init__(self, logits: Tensor, targets: Tensor, *, softcap: float) -> None:
        self.logits, self.targets, self.softcap = logits, targets, softcap
        elements = SLICE_ELEMENTS_GPU if logits.is_cuda else SLICE_ELEMENTS_CPU
        self.rows = min(max(1, elements // logits.size(1)), logits.size(0))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.sigmoids = torch.empty(self.rows, logits.size(1), dtype=dtype, device=logits.device)
        self.probs = torch.empty_like(self.sigmoids)
        self.zero = self.probs.new_zeros(())

    def losses(self, *, keep_gradient: bool) -> list[Tensor]:
        """The losses slice by slice; with `keep_gradient` their derivative by the logits replaces the logits."""
        pairs = zip(self.logits.split(self.rows), self.targets.split(self.rows), strict=True)
        return [self._losses(logits, targets, keep_gradient=keep_gradient) for logits, targets in pairs]

    def _losses(self, logits: Tensor, targets: Tensor, *, keep_gradient: bool) -> Tensor:
        sigmoids, probs = self.sigmoids[: logits.size(0)], self.probs[: logits.size(0)]
        sigmoids.copy_(logits).mul_(2 / self.softcap).sigmoid_()
        torch.mul(sigmoids, 2 * self.softcap, out=probs)
        torch.softmax(probs, dim=-1, out=probs)
        is_counted = (targets >= 0).unsqueeze(1)
        index = targets.clamp(min=0).unsqueeze(1)
        target_probs = probs.gather(1, index)
        losses = target_probs.log().neg_().masked_fill_(~is_counted, 0.0).squeeze(1)
        if keep_gradient:
            probs.scatter_(1, index, target_probs - 1)
            slopes = sigmoids.addcmul_(sigmoids, sigmoids, value=-1)  # s (1 - s)
            if logits.is_cuda or not is_counted.all():
                slopes.mul_(is_counted)
            logits.copy_(torch.addcmul(self.zero, probs, slopes, value=4, out=probs))
        return losses
