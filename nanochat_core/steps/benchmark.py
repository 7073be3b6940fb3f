"""The run's models on the chat benchmarks: what fine-tuning started from, the chat model, and it after practice."""

from pathlib import Path
from typing import Any

from nanochat_core.bounds import BENCHMARKS
from nanochat_core.pipeline.measure import PACKAGES, measure
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.benchmarks import benchmarks
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.rl import rl
from nanochat_core.steps.sft import sft
from nanochat_core.steps.tokenizer import tokenizer


def settings(plan: RunPlan) -> dict[str, Any]:
    """How a model is asked."""
    config = plan.config.benchmarks
    chosen = {name: getattr(config, name) for name in ("num_samples", "temperature", "max_answer_tokens")}
    return {**chosen, "seed": plan.config.seed, "dtype": plan.config.pretrain.dtype}


def base_body(run: StepRun) -> Metrics:
    """Multiple choice only: a model that never saw an end of an answer writes until it is stopped."""
    return _measure(run, model=run.inputs["pretrain"], kinds=["choice"])


def chat_body(run: StepRun) -> Metrics:
    return _measure(run, model=run.inputs["sft"], kinds=["choice", "generate"])


def rl_body(run: StepRun) -> Metrics:
    return _measure(run, model=run.inputs["rl"], kinds=["choice", "generate"])


def _measure(run: StepRun, *, model: Path, kinds: list[str]) -> Metrics:
    config = run.plan.config
    told = {
        "model": str(model),
        "tokenizer": str(run.inputs["tokenizer"]),
        "items": str(run.inputs["benchmarks"]),
        "kinds": kinds,
        "num_samples": config.benchmarks.num_samples,
        "temperature": config.benchmarks.temperature,
        "max_answer_tokens": config.benchmarks.max_answer_tokens,
        "seed": config.seed,
        "allow_unsafe_code": config.runtime.allow_unsafe_code,
    }
    return measure(run, "nanochat_core.evals.benchmarks.worker", told)


def headline(metrics: Metrics) -> str:
    score, marks = metrics["chat_core"], metrics["benchmarks"]
    whole = set(marks) == set(BENCHMARKS)
    parts = [] if score is None else [f"{'ChatCORE' if whole else f'mean centred of {len(marks)}'} {score:.4f}"]
    short = [" (limited)"] if any(mark.get("is_limited") for mark in marks.values()) else []
    return ", ".join([*parts, *(f"{name} {mark['accuracy']:.0%}" for name, mark in marks.items())]) + "".join(short)


benchmark_base = Step(
    name="benchmark_base",
    description="The base model on the multiple-choice benchmarks.",
    title=lambda plan: "multiple choice, base model",
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, benchmarks, pretrain),
    body=base_body,
    is_wanted=lambda plan: plan.has_benchmarks,
    needs_gpu=True,
)

benchmark_chat = Step(
    name="benchmark_chat",
    description="The chat model on the chat benchmarks.",
    title=lambda plan: "chat benchmarks",
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, benchmarks, sft),
    body=chat_body,
    is_wanted=lambda plan: plan.has_benchmarks,
    needs_gpu=True,
)

benchmark_rl = Step(
    name="benchmark_rl",
    description="The model after reinforcement learning on the chat benchmarks.",
    title=lambda plan: "chat benchmarks",
    headline=headline,
    settings=settings,
    packages=PACKAGES,
    inputs=(tokenizer, benchmarks, rl),
    body=rl_body,
    is_wanted=lambda plan: plan.has_rl and plan.has_benchmarks,
    needs_gpu=True,
)
