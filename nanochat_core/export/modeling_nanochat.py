"""nanochat's GPT for transformers: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

This file travels with the weights, so it needs torch and transformers alone. Tensors have the names and shapes of the
project's own model.safetensors; every constant of the architecture stands in config.json. Attention windows are masks
over a full cache. The smear mixes in the embedding of the token before, so the cache must hold that as well: layer 0
keeps embeddings as further heads of its keys, and whatever reorders, crops or repeats a cache takes them along.
Sums and products stand in the order in which the project computes them: in fp32 that halves the distance of the logits.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# B rows, T new tokens, L tokens held and new, H query heads, K key/value heads, D head size, C model width
RMS_EPS = torch.finfo(torch.float32).eps  # also in bf16
BLOCK_QUERIES = 128


class NanochatConfig(PretrainedConfig):
    """The shape of one model; `windows` and `value_embed_layers` say what each layer is."""

    model_type = "nanochat_prefect"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        vocab_size: int = 32_768,
        padded_vocab_size: int = 32_768,
        hidden_size: int = 768,
        intermediate_size: int = 3_072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 6,
        max_position_embeddings: int = 2_048,
        window_pattern: str = "L",
        windows: list[int] | None = None,
        value_embed_layers: list[int] | None = None,
        smear_channels: int = 24,
        value_gate_channels: int = 12,
        value_gate_scale: float = 3.0,
        qk_gain: float = 1.2,
        rotary_base: float = 100_000.0,
        logit_softcap: float = 15.0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.padded_vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        self.window_pattern = window_pattern
        self.windows = windows if windows is not None else [max_position_embeddings] * num_hidden_layers
        self.value_embed_layers = value_embed_layers if value_embed_layers is not None else []
        self.smear_channels = smear_channels
        self.value_gate_channels = value_gate_channels
        self.value_gate_scale = value_gate_scale
        self.qk_gain = qk_gain
        self.rotary_base = rotary_base
        self.logit_softcap = logit_softcap
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)  # type: ignore[call-arg]

    @property
    def head_dim(self) -> int:
        return int(self.hidden_size // self.num_attention_heads)


class NanochatAttention(nn.Module):
    """Grouped queries, rotary positions, normalised queries and keys, gated value embeddings."""

    def __init__(self, config: NanochatConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.config = layer, config
        kv_dim = config.num_key_value_heads * config.head_dim
        self.q = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.v = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value_gate = None
        if layer in config.value_embed_layers:
            self.value_gate = nn.Linear(config.value_gate_channels, config.num_key_value_heads, bias=False)

    def forward(
        self, x: Tensor, *, embedding: Tensor, value_embed: Tensor | None, rotation: Any, bias: Tensor, cache: Any
    ) -> Tensor:
        config = self.config
        heads = (*x.shape[:2], -1, config.head_dim)
        joined = torch.cat((self.q.weight, self.k.weight, self.v.weight))
        sizes = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        q, k, v = F.linear(x, joined).view(heads).split(sizes, dim=2)  # (B, T, H or K, D)
        if self.value_gate is not None and value_embed is not None:
            gate = config.value_gate_scale * torch.sigmoid(self.value_gate(x[..., : config.value_gate_channels]))
            v = v + gate.unsqueeze(-1) * value_embed.view(heads)
        q = rotate(q.transpose(1, 2), rotation, gain=config.qk_gain / math.sqrt(config.head_dim))  # (B, H, T, D)
        k, v = rotate(k.transpose(1, 2), rotation, gain=config.qk_gain), v.transpose(1, 2)  # (B, K, T, D)
        if cache is not None:
            num_kept = k.size(1)
            if self.layer == 0:
                k = torch.cat((k, embedding.view(heads).transpose(1, 2)), dim=1)  # (B, K + H, T, D)
            k, v = cache.update(k, v, self.layer)
            k = k[:, :num_kept]
        mixed = attend(q, k, v, bias, window=config.windows[self.layer])  # (B, H, T, D)
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))


class NanochatMLP(nn.Module):
    """Two matrices with a squared relu between them."""

    def __init__(self, config: NanochatConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)).square())


class NanochatBlock(nn.Module):
    """Attention, then the MLP, each on the normalised stream and added to it."""

    def __init__(self, config: NanochatConfig, layer: int) -> None:
        super().__init__()
        self.attn = NanochatAttention(config, layer)
        self.mlp = NanochatMLP(config)

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        x = x + self.attn(rms_norm(x), **attention)
        return x + self.mlp(rms_norm(x))


class NanochatForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model, with and without a cache; rows may be padded on either side, without holes."""

    config_class = NanochatConfig
    _no_split_modules = ["NanochatBlock"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_cache_class = True
    # learned scalars: rounding them to bf16 costs accuracy and saves a few bytes
    _keep_in_fp32_modules_strict = ["smear_weight", "residual_weights", "skip_weights", "backout_weight"]  # noqa: RUF012

    def __init__(self, config: NanochatConfig) -> None:
        super().__init__(config)
        vocab, kv_dim = config.padded_vocab_size, config.num_key_value_heads * config.head_dim
        self.embed = nn.Embedding(vocab, config.hidden_size)
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(vocab, kv_dim) for i in config.value_embed_layers})
        self.smear_gate = nn.Linear(config.smear_channels, 1, bias=False)
        self.smear_weight = nn.Parameter(torch.zeros(1))
        self.residual_weights = nn.Parameter(torch.zeros(config.num_hidden_layers))
        self.skip_weights = nn.Parameter(torch.zeros(config.num_hidden_layers))
        self.backout_weight = nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(NanochatBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, vocab, bias=False)
        self.post_init()

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices: the first parameter is a scalar, and those stay fp32."""
        return self.embed.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("value embeddings are tied to the vocabulary; train a model with another one")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) in fp32; `labels` as in every causal model: shifted inside, -100 is ignored."""
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("this model needs input_ids: its value embeddings are looked up by token")
        if getattr(past_key_values, "is_compileable", False):
            raise ValueError("this model needs a cache that grows, as generate() makes by default, not a static one")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
        is_token = self._is_token(input_ids, attention_mask, num_past)  # (B, L)
        if position_ids is None:
            position_ids = (is_token.long().cumsum(-1) - 1).clamp(min=0)[:, num_past:]
        x = self._hidden(input_ids, is_token, position_ids, past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = F.linear(x[:, kept], self.head.weight[: self.config.vocab_size]).float()
        cap = self.config.logit_softcap
        logits = logits.mul(2 / cap).sigmoid().mul(2 * cap).sub(cap)  # cap * tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _hidden(self, ids: Tensor, is_token: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """The normalised stream (B, T, C) before the head."""
        config, num_past = self.config, is_token.size(1) - ids.size(1)
        embedding = rms_norm(self.embed(ids)) * is_token[:, num_past:].unsqueeze(-1).to(self.embed.weight.dtype)
        rotation = self._rotation(positions, embedding.dtype)
        biases = {
            window: attention_bias(is_token, ids.size(1), window=window, dtype=embedding.dtype)
            for window in set(config.windows)
        }
        x = x0 = middle = self._smear(embedding, self._last_embedding(cache, num_past))
        for layer, block in enumerate(self.blocks):
            x = torch.addcmul(x * self.residual_weights[layer], x0, self.skip_weights[layer].to(x.dtype))
            value_embed = self.value_embeds[str(layer)](ids) if layer in config.value_embed_layers else None
            x = block(
                x,
                embedding=embedding,
                value_embed=value_embed,
                rotation=rotation,
                bias=biases[config.windows[layer]],
                cache=cache,
            )
            if layer == config.num_hidden_layers // 2:
                middle = x
        return rms_norm(x - self.backout_weight.reshape(()) * middle)

    def _smear(self, embedding: Tensor, last: Tensor | None) -> Tensor:
        """Add a gated share of the previous token's embedding; before the first token, and in padding, it is zero."""
        before = torch.zeros_like(embedding[:, 0]) if last is None else last.to(embedding)
        previous = torch.cat((before.unsqueeze(1), embedding[:, :-1]), dim=1)  # (B, T, C)
        gate = torch.sigmoid(self.smear_gate(embedding[..., : self.config.smear_channels]))  # (B, T, 1)
        return torch.addcmul(embedding, self.smear_weight.to(gate.dtype) * gate, previous)

    def _last_embedding(self, cache: Any, num_past: int) -> Tensor | None:
        """(B, C): the embedding of the newest token that the cache holds."""
        if num_past == 0:
            return None
        layers = getattr(cache, "layers", None)  # transformers before 4.54 has one list of keys
        keys = layers[0].keys if layers is not None else cache.key_cache[0]
        return keys[:, self.config.num_key_value_heads :, -1].flatten(1)

    def _is_token(self, ids: Tensor, mask: Tensor | None, num_past: int) -> Tensor:
        """(B, L): True at tokens, False at padding."""
        length = num_past + ids.size(1)
        if mask is None:
            return torch.ones(ids.size(0), length, dtype=torch.bool, device=ids.device)
        if mask.dim() != 2 or mask.size(1) != length:
            raise ValueError(f"attention_mask must be (rows, {length}), not {tuple(mask.shape)}")
        is_token = mask.bool()
        begins = F.pad(is_token, (1, 0))
        if (begins[:, 1:] & ~begins[:, :-1]).sum(1).gt(1).any():
            raise ValueError("attention_mask has a hole between tokens; pad on the left (padding_side='left')")
        return is_token

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (B, 1, T, D); computed anew each time, so no buffer can be lost or rounded."""
        size = self.config.head_dim
        exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
        angles = positions[:, None, :, None].float() * self.config.rotary_base**-exponents  # (B, 1, T, D / 2)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)


def rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last dimension, without a learned gain."""
    return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor], *, gain: float) -> Tensor:
    """gain * x / rms(x), turned by its position: rotary embeddings on halves."""
    cos, sin = rotation
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    x = x * ((norm.square() / x.size(-1) + RMS_EPS).rsqrt() * gain).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(torch.cat((second, first), dim=-1) * sin, x, cos)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, window: int) -> Tensor:
    """q (B, H, T, D) carries its scale; k and v (B, K, L, D); to (B, H, T, D)."""
    if q.device.type == "cpu":
        return attend_in_blocks(q, k, v, bias, window=window)
    groups = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, L, D)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, window: int) -> Tensor:
    """The same on a CPU, where torch's fused one rounds differently: blocks as the project's own, so equal logits."""
    rows, heads, tokens, size = q.shape
    groups, num_past, parts = heads // k.size(1), k.size(2) - tokens, []
    for first in range(0, tokens, BLOCK_QUERIES):
        queries = q[:, :, first : first + BLOCK_QUERIES].reshape(rows, k.size(1), -1, size)  # (B, K, G n, D)
        seen = slice(max(0, num_past + first - window), num_past + first + BLOCK_QUERIES)
        scores = queries @ k[:, :, seen].mT + bias[:, :, first : first + BLOCK_QUERIES, seen].repeat(1, 1, groups, 1)
        parts.append((torch.softmax(scores, dim=-1) @ v[:, :, seen]).view(rows, heads, -1, size))
    return torch.cat(parts, dim=2)


def attention_bias(is_token: Tensor, num_new: int, *, window: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, L): 0 where the new tokens may look, else -inf. Padding sees itself: no softmax may be empty."""
    length = is_token.size(1)
    key = torch.arange(length, device=is_token.device)
    query = key[length - num_new :].unsqueeze(1)
    in_window = (key <= query) & (key >= query - window)  # (T, L)
    is_visible = (in_window & is_token[:, None, :]) | (key == query)
    return torch.zeros(is_visible.shape, dtype=dtype, device=key.device).masked_fill_(~is_visible, -torch.inf)[:, None]
