"""Head, softcap and cross entropy in one step: the loss and both gradients in a single sweep over the vocabulary.

The logits of a batch are its largest tensor by far (tokens x vocabulary), and autograd would write and read several
copies of it. Here chunks of tokens go through the head, and slices of each chunk, small enough for the cache, through
the softmax in fp32; the gradient overwrites the logits. Tokens without a target stay out of it, and a policy gradient
takes its entropy and its divergence from a reference out of the same slices. Matrix products run in the dtype of
`hidden`. On a GPU one Triton kernel does a chunk's softmax and gradient, and no fp32 logits exist at all
(kernels/softcap_loss.py); a policy's slices are torch's there too.
With s = sigmoid(2 z / cap) a capped logit is cap tanh(z / cap) = cap (2 s - 1) and its derivative 4 s (1 - s): torch's
sigmoid is an order of magnitude faster than its tanh on a CPU, and the softmax does not see the constant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.kernels import launch

# M tokens, N of them with a target (or those of a chunk), C model width, V vocabulary
CHUNK_TOKENS = 512  # rows of one matrix product: its logits stay in the last-level cache
CHUNK_TOKENS_GPU = 8192  # the weights' gradient is read and written once per chunk: larger ones cost less
SLICE_ELEMENTS_CPU = 1 << 17  # logits of one softmax: three fp32 buffers of them fit into the second-level cache
SLICE_ELEMENTS_GPU = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a sweep knows beside the stream, the weights and the targets."""

    vocab_size: int
    softcap: float
    is_full: bool = False
    """Known to be without ignored targets: then none are looked for, which on a GPU has to wait for it."""
    factors: Tensor | None = None
    """(M,): of each token's loss. With them the sums of entropy and divergence come along."""
    usual: tuple[Tensor, Tensor] | None = None
    """Stream (M, C) and head of the reference that the divergence is from; None: it is 0."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, vocab_size: int, softcap: float, is_full: bool = False
) -> Tensor:
    """Sum of the losses in nats. hidden (..., C), weight (at least V, C), targets (...) with -1 ignored."""
    head = Head(vocab_size=vocab_size, softcap=softcap, is_full=is_full)
    return _sums(hidden.reshape(-1, hidden.size(-1)), weight, targets.reshape(-1), head)[0]


def policy_sums(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the tokens of factor x loss, of the entropy and of KL(policy || reference), in nats.

    hidden (M, C), weight (at least V, C), targets (M,) with -1 ignored; gradients flow through the first alone.
    """
    loss, entropy, divergence = _sums(hidden, weight, targets, head)
    return loss, entropy.detach(), divergence.detach()


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, vocab_size: int, softcap: float) -> Tensor:
    """The loss of every target in nats, in the shape of `targets`; 0 where ignored. Records no gradient."""
    head = Head(vocab_size=vocab_size, softcap=softcap)
    return _sweep(hidden.reshape(-1, hidden.size(-1)), weight, targets.reshape(-1), head)[0].view(targets.shape)


def _sums(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, head)
    return _sweep(hidden.detach(), weight.detach(), targets, head).sum(1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        grads = torch.zeros_like(hidden), torch.zeros_like(weight)
        terms = _sweep(hidden, weight, targets, head, grads=grads)
        ctx.save_for_backward(*grads)
        return terms.sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grad[0]), grad_weight.mul_(grad[0]), None, None  # in place: they are ours, and large


