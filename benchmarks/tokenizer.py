"""How fast text is encoded and a vocabulary is learnt, in one process.

The reference is tiktoken's `encode_ordinary_batch` with one thread, the usual way to encode a corpus: a pool and a
Python list for every document. Ours makes an array of each. Both take turns, and their tokens are compared.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import tiktoken

from nanochat_core.base.errors import MissingError
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerBenchConfig:
    """What is measured."""

    vocab_size: int = 4096
    max_bytes: int = 10_000_000
    """Of text; all of it is encoded at each repeat."""
    num_repeats: int = 5


def bench_tokenizer(texts: Iterable[str], config: TokenizerBenchConfig) -> dict[str, Any]:
    """Megabytes per CPU second, as a JSON value; medians over the repeats."""
    documents, num_bytes = _limited(texts, config.max_bytes)
    started, started_cpu = time.perf_counter(), time.process_time()
    tokenizer = train_tokenizer(
        documents, vocab_size=config.vocab_size, max_train_bytes=config.max_bytes, max_doc_bytes=config.max_bytes
    )
    train_s, train_cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    reference = _reference(tokenizer)
    ours_s, theirs_s, num_tokens = [], [], 0
    for _ in range(config.num_repeats):
        started_cpu = time.process_time()
        ours = [tokenizer.encode_to_numpy(text) for text in documents]
        middle = time.process_time()
        theirs = reference.encode_ordinary_batch(documents, num_threads=1)
        theirs_s.append(time.process_time() - middle)
        ours_s.append(middle - started_cpu)
        num_tokens = sum(len(ids) for ids in ours)
        num_different = sum(list(ids) != other for ids, other in zip(ours, theirs, strict=True))
    return {
        "config": asdict(config),
        "text_bytes": num_bytes,
        "num_documents": len(documents),
        "bytes_per_token": num_bytes / num_tokens,
        "encode_mb_per_cpu_s": num_bytes / 1e6 / statistics.median(ours_s),
        "reference_mb_per_cpu_s": num_bytes / 1e6 / statistics.median(theirs_s),
        "times_reference": statistics.median(b / a for a, b in zip(ours_s, theirs_s, strict=True)),
        "num_documents_that_differ": num_different,
        "train_s": train_s,
        "train_cpu_s": train_cpu_s,
    }


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
