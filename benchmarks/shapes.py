"""Models of nanochat's shape for a bench: a depth of 6 is 384 wide, a head 128."""

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig

WIDTH_PER_LAYER, HEAD_DIM = 64, 128


def model_shape(depth: int, *, vocab_size: int, sequence_len: int) -> GPTConfig:
    """The model of `depth` layers; `sequence_len` in tokens."""
    width = depth * WIDTH_PER_LAYER
    heads = max(1, width // HEAD_DIM)
    return GPTConfig(
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=width,
        window_pattern="SSSL",
    )


def check_bench(config: object, known: tuple[str, ...]) -> None:
    """ConfigError when a bench asks for a variant that is not `known`, or for none of something it counts."""
    if unknown := sorted(set(vars(config)["variants"]) - set(known)):
        raise ConfigError(f"there is no variant {unknown[0]!r}", hint=", ".join(known))
    for name, value in vars(config).items():
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name} = {value} is below 1")
