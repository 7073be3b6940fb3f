"""The network: nanochat's GPT, written for eager speed.

What it adds to a plain pre-norm transformer: each token's embedding is smeared with the previous one's; every layer
mixes the first stream x0 back in with learned weights; every second layer looks up value embeddings; MLPs use relu^2;
the stream of the middle layer is partly taken out again before the head ("backout"); logits are capped softly.
No norm has a gain, no matrix has a bias. Parameters are fp32 masters, `compute_dtype` is what matrix products run in.
Older models of nanochat lack some of this: `GPTConfig` says what one has, and a learned scalar that it lacks is a
constant which changes nothing.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_core.config import GPTConfig
from nanochat_core.model.admission import is_loss_of_logits
from nanochat_core.model.attention import Attention
from nanochat_core.model.cross_entropy import linear_cross_entropy, token_losses
from nanochat_core.model.documents import Documents
from nanochat_core.model.fp8 import Fp8Product, enable_fp8, fits, fp8_mlp
from nanochat_core.model.fp8_scaling import Fp8State, Scaling
from nanochat_core.model.init import init_weights
from nanochat_core.model.linear import CastCopy, Embedding, Linear
from nanochat_core.model.rotary import Rotary
from nanochat_core.model.shape import (
    MLP_RATIO,
    SMEAR_CHANNELS,
    check_shape,
    has_value_embed,
    kv_dim,
    padded_vocab_size,
)
from nanochat_core.model.stream import mix, rms_norm, squared_relu

# B rows, T tokens, C model width, V vocabulary
Reduction = Literal["mean", "sum", "none"]


def _plain_loss(logits: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
    """Cross entropy of targets (B, T) by logits (B, T, V), as `GPT.loss` has it."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    if reduction == "none":
        return losses.view(targets.shape).detach()
    return losses.sum() if reduction == "sum" else losses.sum() / (targets >= 0).sum().clamp(min=1)


def _nothing_to_await(layer: int | None) -> None:
    """Parameters are here."""


class MLP(nn.Module):
    """Two matrices with a squared relu between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc = Linear(config.n_embd, MLP_RATIO * config.n_embd)
        self.proj = Linear(MLP_RATIO * config.n_embd, config.n_embd)
        self.is_fused = True
        """In fp8 the whole is one function, as long as that computes what stands here (admission.py)."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.fc.weight_product, self.proj.weight_product
        can_fuse = self.is_fused and torch.is_grad_enabled() and fits(x)
        if can_fuse and isinstance(first, Fp8Product) and isinstance(second, Fp8Product):
            return fp8_mlp(x, first=first, second=second, weights=(self.fc.weight, self.proj.weight))
        return self.proj(squared_relu(self.fc(x)))


