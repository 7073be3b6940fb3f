"""The chat model: the base model fine-tuned on the conversations."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.neutral import identity
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.pipeline.training import (
    AS_IT_IS,
    PACKAGES,
    SEED_AFTER,
    Folders,
    checks,
    headline,
    is_taken,
    paths_of,
    runtime_of,
    take,
    train,
)
from nanochat_core.plan import RunPlan, optim_values
from nanochat_core.schedules import Schedule
from nanochat_core.steps.conversations import conversations, sequence_len
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.tokenizer import tokenizer

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainSettings


def settings(plan: RunPlan) -> dict[str, Any]:
    """The base's own settings come in through its digest, the number of rows through the conversations'.

    How rows become steps is this module's rule, so it goes in by value, at three sizes.
    """
    if plan.is_chat_kept:
        return AS_IT_IS
    sizes = {num_rows: train_settings(plan, num_rows=num_rows) for num_rows in (100, 1_000, 10_000)}
    steps = {str(num_rows): chosen.schedule.num_steps for num_rows, chosen in sizes.items()}
    return {"epochs": plan.config.sft.epochs, "steps_for_rows": steps, **identity(sizes[1_000])}


def train_settings(plan: RunPlan, *, num_rows: int) -> "TrainSettings":
    """Settings for `num_rows` packed rows per epoch."""
    batch_rows = min(_batch_rows(plan), 1 << (num_rows.bit_length() - 1))  # a power of two divides over ranks
    num_steps = max(1, plan.config.sft.epochs * num_rows // batch_rows)
    return _settings(plan, num_steps=num_steps, total_batch_rows=batch_rows)


def _batch_rows(plan: RunPlan) -> int:
    return max(1, (plan.config.sft.total_batch_tokens or plan.pretrain.total_batch_tokens) // sequence_len(plan))


def _settings(plan: RunPlan, *, num_steps: int, total_batch_rows: int) -> "TrainSettings":
    from nanochat_core.train.settings import TrainSettings

    config = plan.config.sft
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=0,
            warmdown_frac=config.warmdown_frac,
            final_lr_frac=config.final_lr_frac,
            initial_lr_frac=config.lr_frac,
            momentum_warmup_steps=0,
            has_weight_decay=False,
        ),
        total_batch_rows=total_batch_rows,
        seed=plan.config.seed + SEED_AFTER["sft"],
        validate_every_steps=config.validate_every_steps,
        validation_rows=1 << 30,
        dtype=plan.config.pretrain.dtype,
        document_mask=plan.config.pretrain.document_mask,
    )


def job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The fine-tuning of a plan on one node; how many steps it has depends on the conversations."""
    from nanochat_core.train.settings import TrainJob

    num_rows = json.loads((inputs["conversations"] / "counts.json").read_text())["train"]["rows"]
    return TrainJob(
        entry="nanochat_core.train.sft:build",
        settings=train_settings(plan, num_rows=num_rows),
        runtime=runtime_of(plan),
        paths=paths_of(inputs, rows="conversations", checkpoints=checkpoints, work=work, out=out),
    )


def body(run: StepRun) -> Metrics:
    return take(run, "pretrain") if is_taken(run) else train(run, job)


def title(plan: RunPlan) -> str:
    if plan.is_chat_kept:
        return "nothing: the chat model to start from is taken as it is"
    return f"fine-tuning, {plan.config.sft.epochs} epoch{'s' if plan.config.sft.epochs > 1 else ''}"


sft = Step(
    name="sft",
    description="Fine-tune the base model into a chat model; a retry goes on from the last checkpoint.",
    title=title,
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, conversations, pretrain),
    body=body,
    checks=checks,
    job=job,
    needs_gpu=True,
)
