"""The base model that the plan describes."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.neutral import identity
from nanochat_core.base.units import count
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.pipeline.training import (
    AS_IT_IS,
    PACKAGES,
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
from nanochat_core.steps.base import base
from nanochat_core.steps.tokenizer import tokenizer
from nanochat_core.steps.tokens import tokens

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainSettings


def settings(plan: RunPlan) -> dict[str, Any]:
    """All that the ranks are told, by value: a plan rule that changes a learning rate changes the key."""
    if plan.is_base_kept:
        return AS_IT_IS
    return {**identity(train_settings(plan)), "head_dim": plan.pretrain.model.head_dim}


def train_settings(plan: RunPlan) -> "TrainSettings":
    """What decides the weights; in no key as code (base/closure.py), since all of it is there by value."""
    from nanochat_core.train.settings import TrainSettings

    config = plan.config.pretrain
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=plan.pretrain.schedule,
        total_batch_rows=plan.pretrain.total_batch_rows,
        seed=plan.config.seed,
        validate_every_steps=config.validate_every_steps,
        validation_rows=math.ceil(config.validation_tokens / plan.pretrain.model.sequence_len),
        dtype=config.dtype,
        fp8=config.fp8,
        document_mask=config.document_mask,
    )


def job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The pretraining of a plan on one node."""
    from nanochat_core.train.settings import TrainJob

    return TrainJob(
        entry="nanochat_core.train.pretrain:build",
        settings=train_settings(plan),
        runtime=runtime_of(plan),
        paths=paths_of(inputs, rows="tokens", checkpoints=checkpoints, work=work, out=out),
    )


def body(run: StepRun) -> Metrics:
    return take(run, "base") if is_taken(run) else train(run, job)


def title(plan: RunPlan) -> str:
    if plan.is_base_kept:
        return "nothing: the model to start from is taken as it is"
    return f"depth {plan.pretrain.model.n_layer}, {count(plan.pretrain.num_tokens)} tokens"


pretrain = Step(
    name="pretrain",
    description="Train the base model that the plan describes; a retry goes on from the last checkpoint.",
    title=title,
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, tokens, base),
    body=body,
    checks=checks,
    job=job,
    needs_gpu=True,
)