class Block(nn.Module):
    """Attention, then the MLP, each on the normalised stream and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        value_embed: Tensor | None,
        documents: Documents | None = None,
    ) -> Tensor:
        x = x + self.attn(rms_norm(x), rotation=rotation, value_embed=value_embed, documents=documents)
        return x + self.mlp(rms_norm(x))


def constants_of(config: GPTConfig) -> dict[str, Tensor]:
    """By the names of the parameters that such a model has not: the values in their place, which change nothing."""
    table = (
        (config.residual_weights, "residual_weights", torch.ones(config.n_layer)),
        (config.skip_weights, "skip_weights", torch.zeros(config.n_layer)),
        (config.smear, "smear_weight", torch.zeros(1)),
        (config.smear, "smear_gate.weight", torch.zeros(1, SMEAR_CHANNELS)),
        (config.backout, "backout_weight", torch.zeros(1)),
    )
    return {name: value for is_there, name, value in table if not is_there}


class GPT(nn.Module):
    """The model of a `GPTConfig`; all zero until `init_weights` or a checkpoint fills it.

    With `fp8` the layers' products run in fp8 while gradients are recorded; `self.fp8` then holds their scales.
    """

    fp8: Fp8State | None

    def __init__(self, config: GPTConfig, *, fp8: Scaling | None = None) -> None:
        super().__init__()
        check_shape(config)
        self.config = config
        self.compute_dtype = torch.float32
        vocab = padded_vocab_size(config)
        self.embed = Embedding(vocab, config.n_embd)
        self.value_embeds = nn.ModuleDict(
            {str(i): Embedding(vocab, kv_dim(config)) for i in range(config.n_layer) if has_value_embed(config, i)}
        )
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_weight = nn.Parameter(torch.zeros(1))
        self.residual_weights = nn.Parameter(torch.zeros(config.n_layer))
        self.skip_weights = nn.Parameter(torch.zeros(config.n_layer))
        self.backout_weight = nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = Linear(config.n_embd, vocab)
        self.rotary = Rotary(config.head_dim, num_positions=config.sequence_len, base=config.rotary_base)
        self._head_copy = CastCopy()
        self.await_parameters: Callable[[int | None], None] = _nothing_to_await
        """Called before a forward pass uses the embedding (None), and before each layer: where parameters may still be
        on their way from other ranks. The head counts with the last layer."""
        for name, value in constants_of(config).items():
            owner, _, leaf = name.rpartition(".")
            delattr(self.get_submodule(owner), leaf)
            self.get_submodule(owner).register_buffer(leaf, value, persistent=False)
        self.fp8 = None
        if fp8 is not None:
            enable_fp8(self, fp8)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def init_weights(self, seed: int) -> None:
        """Fill every parameter from `seed`."""
        init_weights(self, seed)

    def forward(self, ids: Tensor, *, documents: Documents | None = None) -> Tensor:
        """Logits (B, T, V) in fp32 for ids (B, T); documents of a row do not see each other where they are given."""
        return self.logits(self.hidden(ids, documents=documents))

    def hidden(self, ids: Tensor, *, documents: Documents | None = None) -> Tensor:
        """The normalised stream (B, T, C) before the head."""
        self.await_parameters(None)
        embedding = rms_norm(self.embed(ids, dtype=self.compute_dtype))
        rotation = self._rotation(ids.size(1))
        x = x0 = self._smear(embedding, documents)
        middle = x
        for layer, block in enumerate(self.layers):
            self.await_parameters(layer)
            x = mix(x, x0, x_weight=self.residual_weights[layer], x0_weight=self.skip_weights[layer])
            value_embed = None
            if has_value_embed(self.config, layer):
                value_embed = self.value_embeds[str(layer)](ids, dtype=self.compute_dtype)
            x = block(x, rotation=rotation, value_embed=value_embed, documents=documents)
            if layer == self.config.n_layer // 2:
                middle = x
        # the constant 1 keeps one formula: x - backout * middle
        return rms_norm(x - self.backout_weight.to(x.dtype) * middle)

    def logits(self, hidden: Tensor) -> Tensor:
        """Softly capped fp32 logits (..., V) over the true vocabulary."""
        logits = self._head_copy.product(hidden, (self.head.weight[: self.config.vocab_size],))
        cap = self.config.softcap
        # torch's sigmoid is far faster than its tanh on a CPU: cap tanh(z / cap) = 2 cap sigmoid(2 z / cap) - cap
        return logits.float().mul(2 / cap).sigmoid().mul(2 * cap).sub(cap)

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        *,
        reduction: Reduction = "mean",
        documents: Documents | None = None,
        is_full: bool = False,
    ) -> Tensor:
        """Cross entropy of targets (B, T) in nats; -1 is ignored. `none`: (B, T), without gradient.

        `is_full`: known to have no ignored target (cross_entropy.py).
        """
        if not is_loss_of_logits(self.config):
            return _plain_loss(self(ids, documents=documents), targets, reduction)
        hidden, weight = self.hidden(ids, documents=documents), self.head.weight
        vocab_size, softcap = self.config.vocab_size, self.config.softcap
        if reduction == "none":
            return token_losses(hidden, weight, targets, vocab_size=vocab_size, softcap=softcap)
        total = linear_cross_entropy(hidden, weight, targets, vocab_size=vocab_size, softcap=softcap, is_full=is_full)
        return total if reduction == "sum" else total / (targets >= 0).sum().clamp(min=1)

    def _smear(self, embedding: Tensor, documents: Documents | None) -> Tensor:
        """Add a gated share of the previous token's embedding to each token's."""
        previous = F.pad(embedding[:, :-1], (0, 0, 1, 0))  # (B, T, C), zeros before the first token
        if documents is not None:
            previous = previous.masked_fill(documents.is_first().unsqueeze(2), 0.0)
        gate = torch.sigmoid(self.smear_gate(embedding[..., :SMEAR_CHANNELS]))  # (B, T, 1)
        return torch.addcmul(embedding, self.smear_weight.to(gate.dtype) * gate, previous)

    def _rotation(self, tokens: int) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(tokens, dtype=self.compute_dtype)
        return cos[:tokens], sin[:tokens]
