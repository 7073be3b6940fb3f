"""Bits per byte, held-out questions and samples of the run's models: after pretraining, fine-tuning and practice."""

import math
from pathlib import Path
from typing import Any

from nanochat_core.pipeline.measure import PACKAGES, measure
from nanochat_core.pipeline.step import Check, Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.conversations import conversations
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.rl import rl
from nanochat_core.steps.sft import sft
from nanochat_core.steps.tokenizer import tokenizer
from nanochat_core.steps.tokens import tokens


def settings(plan: RunPlan) -> dict[str, Any]:
    config, trained = plan.config.evaluate, plan.config.pretrain
    chosen = {"bpb_tokens": config.bpb_tokens, "sample_tokens": config.sample_tokens}
    return {**chosen, "dtype": trained.dtype, "document_mask": trained.document_mask}


def base_body(run: StepRun) -> Metrics:
    return _measure(run, model=run.inputs["pretrain"], questions=None)


def chat_body(run: StepRun) -> Metrics:
    return _measure(run, model=run.inputs["sft"], questions=run.inputs["conversations"])


def rl_body(run: StepRun) -> Metrics:
    return _measure(run, model=run.inputs["rl"], questions=run.inputs["conversations"])


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    """A model that gives no number was not measured."""
    value = float(metrics["bits_per_byte"])
    return [Check("bits per byte is a number", f"{value:.4f}", "finite", math.isfinite(value))]


def _measure(run: StepRun, *, model: Path, questions: Path | None) -> Metrics:
    config = run.plan.config
    told = {
        "model": str(model),
        "tokenizer": str(run.inputs["tokenizer"]),
        "tokens": str(run.inputs["tokens"]),
        "questions": str(questions) if questions else None,
        "is_chat": questions is not None,
        "bpb_tokens": config.evaluate.bpb_tokens,
        "sample_tokens": config.evaluate.sample_tokens,
        "document_mask": config.pretrain.document_mask,
    }
    return measure(run, "nanochat_core.evals.worker", told)


def bpb(metrics: Metrics) -> str:
    return f"{metrics['bits_per_byte']:.4f} bits per byte of held-out text"


def headline(metrics: Metrics) -> str:
    """Of a chat model: its questions, where it was asked any."""
    parts = [f"{name} {score['accuracy']:.0%}" for name, score in metrics.get("benchmarks", {}).items()]
    return ", ".join(parts) or bpb(metrics)


evaluate_base = Step(
    name="evaluate_base",
    description="Bits per byte and samples of the base model.",
    title=lambda plan: "bits per byte, samples",
    headline=bpb,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, tokens, pretrain),
    body=base_body,
    checks=checks,
    needs_gpu=True,
)

evaluate_chat = Step(
    name="evaluate_chat",
    description="Held-out questions and samples of the chat model.",
    title=lambda plan: "held-out questions, samples",
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, tokens, conversations, sft),
    body=chat_body,
    checks=checks,
    needs_gpu=True,
)

evaluate_rl = Step(
    name="evaluate_rl",
    description="Held-out questions and samples of the model after reinforcement learning.",
    title=lambda plan: "held-out questions, samples",
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, tokens, conversations, rl),
    body=rl_body,
    checks=checks,
    is_wanted=lambda plan: plan.has_rl,
    needs_gpu=True,
)
