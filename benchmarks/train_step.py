"""Tokens per second of training steps, optimizer included, against the step as it is usually first written.

    .venv/bin/python benchmarks/train_step.py [--depth 4 6] [--threads 1 2] [--length 2048] [--rows 4]
        [--vocabulary 32768] [--variants plain,plain-compiled,fp32,bf16] [--first-step]

The same measurement as `nanochat bench train`, for several depths and numbers of threads in one go; prints a JSON line
for each as soon as it is measured.
"""

import argparse
import json

import torch

from nanochat_core.base.hardware import pick_device
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.train.bench_step import StepBenchConfig, bench_step, first_step, usual_variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--variants", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--first-step", action="store_true", help="and the first step of `tiny` in a fresh process")
    options = parser.parse_args()
    keep_freed_memory()
    device = pick_device(options.device)
    for threads in options.threads:
        torch.set_num_threads(threads)
        for depth in options.depth:
            config = StepBenchConfig(
                depth=depth,
                vocab_size=options.vocabulary,
                num_rows=options.rows,
                sequence_len=options.length,
                num_steps=options.steps,
                variants=tuple(options.variants.split(",")) if options.variants else usual_variants(device),
            )
            print(json.dumps(bench_step(config, device=device)), flush=True)
        if options.first_step:
            print(json.dumps({"threads": threads, "tiny_first_step": first_step(threads=threads)}), flush=True)


if __name__ == "__main__":
    main()
