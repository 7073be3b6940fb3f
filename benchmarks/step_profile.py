"""Where the milliseconds of a training step go: a Chrome trace, and a table by kind of work.

torch's profiler says what each operator took by itself; what it was for shows in the operators that it ran inside of.
Operators that run on one thread after the other add up to the wall time; what no operator accounts for is idle (on a
GPU: the kernels count, not the operators that start them). To be compared with a model of the step, by kind.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nanochat_core.base.errors import ConfigError

OPTIMIZER_RANGE = "optimizer"  # what the caller names its record_function
# kind of work, and what the name of the operator, or of one that it ran inside of, holds; the first that fits
BY_SURROUNDINGS = (
    ("communication", ("c10d::", "gloo:", "nccl:", "record_param_comms")),
    ("optimizer", (OPTIMIZER_RANGE,)),
    ("cross-entropy", ("linearcrossentropy", "cross_entropy", "log_softmax", "nll_loss")),
    ("attention", ("blockedattention", "scaled_dot_product", "flash_attention", "flex_attention", "splitheads")),
)
MATRIX_PRODUCTS = ("mm", "linear", "gemm", "matmul", "addbmm", "baddbmm", "cutlass", "nvjet")
LOOKUP = ("embedding", "index_select", "index_put", "scatter", "gather")
KINDS = ("matrix products", "attention", "elementwise", "lookup", "cross-entropy", "optimizer", "communication", "idle")


def profile_steps(step: Callable[[], None], folder: Path, *, num_steps: int = 3) -> dict[str, Any]:
    """Run `step` under the profiler; leaves trace.json and kinds.md in `folder` and returns milliseconds per step.

    `step` should have run before: the first one compiles and fills caches.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is a file; a profile is a folder", hint="name another one") from error
    has_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_cuda else [])]
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        for _ in range(num_steps):
            step()
        if has_cuda:
            torch.cuda.synchronize()
        wall_ms = 1e3 * (time.perf_counter() - started) / num_steps
    profiler.export_chrome_trace(str(folder / "trace.json"))
    kinds = dict.fromkeys(KINDS, 0.0)
    operators: dict[tuple[str, str], float] = {}
    for kind, name, milliseconds in _times(profiler.events() or [], has_cuda=has_cuda):
        kinds[kind] += milliseconds / num_steps
        operators[kind, name] = operators.get((kind, name), 0.0) + milliseconds / num_steps
    kinds["idle"] = max(0.0, wall_ms - sum(kinds.values()))
    result = {"step_ms": wall_ms, "kinds_ms": kinds, "operators_ms": _largest(operators)}
    (folder / "kinds.md").write_text(table(result))
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown: kinds with their share of the step, then the operators that cost most."""
    lines = ["| kind of work | ms per step | share |", "|---|---|---|"]
    for kind, milliseconds in result["kinds_ms"].items():
        lines.append(f"| {kind} | {milliseconds:.1f} | {milliseconds / result['step_ms']:.0%} |")
    lines += [f"| all | {result['step_ms']:.1f} | |", "", "| operator | kind | ms per step |", "|---|---|---|"]
    lines += [f"| {one['name']} | {one['kind']} | {one['ms']:.2f} |" for one in result["operators_ms"]]
    return "\n".join(lines) + "\n"


def kind_of(names: Iterator[str]) -> str:
    """The kind of an operator, from its own name and those that it ran inside of, its own first."""
    lowered = [name.lower() for name in names]
    for kind, parts in BY_SURROUNDINGS:
        if any(part in name for name in lowered for part in parts):
            return kind
    if any(part in lowered[0] for part in MATRIX_PRODUCTS):
        return "matrix products"
    return "lookup" if any(part in lowered[0] for part in LOOKUP) else "elementwise"


def _times(events: Any, *, has_cuda: bool) -> Iterator[tuple[str, str, float]]:
    """(kind, operator, milliseconds by itself) of everything that was recorded."""
    for event in events:
        is_operator = event.device_type == torch.autograd.DeviceType.CPU
        if not is_operator:
            continue  # its kernels are counted with the operator that started them
        microseconds = event.self_device_time_total if has_cuda else event.self_cpu_time_total
        if microseconds > 0:
            yield kind_of(_surroundings(event)), event.name, microseconds / 1e3


def _surroundings(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _largest(operators: dict[tuple[str, str], float], *, number: int = 25) -> list[dict[str, Any]]:
    ordered = sorted(operators.items(), key=lambda pair: -pair[1])[:number]
    return [{"name": name, "kind": kind, "ms": milliseconds} for (kind, name), milliseconds in ordered]
