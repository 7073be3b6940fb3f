"""Every rung of the attention ladder, forward and backward, at the full context and with a window.

    .venv/bin/python benchmarks/attention.py [--device cuda] [--rows 16] [--tokens 2048] [--heads 12] [--windows 512]

Prints one JSON object: for each case what the ladder chooses, and for each rung milliseconds, TFLOP/s (of the pairs
that are really visible) and its largest error in the self-test, or why it does not run here.
"""

import argparse
import json
from functools import partial

import torch
from timing import median_s
from torch import Tensor

from nanochat_core.base.errors import HardwareError
from nanochat_core.base.hardware import describe, pick_device
from nanochat_core.model.attention_ladder import RUNGS, Attend, Case, resolve, self_test

NUM_RUNS = 20
SMALL = {"rows": 1, "tokens": 256, "heads": 2, "head_dim": 32, "windows": [64]}
LARGE = {"rows": 16, "tokens": 2048, "heads": 12, "head_dim": 128, "windows": [512]}


def visible_pairs(tokens: int, window: int) -> int:
    """Pairs of a query and a key it sees."""
    return sum(min(position, window) + 1 for position in range(tokens))


def measure(attend: Attend, inputs: list[Tensor], grad: Tensor, *, window: int, num_runs: int) -> dict[str, float]:
    """Seconds of a forward pass, and of a forward and a backward pass."""
    device = grad.device

    def forward() -> Tensor:
        return attend(*inputs, window=window, documents=None)

    def both() -> None:
        torch.autograd.grad(forward(), inputs, grad)

    forward_s, both_s = (median_s(run, device, num_runs=num_runs) for run in (forward, both))
    rows, heads, tokens, head_dim = inputs[0].shape
    flops = 4 * rows * heads * head_dim * visible_pairs(tokens, window)
    return {
        "forward_ms": 1e3 * forward_s,
        "backward_ms": 1e3 * (both_s - forward_s),
        "forward_tflops": flops / forward_s / 1e12,
        "both_tflops": 3.5 * flops / both_s / 1e12,  # backward: five products to the forward's two
    }


def rung_figures(name: str, case: Case, inputs: list[Tensor], grad: Tensor, *, window: int) -> dict[str, object]:
    """Figures of one rung, or the reason why there are none."""
    try:
        backend = resolve(case, forced_name=name)
    except HardwareError as error:
        return {"rung": name, "refused": str(error).rpartition(f"no {name}: ")[2]}
    num_runs = NUM_RUNS if grad.is_cuda else 2
    figures = measure(backend.attend, inputs, grad, window=window, num_runs=num_runs)
    return {"rung": name, "error": self_test(backend.attend, case), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    for name in ("rows", "tokens", "heads", "head-dim"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--windows", type=int, nargs="+")
    options = vars(parser.parse_args())
    device = pick_device(options.pop("device"))
    sizes = (LARGE if device.type == "cuda" else SMALL) | {key: value for key, value in options.items() if value}
    shape = (sizes["rows"], sizes["tokens"], sizes["heads"], sizes["head_dim"])
    make = partial(torch.randn, shape, device=device, dtype=torch.bfloat16)
    inputs = [make().transpose(1, 2).requires_grad_() for _ in range(3)]  # as kernels/heads.py hands them on
    grad = make()
    cases = []
    for window in (sizes["tokens"], *sizes["windows"]):
        is_full = window >= sizes["tokens"] - 1
        case = Case(device=device, dtype=torch.bfloat16, head_dim=sizes["head_dim"], is_full=is_full)
        chosen = resolve(case)
        rungs = [rung_figures(name, case, inputs, grad, window=window) for name in RUNGS]
        cases.append({"window": window, "chosen": chosen.name, "reason": chosen.reason, "rungs": rungs})
    print(json.dumps({"machine": describe().record(), "torch": torch.__version__, "sizes": sizes, "cases": cases}))


if __name__ == "__main__":
    main()