def _sweep(
    hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, *, grads: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(1, M): the losses, or (3, M): factor x loss, entropy and divergence; 0 where ignored. Fills `grads`."""
    vocab_size = head.vocab_size
    rows = weight[:vocab_size].to(hidden.dtype)
    usual, usual_rows = (
        (hidden, rows) if head.usual is None else (head.usual[0], head.usual[1][:vocab_size].to(hidden.dtype))
    )
    num_terms = 1 if head.factors is None else 3
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    terms = torch.zeros(num_terms, hidden.size(0), dtype=dtype, device=hidden.device)
    for place in _places(targets, is_full=head.is_full):
        tokens = hidden[place]
        logits = F.linear(tokens, rows)
        if head.factors is None:
            terms[0, place] = _losses(logits, targets[place], softcap=head.softcap, keep_gradient=grads is not None)
        else:
            usual_logits = None if head.usual is None else F.linear(usual[place], usual_rows)
            slices = _Slices(
                logits, targets[place], softcap=head.softcap, factors=head.factors[place], usual=usual_logits
            )
            terms[:, place] = slices.terms(keep_gradient=grads is not None)
        if grads is not None:
            grad_logits = logits  # overwritten by now
            grads[0][place] = torch.mm(grad_logits, rows)
            grads[1][:vocab_size].add_(torch.mm(grad_logits.mT, tokens))
    return terms


def _places(targets: Tensor, *, is_full: bool) -> Iterator[slice | Tensor]:
    """Chunks of the tokens that have a target: the head is most of a small model's work."""
    size = CHUNK_TOKENS_GPU if targets.is_cuda else CHUNK_TOKENS
    if is_full or bool((targets >= 0).all()):
        yield from (slice(first, first + size) for first in range(0, targets.size(0), size))
    else:
        yield from (targets >= 0).nonzero().squeeze(1).split(size)


def _losses(logits: Tensor, targets: Tensor, *, softcap: float, keep_gradient: bool) -> Tensor:
    """(N,): losses of one chunk; with `keep_gradient` their derivative by the logits replaces the logits."""
    if launch.available(logits.device) and logits.dtype != torch.float64:
        from nanochat_core.kernels.softcap_loss import softcap_losses

        return softcap_losses(logits, targets, softcap=softcap, keep_gradient=keep_gradient)
    return _Slices(logits, targets, softcap=softcap).terms(keep_gradient=keep_gradient)[0]


class _Slices:
    """The softmax of one chunk of logits (N, V), a few rows at a time in reused fp32 buffers."""

    def __init__(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        softcap: float,
        factors: Tensor | None = None,
        usual: Tensor | None = None,
    ) -> None:
        """`targets` (N,) ignores none. `factors` (N,) and the reference's logits `usual` (N, V) are those of `Head`."""
        self.logits, self.targets, self.softcap = logits, targets.unsqueeze(1), softcap
        self.factors, self.usual = factors, usual
        elements = SLICE_ELEMENTS_GPU if logits.is_cuda else SLICE_ELEMENTS_CPU
        self.rows = min(max(1, elements // logits.size(1)), logits.size(0))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        num_buffers = 2 if factors is None else 3
        self.buffers = torch.empty(num_buffers, self.rows, logits.size(1), dtype=dtype, device=logits.device)

    def terms(self, *, keep_gradient: bool) -> Tensor:
        """(1 or 3, N), as `_sweep` has them; with `keep_gradient` the loss's derivative replaces the logits."""
        firsts = range(0, self.logits.size(0), self.rows)
        return torch.cat([self._terms(slice(k, k + self.rows), keep_gradient=keep_gradient) for k in firsts], dim=1)

    def _terms(self, place: slice, *, keep_gradient: bool) -> Tensor:
        logits, index = self.logits[place], self.targets[place]
        sigmoids, powers, *spare = (buffer[: logits.size(0)] for buffer in self.buffers)
        if logits.dtype == sigmoids.dtype:
            sigmoids = logits  # they are used up in any case
        if not keep_gradient and self.factors is None:
            powers = sigmoids
        usual = None if self.usual is None else self._softmax(self.usual[place], index, spare[0], powers)
        own = self._softmax(logits, index, sigmoids, powers)
        terms = [own.losses]
        if self.factors is not None:
            apart = self._policy_terms(own, usual, index, (sigmoids, powers, spare[0]))
            terms = [own.losses * self.factors[place, None], *apart]
        if keep_gradient:
            scale = 4 if self.factors is None else 4 * self.factors[place, None]
            of_target = own.sigmoid * (1 - own.sigmoid) * torch.expm1(-own.losses) * scale
            slopes = sigmoids.addcmul_(sigmoids, sigmoids, value=-1)  # s (1 - s)
            logits.copy_(powers.mul_(slopes).mul_(scale / own.total).scatter_(1, index, of_target))
        return torch.cat(terms, dim=1).mT

    def _policy_terms(
        self, own: "_Softmax", usual: "_Softmax | None", index: Tensor, buffers: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(N, 1) each: entropy and divergence. The third buffer has the reference's sigmoids, and is used up.

        Where log p = c - a for capped logits c, a is known from the target: only the c's mean is left to be summed.
        Differences come before sums, so that a model is exactly 0 from itself.
        """
        sigmoids, powers, spare = buffers
        scale, divergence = 2 * self.softcap, torch.zeros_like(own.losses)
        if usual is not None:
            apart = torch.sub(sigmoids, spare, out=spare)
            of_target = apart.gather(1, index)
            mean = apart.mul_(powers).sum(1, keepdim=True) / own.total
            divergence = scale * (mean - of_target) - own.losses + usual.losses
        mean = torch.mul(sigmoids, powers, out=spare).sum(1, keepdim=True) / own.total
        return scale * (own.sigmoid - mean) + own.losses, divergence

    def _softmax(self, logits: Tensor, index: Tensor, sigmoids: Tensor, powers: Tensor) -> "_Softmax":
        """Fill both: the sigmoids that the capped logits are made of, and e to these, the greatest of a row being 1.
        Where both are one buffer, the powers are what stays.

        The powers are not divided by their sum: whoever needs the probabilities has a factor of its own to put it into.
        """
        scale = 2 * self.softcap
        sigmoids.copy_(logits).mul_(2 / self.softcap).sigmoid_()
        greatest, of_target = sigmoids.amax(1, keepdim=True), sigmoids.gather(1, index)
        total = torch.sub(sigmoids, greatest, out=powers).mul_(scale).exp_().sum(1, keepdim=True)
        return _Softmax(total, of_target, total.log() + scale * (greatest - of_target))


class _Softmax(NamedTuple):
    """What is known of each token's distribution, (N, 1) each."""

    total: Tensor
    """Of the powers: what a power is to be divided by."""
    sigmoid: Tensor
    """Of the target's logit."""
    losses: Tensor
