"""The chat model after practice on questions whose answers can be checked."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.neutral import identity
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.pipeline import measure
from nanochat_core.pipeline.step import Check, Metrics, Step, StepRun
from nanochat_core.pipeline.training import (
    SEED_AFTER,
    Folders,
    checks_of_model,
    losses_are_numbers,
    paths_of,
    runtime_of,
    train,
)
from nanochat_core.plan import RunPlan, optim_values
from nanochat_core.schedules import Schedule
from nanochat_core.steps.rl_questions import rl_questions
from nanochat_core.steps.sft import sft
from nanochat_core.steps.tokenizer import tokenizer

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainSettings


def settings(plan: RunPlan) -> dict[str, Any]:
    """The model's own settings come in through its digest, the number of questions through theirs."""
    sizes = {num: train_settings(plan, num_questions=num) for num in (100, 10_000)}
    steps = {str(num): chosen.schedule.num_steps for num, chosen in sizes.items()}
    return {"steps_for_questions": steps, **identity(sizes[10_000])}


def train_settings(plan: RunPlan, *, num_questions: int) -> "TrainSettings":
    """Settings for a set of so many questions."""
    from nanochat_core.train.settings import RLSettings, TrainSettings

    config = plan.config.rl
    num_steps = config.num_steps or max(1, num_questions // config.questions_per_step)
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=0,
            warmdown_frac=1.0,
            final_lr_frac=0.0,
            initial_lr_frac=config.lr_frac,
            momentum_warmup_steps=0,
            has_weight_decay=False,
        ),
        total_batch_rows=config.questions_per_step,
        seed=plan.config.seed + SEED_AFTER["rl"],
        validate_every_steps=config.validate_every_steps,
        validation_rows=config.held_out_questions,
        dtype=plan.config.pretrain.dtype,
        rl=RLSettings(
            samples_per_question=config.samples_per_question,
            temperature=config.temperature,
            top_k=config.top_k,
            max_answer_tokens=config.max_answer_tokens,
            held_out_samples=config.held_out_samples,
        ),
    )


def job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The reinforcement learning of a plan on one node."""
    from nanochat_core.train.settings import TrainJob

    num_questions = json.loads((inputs["rl_questions"] / "counts.json").read_text())["train"]
    return TrainJob(
        entry="nanochat_core.train.rl:build",
        settings=train_settings(plan, num_questions=num_questions),
        runtime=runtime_of(plan),
        paths=paths_of(inputs, rows="rl_questions", checkpoints=checkpoints, work=work, out=out),
    )


def body(run: StepRun) -> Metrics:
    """How the model did before is part of what came out."""
    metrics = train(run, job)
    validations = [record for record in read_records(run.attempt / RECORDS_NAME) if record["event"] == "validate"]
    before = {f"{name}_before": validations[0][name] for name in ("held_out_reward", "standard_error")}
    return {**metrics, **before}


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    reward = metrics["held_out_reward"]
    share = Check("reward is a share", f"{reward:.3f}", "0 to 1", 0 <= reward <= 1)
    losses = losses_are_numbers({"smooth_loss": metrics["smooth_loss"]}, run.attempt / RECORDS_NAME)
    return [losses, share, *checks_of_model(run)]


def headline(metrics: Metrics) -> str:
    before, after = metrics["held_out_reward_before"], metrics["held_out_reward"]
    return f"{metrics['num_steps']:,} steps, held-out reward {before:.0%} -> {after:.0%}"


rl = Step(
    name="rl",
    description="Let the chat model practise; a retry goes on from the last checkpoint.",
    title=lambda plan: f"practice, {plan.config.rl.samples_per_question} answers to each question",
    headline=headline,
    settings=settings,
    packages=measure.PACKAGES,
    inputs=(tokenizer, rl_questions, sft),
    body=body,
    checks=checks,
    job=job,
    is_wanted=lambda plan: plan.has_rl,
    needs_gpu=True,
)
