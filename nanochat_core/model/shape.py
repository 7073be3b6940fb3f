"""Everything that follows from a `GPTConfig` without torch: windows, parameter counts, FLOPs, bytes.

The plan of a run is computed from these numbers before any tensor exists, so they must equal what the model allocates;
tests compare them with the built model and with a table of nanochat's own counts.
Attention is counted at the full window (not halved for causality), the usual convention of MFU figures
(PaLM, arXiv 2204.02311, appendix B), so that numbers compare with nanochat's.
"""

from dataclasses import dataclass

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig

VOCAB_MULTIPLE = 64  # embedding and head rows: keeps the matrix products on aligned tiles
SHORT_WINDOW_MULTIPLE = 128  # short windows are whole attention tiles, unless a model says otherwise
SHORT_WINDOW_DIVISOR = 4
SMEAR_CHANNELS = 24  # the smear gate looks at this many channels of the embedding
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class ParamCounts:
    """Parameters by group; the embedding and the head count with their padded vocabulary."""

    wte: int
    value_embeds: int
    lm_head: int
    transformer_matrices: int
    scalars: int
    """Residual and x0 weights of each layer, smear gate and weight, backout weight."""

    @property
    def total(self) -> int:
        return self.wte + self.value_embeds + self.lm_head + self.transformer_matrices + self.scalars

    @property
    def scaling(self) -> int:
        """What scaling laws count here: the matrices and the head, without lookup tables and scalars."""
        return self.transformer_matrices + self.lm_head


def check_shape(config: GPTConfig) -> None:
    """Raise `ConfigError` if no model can be built from `config`."""
    if config.n_embd % config.n_head != 0:
        raise ConfigError(
            f"n_embd {config.n_embd} does not divide into {config.n_head} heads",
            hint=f"set n_embd to a multiple of n_head, e.g. {-(-config.n_embd // config.n_head) * config.n_head}",
        )
    if config.head_dim % 2 != 0:
        raise ConfigError(f"head_dim {config.head_dim} is odd", hint="rotary embeddings need an even head_dim")
    if config.n_head % config.n_kv_head != 0:
        raise ConfigError(
            f"n_head {config.n_head} is not a multiple of n_kv_head {config.n_kv_head}",
            hint="every key/value head serves the same number of query heads",
        )
    narrowest = max(SMEAR_CHANNELS, config.value_gate_channels)
    if config.n_embd < narrowest:
        raise ConfigError(f"n_embd {config.n_embd} is too small", hint=f"use at least {narrowest}")
    unknown = sorted(set(config.window_pattern) - set("SL"))
    if unknown or not config.window_pattern:
        raise ConfigError(
            f"window_pattern {config.window_pattern!r} has letters other than S and L",
            hint="S is a short window, L the whole context, e.g. SSSL",
        )


def padded_vocab_size(config: GPTConfig) -> int:
    """Rows of the embedding, the value embeddings and the head."""
    return _round_up(config.vocab_size, VOCAB_MULTIPLE)


def window_sizes(config: GPTConfig) -> list[int]:
    """For each layer w: position t sees t - w .. t. The last layer is always L, it has to gather what is left."""
    short = config.short_window_tokens
    if short is None:
        short = short_window(config.sequence_len, SHORT_WINDOW_DIVISOR)
    size_of = {"S": short, "L": config.sequence_len}
    pattern = config.window_pattern
    sizes = [size_of[pattern[layer % len(pattern)]] for layer in range(config.n_layer)]
    return [*sizes[:-1], config.sequence_len]


def short_window(sequence_len: int, divisor: int) -> int:
    """A part of the context, in whole tiles of attention."""
    return _round_up(_ceil_div(sequence_len, divisor), SHORT_WINDOW_MULTIPLE)


def has_value_embed(config: GPTConfig, layer: int) -> bool:
    """Every second layer has value embeddings, and the last layer always has them, where a model has any."""
    return config.value_gate_channels > 0 and layer % 2 == (config.n_layer - 1) % 2


def kv_dim(config: GPTConfig) -> int:
    """Width of the keys (and of the values) of one token in one layer."""
    return config.n_kv_head * config.head_dim


def count_params(config: GPTConfig) -> ParamCounts:
    """Parameters by group, as the model allocates them."""
    vocab = padded_vocab_size(config)
    num_value_embeds = sum(has_value_embed(config, layer) for layer in range(config.n_layer))
    attention = 2 * config.n_embd * config.n_embd + 2 * config.n_embd * kv_dim(config)
    mlp = 2 * MLP_RATIO * config.n_embd * config.n_embd
    gates = num_value_embeds * config.n_kv_head * config.value_gate_channels
    return ParamCounts(
        wte=vocab * config.n_embd,
        value_embeds=num_value_embeds * vocab * kv_dim(config),
        lm_head=vocab * config.n_embd,
        transformer_matrices=config.n_layer * (attention + mlp) + gates,
        scalars=(config.residual_weights + config.skip_weights) * config.n_layer
        + config.smear * (SMEAR_CHANNELS + 1)
        + config.backout,
    )


def flops_per_token(config: GPTConfig) -> int:
    """Training FLOPs per token: forward plus backward (twice the forward)."""
    attention = sum(12 * config.n_embd * min(window, config.sequence_len) for window in window_sizes(config))
    return 6 * _matmul_params(config) + attention


def decode_flops_per_token(config: GPTConfig, *, context: int) -> int:
    """FLOPs of generating one token after `context` tokens."""
    attention = sum(4 * config.n_embd * min(window, context) for window in window_sizes(config))
    return 2 * _matmul_params(config) + attention


def kv_bytes_per_token(config: GPTConfig, *, bytes_per_value: int = 2) -> int:
    """Bytes that one token occupies in the key/value cache."""
    return 2 * config.n_layer * kv_dim(config) * bytes_per_value


def _matmul_params(config: GPTConfig) -> int:
    # The smear gate is a matrix product too, though its parameters count with the scalars.
    return count_params(config).scaling + config.smear * SMEAR_CHANNELS


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(value: int, multiple: int) -> int:
    return _ceil_div(value, multiple) * multiple
