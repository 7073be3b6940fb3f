"""How fast a training step is: forward, backward and optimizer, against the same step as it is usually first written.

Every way of training takes turns, a step each, on the same batches from the same weights: on a busy machine ratios of
neighbouring steps hold where figures of two runs do not, and the loss curves show that all learn the same. CPU
seconds are given beside the wall's; of several threads they are the sum.
"""

import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reference_step import PlainLoss
from benchmarks.shapes import check_bench, model_shape
from benchmarks.step_profile import OPTIMIZER_RANGE, profile_steps
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.hardware import cpu_flags, has_fast_bf16
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.plan import REFERENCE_BATCH_TOKENS, plan_run
from nanochat_core.presets import load_config
from nanochat_core.train.choices import compile_blocks

PLAIN, PLAIN_COMPILED, FP32, BF16, BLOCKS_COMPILED = "plain", "plain-compiled", "fp32", "bf16", "bf16-blocks-compiled"
VARIANTS = (PLAIN, PLAIN_COMPILED, FP32, BF16, BLOCKS_COMPILED)
WARM_UP_STEPS = 2
LR_WARM_UP_STEPS = 5
FOLLOWS_FRAC = 0.8  # of the ids that follow from the one before: there is something to learn
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class StepBenchConfig:
    """What is measured; by default at the context and the vocabulary that nanochat trains with."""

    depth: int = 4
    vocab_size: int = 32768
    num_rows: int = 4
    sequence_len: int = 2048
    num_steps: int = 5
    variants: tuple[str, ...] = (PLAIN, FP32, BF16)

    def __post_init__(self) -> None:
        check_bench(self, VARIANTS)


@dataclass
class Trainee:
    """One way of training, with weights of its own."""

    name: str
    optimizer: MuonAdamW
    loss: Loss
    steps_s: list[float] = field(default_factory=list)
    steps_cpu_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, ids: Tensor, targets: Tensor) -> None:
        """One step of the real thing, timed; the loss is read, as the training loop does."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        loss = self.loss(ids, targets)
        (loss / targets.numel()).backward()
        with torch.profiler.record_function(OPTIMIZER_RANGE):
            rate = min(1.0, (len(self.losses) + 1) / LR_WARM_UP_STEPS)
            self.optimizer.step(lr_multiplier=rate, momentum=0.9, weight_decay=0.1)
        self.optimizer.zero_grad()
        self.losses.append(loss.item() / targets.numel())
        self.steps_s.append(time.perf_counter() - wall_s)
        self.steps_cpu_s.append(time.process_time() - cpu_s)


def bench_step(config: StepBenchConfig, *, device: torch.device) -> dict[str, Any]:
    """Figures of all variants as a JSON value; medians over the steps after the first two."""
    trainees = [trainee(name, config, device=device) for name in config.variants]
    for number in range(WARM_UP_STEPS + config.num_steps):
        ids, targets = batch(config, number, device=device)
        for one in trainees if number % 2 == 0 else trainees[::-1]:
            one.step(ids, targets)
    base = next((one for one in trainees if one.name == PLAIN_COMPILED), trainees[0])
    return {
        "config": asdict(config),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_flags": sorted(cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "reference": base.name,
        "variants": {one.name: _figures(one, base, config) for one in trainees},
    }


def usual_variants(device: torch.device) -> tuple[str, ...]:
    """The reference as it is usually run, compiled where there is a compiler, and what we train with."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    can_compile = device.type == "cuda" or any(name and shutil.which(name) for name in compilers)
    return (PLAIN_COMPILED if can_compile else PLAIN, BF16 if has_fast_bf16(device) else FP32)


def profile_variant(name: str, config: StepBenchConfig, folder: Path, *, device: torch.device) -> dict[str, Any]:
    """The kinds of work in a step of one variant; `folder` gets the trace and the table."""
    one = trainee(name, config, device=device)
    ids, targets = batch(config, 0, device=device)
    for _ in range(WARM_UP_STEPS):
        one.step(ids, targets)
    return {"variant": name, **profile_steps(lambda: one.step(ids, targets), folder)}


