"""Tokens per second of decoding: every way of holding the weights against a decoder as it is usually first written.

    .venv/bin/python benchmarks/decode.py [--threads 1 2] [--rows 1 8] [--depth 6] [--repeats 7] [--variants plain,int8]

The same measurement as `nanochat bench decode`, for several numbers of threads and rows in one go; prints a
JSON line for each as soon as it is measured.
"""

import argparse
import json

import torch

from nanochat_core.base.hardware import pick_device
from nanochat_core.inference.decoder_bench import VARIANTS, BenchConfig, bench_decode
from nanochat_core.model.host_memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for rows in options.rows:
            config = BenchConfig(
                depth=options.depth,
                num_rows=rows,
                new_tokens=options.tokens,
                num_repeats=options.repeats,
                variants=tuple(options.variants.split(",")),
            )
            print(json.dumps(bench_decode(config, device=pick_device(options.device))), flush=True)


if __name__ == "__main__":
    main()
