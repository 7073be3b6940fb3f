"""How much faster the matrix products of a training step are in bf16 than in fp32: the most that bf16 alone can give.

    .venv/bin/python benchmarks/matrix_rate.py [--depth 4 6] [--threads 1] [--vocabulary 32768] [--tokens 8192]

Every product of a step at the shapes of `nanochat bench train`, forward, by the input and by the weight, timed by
itself and weighted by how often a step does it; the head in chunks, as the cross-entropy does it. Prints a JSON line
for each depth: GFLOP/s of both, their ratio by shape, and the ratio of the sums.
"""

import argparse
import json
from collections import Counter

import torch
from shapes import model_shape
from timing import median_s

from nanochat_core.base.hardware import pick_device
from nanochat_core.config import GPTConfig
from nanochat_core.model.cross_entropy import CHUNK_TOKENS
from nanochat_core.model.shape import MLP_RATIO, kv_dim

Shape = tuple[int, int, int]  # tokens, columns in, columns out
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    for depth in options.depth:
        shape = model_shape(depth, vocab_size=options.vocabulary, sequence_len=2048)
        counts = products(shape, num_tokens=options.tokens)
        print(json.dumps({"depth": depth, "threads": options.threads} | rates(counts, device, options.repeats)))


def products(shape: GPTConfig, *, num_tokens: int) -> Counter[Shape]:
    """The linear maps of a step and how often each is done."""
    width, n = shape.n_embd, num_tokens
    counts: Counter[Shape] = Counter()
    counts[n, width, width + 2 * kv_dim(shape)] += shape.n_layer
    counts[n, width, width] += shape.n_layer
    counts[n, width, MLP_RATIO * width] += shape.n_layer
    counts[n, MLP_RATIO * width, width] += shape.n_layer
    counts[min(n, CHUNK_TOKENS), width, shape.vocab_size] += max(1, n // CHUNK_TOKENS)
    return counts


def rates(counts: Counter[Shape], device: torch.device, repeats: int) -> dict[str, object]:
    """GFLOP/s in both types over all products of a step, and how many times faster bf16 is."""
    seconds = {dtype: {shape: _seconds(shape, dtype, device, repeats) for shape in counts} for dtype in DTYPES}
    flops = sum(6 * tokens * columns * rows * times for (tokens, columns, rows), times in counts.items())
    totals = {dtype: sum(seconds[dtype][shape] * times for shape, times in counts.items()) for dtype in DTYPES}
    fp32, bf16 = DTYPES
    return {
        "fp32_gflops": flops / totals[fp32] / 1e9,
        "bf16_gflops": flops / totals[bf16] / 1e9,
        "times_faster": totals[fp32] / totals[bf16],
        "by_shape": {"x".join(map(str, shape)): seconds[fp32][shape] / seconds[bf16][shape] for shape in counts},
    }


def _seconds(shape: Shape, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Of the product, and of both products of its backward pass."""
    tokens, columns, rows = shape
    x, grad = (torch.randn(tokens, size, device=device).to(dtype) for size in (columns, rows))
    weight = torch.randn(rows, columns, device=device).to(dtype)
    runs = (lambda: x @ weight.mT, lambda: grad @ weight, lambda: grad.mT @ x)
    return sum(median_s(run, device, num_runs=repeats) for run in runs)


if __name__ == "__main__":
    main()