def trainee(name: str, config: StepBenchConfig, *, device: torch.device) -> Trainee:
    """A variant, at its first step; all start from the same weights."""
    if name in (BF16, BLOCKS_COMPILED) and not has_fast_bf16(device):
        raise HardwareError(
            f"the variant {name} needs a device that multiplies bf16, {device} does not",
            hint=f"--variants {PLAIN},fp32",
        )
    model = GPT(model_shape(config.depth, vocab_size=config.vocab_size, sequence_len=config.sequence_len))
    model.init_weights(0)
    model.to(device)
    model.compute_dtype = torch.bfloat16 if name in (BF16, BLOCKS_COMPILED) else torch.float32
    # the plan's rule for a batch of this size; at full rates even two ways in fp32 part within ten steps
    lr_scale = math.sqrt(config.num_rows * config.sequence_len / REFERENCE_BATCH_TOKENS)
    optimizer = MuonAdamW(model, OptimConfig(lr_scale=lr_scale))
    if name == BLOCKS_COMPILED:
        compile_blocks(model)
    if name in (PLAIN, PLAIN_COMPILED):
        plain: Loss = PlainLoss(model, num_tokens=config.sequence_len)
        return Trainee(name, optimizer, torch.compile(plain, dynamic=False) if name == PLAIN_COMPILED else plain)
    return Trainee(name, optimizer, lambda ids, targets: model.loss(ids, targets, reduction="sum"))


def batch(config: StepBenchConfig, number: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and targets (B, T) in which the next id mostly follows from the last one."""
    generator = torch.Generator().manual_seed(number)
    shape = (config.num_rows, config.sequence_len + 1)
    drawn = torch.randint(0, min(config.vocab_size, 512), shape, generator=generator)
    follows = torch.rand(shape, generator=generator) < FOLLOWS_FRAC
    for at in range(1, shape[1]):
        drawn[:, at] = torch.where(follows[:, at], (7 * drawn[:, at - 1] + 3) % 509, drawn[:, at])
    drawn %= config.vocab_size
    return drawn[:, :-1].contiguous().to(device), drawn[:, 1:].contiguous().to(device)


def _figures(one: Trainee, base: Trainee, config: StepBenchConfig) -> dict[str, object]:
    num_tokens = config.num_rows * config.sequence_len
    steps_s, cpu_s = one.steps_s[WARM_UP_STEPS:], one.steps_cpu_s[WARM_UP_STEPS:]
    base_s, base_cpu_s = base.steps_s[WARM_UP_STEPS:], base.steps_cpu_s[WARM_UP_STEPS:]
    return {
        "tokens_per_s": num_tokens / statistics.median(steps_s),
        "tokens_per_cpu_s": num_tokens / statistics.median(cpu_s),
        "step_ms": 1e3 * statistics.median(steps_s),
        "first_step_s": one.steps_s[0],
        "last_loss": one.losses[-1],
        "times_reference": statistics.median(b / a for a, b in zip(steps_s, base_s, strict=True)),
        "times_reference_cpu": statistics.median(b / a for a, b in zip(cpu_s, base_cpu_s, strict=True)),
        "loss_difference": max(abs(a - b) / b for a, b in zip(one.losses, base.losses, strict=True)),
    }


def first_step(*, threads: int | None = None) -> dict[str, float]:
    """Seconds from the start of a process to the end of the first optimizer step at the shape of `tiny`."""
    code = f"from benchmarks.train_step import take_first_step; take_first_step({threads})"
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[1], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - started, "cpu_s": cpu_s}


def take_first_step(threads: int | None) -> None:
    """What `first_step` times: model, optimizer and one step, on the CPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_run(load_config("tiny")).pretrain
    model = GPT(plan.model)
    model.init_weights(0)
    model.compute_dtype = torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32
    one = Trainee("tiny", MuonAdamW(model, OptimConfig()), lambda i, t: model.loss(i, t, reduction="sum"))
    rows = torch.zeros(plan.total_batch_rows, plan.model.sequence_len + 1, dtype=torch.int64)
    one.step(rows[:, :-1], rows[:, 1:])
