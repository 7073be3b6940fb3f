"""How fast batches are read: rows cut from memory-mapped tokens, against encoding the text again for every batch.

The second is what a loader does that works from text, the reference. CPU seconds of one process throughout.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from nanochat_core.data.loader import BatchOrder, PackedDocuments, read_batch
from nanochat_core.data.packing import pack_rows
from nanochat_core.data.shards import write_shards
from nanochat_core.data.tokenize import tokenize_split
from nanochat_core.tokenizer.bpe import train_tokenizer

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class LoaderBenchConfig:
    """What is measured."""

    row_len: int = 2049
    batch_rows: int = 16
    vocab_size: int = 4096
    num_steps: int = 200
    max_documents: int | None = None


def bench_loader(texts: Iterable[str], config: LoaderBenchConfig) -> dict[str, Any]:
    """Tokens per CPU second of encoding, packing and reading, as a JSON value."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = list(islice(texts, config.max_documents))
        tokenizer = train_tokenizer(
            documents, vocab_size=config.vocab_size, max_train_bytes=1 << 30, max_doc_bytes=10_000
        )
        tokenizer.save(folder)
        write_shards(documents, folder / "text")
        encode_s, shards = _cpu_s(
            lambda: tokenize_split(
                folder / "text", folder / "train", tokenizer_folder=folder, num_workers=1, progress=lambda *_: None
            )
        )
        pack_s, index = _cpu_s(lambda: pack_rows(shards, row_len=config.row_len, long_documents="split"))
        index.save(folder / "train.rows.npz")
        rows = PackedDocuments(folder, "train", vocab_size=tokenizer.vocab_size)
        order = BatchOrder(num_rows=rows.num_rows, total_batch_rows=config.batch_rows, seed=0)
        steps = range(config.num_steps)
        load_s, loaded = _cpu_s(lambda: sum(read_batch(rows, order.rows_at(step)).ids.numel() for step in steps))
        cut_s, cut = _cpu_s(lambda: sum(len(rows.read(int(r))[0]) for step in steps for r in order.rows_at(step)))
    return {
        "config": asdict(config),
        "corpus_tokens": shards.num_tokens,
        "tokens_read": loaded,
        "encode_tokens_per_cpu_s": shards.num_tokens / encode_s,
        "pack_tokens_per_cpu_s": shards.num_tokens / pack_s,
        "load_tokens_per_cpu_s": loaded / load_s,
        "cut_rows_tokens_per_cpu_s": cut / cut_s,
        "times_reference": loaded / load_s / (shards.num_tokens / encode_s),
    }


def _cpu_s(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result
