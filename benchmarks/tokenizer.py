"""How fast text is encoded and a vocabulary is learnt, in one process.

The references are what is usual: tiktoken's `encode_ordinary_batch` with one thread, a Python list for every document,
and rustbpe, which finds every piece by the pattern. Both sides take turns; tokens and merges are compared.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import tiktoken

from nanochat_core.base.errors import MissingError
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.bulk import BulkEncoder
from nanochat_core.tokenizer.tokenizer import Tokenizer

BATCH_DOCS = 1000  # a row group's
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TokenizerBenchConfig:
    """What is measured."""

    vocab_size: int = 4096
    max_bytes: int = 10_000_000
    """Of text; all of it is encoded and learnt from at each repeat."""
    num_repeats: int = 5


def bench_tokenizer(texts: Iterable[str], config: TokenizerBenchConfig) -> dict[str, Any]:
    """Megabytes per CPU second, as a JSON value; medians over the repeats."""
    documents, num_bytes = _limited(texts, config.max_bytes)
    train_s, theirs_train_s, ours_s, theirs_s = [], [], [], []
    for _ in range(config.num_repeats):
        (tokenizer, taken), (merges, theirs_taken) = (
            _timed(_learn, documents, config),
            _timed(_learn_by_pattern, documents, config),
        )
        train_s.append(taken)
        theirs_train_s.append(theirs_taken)
        (ours, taken), (theirs, theirs_taken) = (
            _timed(_encode, tokenizer, documents),
            _timed(_encode_by_lists, tokenizer, documents),
        )
        ours_s.append(taken)
        theirs_s.append(theirs_taken)
    num_different = sum(ids.tolist() != [tokenizer.bos, *other] for ids, other in zip(ours, theirs, strict=True))
    return {
        "config": asdict(config),
        "text_bytes": num_bytes,
        "num_documents": len(documents),
        "bytes_per_token": num_bytes / sum(map(len, theirs)),
        "encode_mb_per_cpu_s": num_bytes / 1e6 / statistics.median(ours_s),
        "reference_mb_per_cpu_s": num_bytes / 1e6 / statistics.median(theirs_s),
        "times_reference": _times(theirs_s, ours_s),
        "num_documents_that_differ": num_different,
        "train_cpu_s": statistics.median(train_s),
        "reference_train_cpu_s": statistics.median(theirs_train_s),
        "train_times_reference": _times(theirs_train_s, train_s),
        "merges_are_equal": tokenizer.ranks == merges,
    }


def _timed(call: Callable[..., T], *given: Any) -> tuple[T, float]:
    """What it returns, and its CPU seconds in all threads."""
    started = time.process_time()
    result = call(*given)
    return result, time.process_time() - started


def _times(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(their / our for their, our in zip(theirs, ours, strict=True))


def _learn(documents: list[str], config: TokenizerBenchConfig) -> Tokenizer:
    size = config.max_bytes
    return train_tokenizer(documents, vocab_size=config.vocab_size, max_train_bytes=size, max_doc_bytes=size)


def _learn_by_pattern(documents: list[str], config: TokenizerBenchConfig) -> list[bytes]:
    import rustbpe

    from nanochat_core.tokenizer.patterns import SPLIT_PATTERN
    from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(documents), config.vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]


def _encode(tokenizer: Tokenizer, documents: list[str]) -> list[np.ndarray]:
    encoder = BulkEncoder(tokenizer)
    batches = (documents[start : start + BATCH_DOCS] for start in range(0, len(documents), BATCH_DOCS))
    return [part for ids, lengths in map(encoder.encode, batches) for part in np.split(ids, np.cumsum(lengths)[:-1])]


def _encode_by_lists(tokenizer: Tokenizer, documents: list[str]) -> list[list[int]]:
    return _reference(tokenizer).encode_ordinary_batch(documents, num_threads=1)


def _limited(texts: Iterable[str], max_bytes: int) -> tuple[list[str], int]:
    documents, num_bytes = [], 0
    for text in texts:
        if num_bytes >= max_bytes:
            break
        documents.append(text)
        num_bytes += len(text.encode("utf-8", errors="replace"))
    if not documents:
        raise MissingError("there is no text to encode", hint="--corpus FOLDER with parquet files, or leave it out")
    return documents, num_bytes


def _reference(tokenizer: Tokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "reference",
        pat_str=tokenizer.pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokenizer.ranks)},
        special_tokens={},
    )
