"""Milliseconds and tokens/s of a training step (forward, backward, optimizer) at the shape of `tiny`, in bf16 and fp32.

    .venv/bin/python benchmarks/train_step.py [--threads 2] [--steps 20]

Prints JSON: medians over the steps after the first three, and the ratio of the two, which is what compares machines.
"""

import argparse
import json
import statistics
import time

import torch

from nanochat_core.base.hardware import describe
from nanochat_core.model.gpt import GPT
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

WARMUP_STEPS = 3


def median_step_s(dtype: torch.dtype, num_steps: int) -> tuple[float, int]:
    """(seconds of the median step, tokens per step)."""
    plan = plan_run(load_config("tiny")).pretrain
    model = GPT(plan.model)
    model.init_weights(0)
    model.compute_dtype = dtype
    optimizer = MuonAdamW(model, OptimConfig())
    generator = torch.Generator().manual_seed(0)
    shape = (plan.total_batch_rows, plan.model.sequence_len + 1)
    rows = torch.randint(0, plan.model.vocab_size, shape, generator=generator)
    seconds = []
    for _ in range(WARMUP_STEPS + num_steps):
        started = time.perf_counter()
        (model.loss(rows[:, :-1], rows[:, 1:], reduction="sum") / plan.total_batch_tokens).backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.95, weight_decay=0.0)
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARMUP_STEPS:]), plan.total_batch_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result: dict[str, object] = {"machine": describe().record(), "threads": options.threads}
    medians = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        medians[name], num_tokens = median_step_s(dtype, options.steps)
        result[name] = {"step_ms": 1e3 * medians[name], "tokens_per_s": num_tokens / medians[name]}
    result["bf16_over_fp32"] = medians["fp32"] / medians["bf16"]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
