"""BPE training: pieces counted by `pieces`, merged by the ffbpe library, which takes counts.

rustbpe takes texts alone and finds each piece of them by the pattern: up to twice the CPU (LOG.md), and the same
merges, ties included (the pair of smallest ids). It learns where there is no wheel of ffbpe (Linux on ARM), and what is
mostly written past ASCII, with few places that two bytes tell: there it takes less of both time and memory.
"""

import itertools
from collections.abc import Iterable, Iterator

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.tokenizer.long_runs import cut_runs
from nanochat_core.tokenizer.patterns import SPLIT_PATTERN, compiled_pattern
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

NUM_BYTES = 256
JUDGED_BYTES = 1 << 20  # the beginning of the text, which tells what most of it is written in


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
    ranks = _learnt(_limited(texts, max_train_bytes, max_doc_bytes), num_ranks, compiled_pattern(pattern))
    if len(ranks) < num_ranks:
        raise MissingError(
            f"the text yields only {len(ranks) - NUM_BYTES} merges of the {num_ranks - NUM_BYTES} asked for",
            hint=f"use more text, or --set tokenizer.vocab_size={len(ranks) + len(SPECIAL_TOKENS)}",
        )
    return Tokenizer(ranks, pattern)


def _learnt(texts: Iterable[str], num_ranks: int, pattern: str) -> list[bytes]:
    """The bytes and merges in order, `num_ranks` of them or as many as the texts yield."""
    is_ascii, texts = _is_mostly_ascii(iter(texts))
    try:
        from ffbpe import BpeTrainer
    except ImportError:
        is_ascii = False
    if not is_ascii:
        return _learnt_by_pattern(texts, num_ranks, pattern)
    from nanochat_core.tokenizer.pieces import count_pieces

    trainer = BpeTrainer([], initial_alphabet="raw", tie_break="smallest_pair_id")
    trainer.add_words(count_pieces(texts, pattern))
    trainer.train(num_ranks)
    return sorted(ranks := trainer.vocab, key=ranks.__getitem__)


def _is_mostly_ascii(texts: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether the beginning is mostly ASCII; and the texts, all of them."""
    begun, num_bytes, num_chars = [], 0, 0
    for text in texts:
        begun.append(text)
        num_bytes, num_chars = num_bytes + len(text.encode()), num_chars + len(text)
        if num_bytes >= JUDGED_BYTES:
            break
    # a character past ASCII has one to three bytes more
    return num_bytes < 1.5 * num_chars, itertools.chain(begun, texts)


def _learnt_by_pattern(texts: Iterable[str], num_ranks: int, pattern: str) -> list[bytes]:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts, num_ranks, pattern=pattern)
    return [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]


def _limited(texts: Iterable[str], max_train_bytes: int, max_doc_bytes: int) -> Iterator[str]:
    num_bytes = 0
    for text in texts:
        if num_bytes >= max_train_bytes:
            return
        part = text[:max_doc_bytes].encode("utf-8", errors="replace")[:max_doc_bytes]
        num_bytes += len(part)
        yield from cut_runs(part.decode("utf-8", errors="ignore"))
