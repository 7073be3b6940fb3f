"""Tokens per CPU second of the loader: rows cut from memory-mapped shards, against encoding the text again each time.

    .venv/bin/python benchmarks/loader.py [--row-len 2049] [--batch-rows 16]

The same measurement as `nanochat bench loader`, on the embedded corpus; prints JSON.
"""

import argparse
import json

from nanochat_core.data.documentation import documents
from nanochat_core.train.bench_loader import LoaderBenchConfig, bench_loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row-len", type=int, default=2049)
    parser.add_argument("--batch-rows", type=int, default=16)
    options = parser.parse_args()
    config = LoaderBenchConfig(row_len=options.row_len, batch_rows=options.batch_rows)
    print(json.dumps(bench_loader(documents(), config), indent=1))


if __name__ == "__main__":
    main()
