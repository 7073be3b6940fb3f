"""BPE training through the rustbpe library.

Chosen over Hugging Face tokenizers for 2.9 times less CPU and half the memory at the same set of merges (measured on
52 MB with vocabularies of 8,192 and 32,768).
"""

from collections.abc import Iterable, Iterator

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.tokenizer.long_runs import cut_runs
from nanochat_core.tokenizer.patterns import SPLIT_PATTERN, compiled_pattern
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

NUM_BYTES = 256


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    max_train_bytes: int,
    max_doc_bytes: int,
    pattern: str = SPLIT_PATTERN,
) -> Tokenizer:
    """Learn `vocab_size` tokens (special ones included) from the texts, cut by `pattern` before they are merged."""
    num_ranks = vocab_size - len(SPECIAL_TOKENS)
    if num_ranks < NUM_BYTES:
        raise ConfigError(
            f"tokenizer.vocab_size = {vocab_size} leaves {num_ranks} tokens for {NUM_BYTES} bytes",
            hint=f"at least {NUM_BYTES + len(SPECIAL_TOKENS)}",
        )
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(
        _limited(texts, max_train_bytes, max_doc_bytes), num_ranks, pattern=compiled_pattern(pattern)
    )
    ranks = [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]
    if len(ranks) < num_ranks:
        raise MissingError(
            f"the text yields only {len(ranks) - NUM_BYTES} merges of the {num_ranks - NUM_BYTES} asked for",
            hint=f"use more text, or --set tokenizer.vocab_size={len(ranks) + len(SPECIAL_TOKENS)}",
        )
    return Tokenizer(ranks, pattern)


def _limited(texts: Iterable[str], max_train_bytes: int, max_doc_bytes: int) -> Iterator[str]:
    num_bytes = 0
    for text in texts:
        if num_bytes >= max_train_bytes:
            return
        part = text[:max_doc_bytes].encode("utf-8", errors="replace")[:max_doc_bytes]
        num_bytes += len(part)
        yield from cut_runs(part.decode("utf-8", errors="ignore"))
