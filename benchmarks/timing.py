"""Seconds of a function on the device it runs on: medians of single runs, after runs that compile and warm up.

On a GPU between two events of the stream, so that the time of the launch does not count unless it is the bottleneck; a
buffer larger than the cache is cleared between runs, since weights and activations of a step are not in it either.
"""

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP_RUNS = 3
CACHE_BYTES = 2**28


def median_s(run: Callable[[], object], device: torch.device, *, num_runs: int) -> float:
    """The median of `num_runs` runs."""
    for _ in range(WARM_UP_RUNS if device.type == "cuda" else 1):
        run()
    return statistics.median(_cuda_seconds(run, num_runs) if device.type == "cuda" else _seconds(run, num_runs))


def _seconds(run: Callable[[], object], num_runs: int) -> list[float]:
    found = []
    for _ in range(num_runs):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return found


def _cuda_seconds(run: Callable[[], object], num_runs: int) -> list[float]:
    flush = torch.empty(CACHE_BYTES, dtype=torch.int8, device="cuda")
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(num_runs)]
    for before, after in pairs:
        flush.zero_()
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairs]


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Measured FLOP/s of one large square product: what a model's use of the matrix units is held against."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_s(lambda: a @ b, device, num_runs=10)
