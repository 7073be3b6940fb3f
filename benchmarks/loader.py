"""Tokens per CPU second of the loader: rows cut from memory-mapped shards, against tokenizing the text again each time.

    .venv/bin/python benchmarks/loader.py [--row-len 2049]

Uses the embedded corpus and a vocabulary trained on it; prints JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from nanochat_core.data import documentation
from nanochat_core.data.loader import BatchOrder, PackedDocuments, read_batch
from nanochat_core.data.packing import pack_rows
from nanochat_core.data.shards import write_shards
from nanochat_core.data.tokenize import tokenize_split
from nanochat_core.tokenizer.bpe import train_tokenizer

NUM_STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row-len", type=int, default=2049)
    parser.add_argument("--batch-rows", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = list(documentation.documents())
        tokenizer = train_tokenizer(texts, vocab_size=4096, max_train_bytes=1 << 30, max_doc_bytes=10_000)
        tokenizer.save(folder)
        write_shards(texts, folder / "text")
        started = time.process_time()
        shards = tokenize_split(
            folder / "text", folder / "train", tokenizer_folder=folder, num_workers=1, progress=lambda done, total: None
        )
        tokenize_s = time.process_time() - started
        started = time.process_time()
        pack_rows(shards, row_len=options.row_len, long_documents="split").save(folder / "train.rows.npz")
        pack_s = time.process_time() - started
        rows = PackedDocuments(folder, "train", vocab_size=tokenizer.vocab_size)
        order = BatchOrder(num_rows=rows.num_rows, total_batch_rows=options.batch_rows, seed=0)
        started = time.process_time()
        num_tokens = sum(read_batch(rows, order.rows_at(step)).ids.numel() for step in range(NUM_STEPS))
        load_s = time.process_time() - started
        started = time.process_time()
        cut = sum(len(rows.read(int(row))[0]) for step in range(NUM_STEPS) for row in order.rows_at(step))
        cut_s = time.process_time() - started
    result = {
        "corpus_tokens": shards.num_tokens,
        "row_len": options.row_len,
        "tokenize_tokens_per_cpu_s": shards.num_tokens / tokenize_s,
        "pack_tokens_per_cpu_s": shards.num_tokens / pack_s,
        "load_tokens_per_cpu_s": num_tokens / load_s,
        "cut_rows_tokens_per_cpu_s": cut / cut_s,
        "load_over_tokenize": (num_tokens / load_s) / (shards.num_tokens / tokenize_s),
    }
    print(json.dumps({key: float(np.round(value, 3)) for key, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
