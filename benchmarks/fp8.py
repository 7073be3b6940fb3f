"""fp8 products and casts against bf16: what the matrix units give, and what the casts around them cost.

    .venv/bin/python benchmarks/fp8.py products|casts [--device cuda]

`products`: torch._scaled_mm with fast and with exact sums, and the bf16 product, at six shapes of a depth-24 layer
(forward, both gradients). `casts`: GB/s of finding the largest value, of casting after it, and of the one
kernel that does both and transposes, against plain PyTorch. Prints one JSON object.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
from timing import matrix_rate, median_s

from nanochat_core.base.hardware import describe, pick_device
from nanochat_core.kernels import launch
from nanochat_core.kernels.quantized import PLAIN, RELU_SQUARE, Record, cast_plainly, formed
from nanochat_core.model.fp8 import _cast, _largest

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
TOKENS, WIDTH = 32_768, 1536  # a micro-batch of 16 rows of 2,048; the width of depth 24
HIDDEN = 4 * WIDTH
SHAPES = {  # (rows, inner, columns, dtype of the left side)
    "qkv forward": (TOKENS, WIDTH, 3 * WIDTH, E4M3),
    "fc forward": (TOKENS, WIDTH, HIDDEN, E4M3),
    "proj forward": (TOKENS, HIDDEN, WIDTH, E4M3),
    "fc input gradient": (TOKENS, HIDDEN, WIDTH, E5M2),
    "proj input gradient": (TOKENS, WIDTH, HIDDEN, E5M2),
    "fc weight gradient": (HIDDEN, TOKENS, WIDTH, E5M2),
}
SMALL_DIVISOR = 48  # on a CPU: every dimension divided, still multiples of 16 after rounding


def products(device: torch.device) -> dict[str, object]:
    """TFLOP/s of each shape."""
    rows = []
    for name, (n, inner, m, left) in SHAPES.items():
        sizes = (
            [n, inner, m] if device.type == "cuda" else [max(16, x // SMALL_DIVISOR // 16 * 16) for x in (n, inner, m)]
        )
        a, b = torch.randn(sizes[0], sizes[1], device=device), torch.randn(sizes[2], sizes[1], device=device)
        one, low, high = torch.ones(1, device=device), (a.to(left), b.to(E4M3).t()), (a.bfloat16(), b.bfloat16().t())
        scaled = partial(torch._scaled_mm, *low, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        runs: dict[str, Callable[[], object]] = {
            "bf16": lambda high=high: high[0] @ high[1],
            "exact": partial(scaled, use_fast_accum=False),
            "fast": partial(scaled, use_fast_accum=True),
        }
        row: dict[str, object] = {"shape": name, "sizes": sizes}
        exact = high[0].float() @ high[1].float()
        for kind, run in runs.items():
            seconds = median_s(run, device, num_runs=20 if device.type == "cuda" else 2)
            row[f"{kind}_tflops"] = 2 * sizes[0] * sizes[1] * sizes[2] / seconds / 1e12
            row[f"{kind}_error"] = ((run().float() - exact).norm() / exact.norm()).item()
        rows.append(row)
    return {"matrix_rate_tflops": matrix_rate(device) / 1e12, "rows": rows}


def casts(device: torch.device) -> dict[str, object]:
    """GB/s counted as the bytes that have to move: the input once (twice where two passes are needed), the outputs."""
    shape = (TOKENS, HIDDEN) if device.type == "cuda" else (512, 256)
    x, scale = torch.randn(shape, device=device).bfloat16(), torch.ones(1, device=device)
    record = Record(torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int32, device=device))
    elements = x.numel()
    cast = partial(_cast, x, None, scale, dtype=E4M3, record=record)
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "largest, PyTorch": (2 * elements, lambda: x.abs().amax()),
        "largest": (2 * elements, lambda: _largest(x)),
        "cast, PyTorch": (3 * elements, lambda: (x * scale.bfloat16()).to(E4M3)),
        "cast + largest + transposed, PyTorch": (
            4 * elements,
            lambda: cast_plainly(formed(x, None, source=PLAIN), scale, dtype=E4M3, record=record),
        ),
        "cast + largest + transposed": (4 * elements, partial(cast, source=PLAIN)),
        "relu^2 + cast + largest + transposed": (4 * elements, partial(cast, source=RELU_SQUARE)),
        "copy": (4 * elements, lambda: x.clone()),
    }
    rows = []
    for name, (num_bytes, run) in runs.items():
        seconds = median_s(run, device, num_runs=20 if device.type == "cuda" else 2)
        rows.append({"pass": name, "ms": 1e3 * seconds, "gb_per_s": num_bytes / seconds / 1e9})
    return {"kernels": "Triton" if launch.available(device) else "PyTorch", "shape": shape, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["products", "casts"])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    figures = (products if options.what == "products" else casts)(device)
    print(json.dumps({"machine": describe().record(), "torch": torch.__version__, **figures}))


if __name__ == "__main__":
    main()
