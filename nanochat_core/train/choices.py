"""What a training's machine decides at its start, each in a line with its reason: falling back in silence costs days.

None of it is part of the result's identity: where the settings name a compute type or fp8 that is what is used, and
the rest changes how sums are rounded, as another machine does.
"""

from dataclasses import dataclass, field

import torch

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.hardware import has_fast_bf16, matmul_tflops, pick_dtype
from nanochat_core.model import attention_ladder
from nanochat_core.model.attention_ladder import Case
from nanochat_core.model.documents import Documents
from nanochat_core.model.flex_attention import allow_shapes
from nanochat_core.model.fp8 import enable_fp8, pick_scaling
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import window_sizes
from nanochat_core.train.fit import rows_that_fit
from nanochat_core.train.settings import TrainJob


@dataclass
class Choices:
    """What was decided so far, for the record of the start and for people."""

    told: list[str] = field(default_factory=list)
    batch_rows: int = 1
    """Of one pass on a device."""
    machine_tflops: float = 0.0
    """Of the slowest rank: what the speed of nights is compared by (gate/compared.py)."""

    def record(self) -> dict[str, object]:
        rows = {"device_batch_rows": self.batch_rows, "choices": self.told}
        return rows | ({"machine_tflops": self.machine_tflops} if self.machine_tflops else {})


def measure_machine(choices: Choices, model: GPT, *, world: World) -> None:
    """Time products of matrices in the model's compute type, on every rank at once."""
    measured = matmul_tflops(model.device, model.compute_dtype)
    choices.machine_tflops = distributed.least(round(measured * 1e6), world) / 1e6


def prepare_products(model: GPT, job: TrainJob, *, device: torch.device) -> Choices:
    """Set the model's compute type, fp8 and attention; the model is on its device, its optimizer not made yet."""
    settings, choices = job.settings, Choices()
    model.compute_dtype = pick_dtype(settings.dtype, device)
    name = str(model.compute_dtype).removeprefix("torch.")
    scaled = ", with a scaled loss" if model.compute_dtype == torch.float16 else ""
    if settings.dtype != "auto":
        choices.told.append(f"{name}{scaled}, as asked")
    else:
        able = "multiplies bf16" if has_fast_bf16(device) else "would only emulate bf16"
        choices.told.append(f"{name}{scaled}: this {device.type} {able}")
    scaling, reason = None, ""
    if settings.fp8 == "auto" and device.type != "cuda":
        pass  # nobody expects it there
    elif settings.fp8 == "auto" and model.compute_dtype != torch.bfloat16:
        reason = f"no fp8: the rest is {name}"
    elif settings.fp8 != "off":
        asked = None if settings.fp8 == "auto" else settings.fp8
        scaling, reason = pick_scaling(asked, depth=model.config.n_layer, device=device)
    if scaling is not None:
        enable_fp8(model, scaling)
    choices.told += [reason] if reason else []
    choices.told += _attention(model, job, device)
    return choices


def choose_rows(
    choices: Choices, model: GPT, job: TrainJob, *, bos: int | None, num_rows: int, length: int, world: World
) -> None:
    """Decide how many of this rank's `num_rows` rows of a batch, of `length` tokens each, go through at once."""
    if job.runtime.device_batch_rows is not None:
        # agreed on as a measured number is: after a lack of memory one node alone knows a number
        choices.batch_rows = distributed.least(job.runtime.device_batch_rows, world)
        return

    def loss(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return model.loss(ids, targets, reduction="sum", documents=Documents.of(ids, bos=bos))

    found, why = rows_that_fit(
        model, loss, most=num_rows, length=length, recall=f"{job.runtime.attention}, documents {bos}",
        memory=job.runtime.measured, world=world,
    )  # fmt: skip
    choices.batch_rows = found if model.device.type == "cuda" else distributed.least(found, world)
    choices.told.append(f"{choices.batch_rows} rows in a pass: {why}")


def compile_blocks(model: GPT, *, mode: str | None = None) -> None:
    """Compile each layer by itself: one compilation serves all of a kind, and gradients leave layer by layer."""
    allow_shapes()
    for block in model.layers:
        block.compile(dynamic=False, mode=mode)


def compile_as_asked(choices: Choices, model: GPT, job: TrainJob) -> None:
    """`runtime.compile`."""
    if job.runtime.compile == "none":
        return
    if job.runtime.compile not in ("blocks", "max-autotune"):
        raise ConfigError(f"there is no runtime.compile {job.runtime.compile!r}", hint="none, blocks or max-autotune")
    if model.fp8 is not None:
        raise ConfigError(
            f"runtime.compile = {job.runtime.compile} does not go together with fp8: each layer's scales are a "
            "compilation of their own",
            hint="--set runtime.compile=none, or --set pretrain.fp8=off",
        )
    mode = "max-autotune-no-cudagraphs" if job.runtime.compile == "max-autotune" else None
    compile_blocks(model, mode=mode)
    choices.told.append(f"layers are compiled ({job.runtime.compile}), as asked: the first steps wait for it")


def _attention(model: GPT, job: TrainJob, device: torch.device) -> list[str]:
    """Resolve every case that the training will have, so that what is refused is refused now; what GPUs may choose."""
    chosen = None if job.runtime.attention == "auto" else job.runtime.attention
    attention_ladder.force(chosen)
    config, told = model.config, list[str]()
    for is_full in sorted({window >= config.sequence_len - 1 for window in window_sizes(config)}):
        case = Case(
            device=device,
            dtype=model.compute_dtype,
            head_dim=config.head_dim,
            is_full=is_full,
            has_groups=config.n_kv_head != config.n_head,
            has_documents=job.settings.document_mask,
            has_free_length=attention_ladder.has_free_lengths(),
        )
        found = attention_ladder.resolve(case, forced_name=chosen)
        told.append(f"attention {found.name} for {case}: {found.reason}")
    return told if device.type == "cuda" else [f"{found.name} attention, the fastest on {device.type}"]
