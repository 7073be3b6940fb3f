"""Megabytes per CPU second of encoding, against tiktoken's batches, and seconds to learn a vocabulary.

    .venv/bin/python benchmarks/tokenizer.py [--corpus FOLDER] [--vocabulary 32768] [--megabytes 10]

The same measurement as `nanochat bench tokenizer`, also on text of one's own: parquet files with a column `text`.
"""

import argparse
import json
from pathlib import Path

from nanochat_core.data.documentation import documents
from nanochat_core.data.shards import read_documents
from nanochat_core.train.bench_tokenizer import TokenizerBenchConfig, bench_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, help="folder of parquet files; default: the embedded corpus")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for vocabulary in options.vocabulary:
        config = TokenizerBenchConfig(
            vocab_size=vocabulary, max_bytes=int(1e6 * options.megabytes), num_repeats=options.repeats
        )
        texts = documents() if options.corpus is None else read_documents(options.corpus)
        print(json.dumps(bench_tokenizer(texts, config)), flush=True)


if __name__ == "__main__":
    main()
