"""The base model that the plan describes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.errors import ConfigError
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
from nanochat_core.steps.tokens import SOURCES, tokens

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainSettings


MIX = "sources.json"  # what was taken of each of several sources


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
        mix=mix_settings(plan),
    )


def mix_settings(plan: RunPlan) -> dict[str, Any] | None:
    """Weights, phases and caps of several sources, as the ranks are told them; None of one."""
    if not plan.is_mix:
        return None
    caps = {each.name: each.max_tokens for each in plan.config.corpus.sources if each.max_tokens is not None}
    phases = [{"num_steps": phase.num_steps, "weights": phase.weights} for phase in plan.phases]
    used = {name for phase in plan.phases for name in phase.weights}
    return {"phases": phases, "max_tokens": {name: cap for name, cap in sorted(caps.items()) if name in used}}


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
    if is_taken(run):
        return take(run, "base")
    drawn = draws(run.inputs["tokens"], train_settings(run.plan)) if run.plan.is_mix else {}
    for line in told_draws(drawn, {each.name: each.repeats for each in run.plan.config.corpus.sources}):
        run.note(line)
    metrics = train(run, job)
    if drawn:
        (run.out / MIX).write_text(json.dumps(drawn, indent=1))
    return {**metrics, "sources": drawn} if drawn else metrics


def draws(tokens: Path, settings: "TrainSettings") -> dict[str, dict[str, float]]:
    """What the training takes of each source: tokens, share of all, and how often it goes through it."""
    from nanochat_core.data.draws import mix_order
    from nanochat_core.data.packing import RowIndex

    folders = sorted((tokens / SOURCES).iterdir())
    length = settings.model.sequence_len
    order = mix_order(
        {folder.name: RowIndex.load(folder / "train.rows.npz").num_rows for folder in folders},
        row_tokens=length,
        total_batch_rows=settings.total_batch_rows,
        seed=settings.seed,
        mix=settings.mix or {},
    )
    taken = order.taken(settings.schedule.num_steps)
    total = sum(taken.values())
    return {
        name: {"tokens": rows * length, "share": rows / total, "epochs": rows / order.num_rows[name],
               "tokens_there": order.num_rows[name] * length}
        for name, rows in taken.items()
    }  # fmt: skip


def told_draws(drawn: Mapping[str, Mapping[str, float]], repeats: Mapping[str, float]) -> list[str]:
    """A line for each source; ConfigError where the weights ask for more of one than it may be repeated."""
    lines = [
        f"{name}: {each['share']:.1%} of the tokens, {each['tokens']:,} of its {each['tokens_there']:,}: "
        f"gone through {each['epochs']:.2f} times"
        for name, each in drawn.items()
    ]
    beyond = {name: each["epochs"] for name, each in drawn.items() if each["epochs"] > repeats[name]}
    if beyond:
        told = ", ".join(
            f"{name} {epochs:.2f} times, and its repeats are {repeats[name]:g}" for name, epochs in beyond.items()
        )
        sets = " ".join(f"--set corpus.sources.{name}.repeats={math.ceil(epochs)}" for name, epochs in beyond.items())
        raise ConfigError(
            f"the weights go too often through a source: {told} ({'; '.join(lines)})",
            hint=f"a smaller weight, a shorter training, more text, or {sets}",
        )
    return lines


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
