"""CORE of the base model: its items as tokens, and the score with every item's outcome."""

from nanochat_core.base.units import count
from nanochat_core.pipeline.measure import measure
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.pipeline.training import PACKAGES
from nanochat_core.steps.core_bundle import core_bundle
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.tokenizer import tokenizer


def prompts_body(run: StepRun) -> Metrics:
    from nanochat_core.evals.core.bundle import read_bundle
    from nanochat_core.evals.core.prompts import write_prompts
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    return write_prompts(
        read_bundle(run.inputs["core_bundle"]),
        Tokenizer.load(run.inputs["tokenizer"]),
        run.out,
        max_per_benchmark=run.plan.config.core.max_per_benchmark,
        progress=run.progress,
    )


def score_body(run: StepRun) -> Metrics:
    told = {"model": str(run.inputs["pretrain"]), "prompts": str(run.inputs["core_prompts"])}
    return measure(run, "nanochat_core.evals.core.worker", told)


def headline(metrics: Metrics) -> str:
    score = f"CORE {metrics['core']:.4f} ± {metrics['core_standard_error']:.4f}"
    whole = metrics["is_complete"] and metrics["max_per_benchmark"] is None
    return score if whole else f"{score} (of {metrics['num_items']:,} items in {metrics['num_benchmarks']} benchmarks)"


core_prompts = Step(
    name="core_prompts",
    description="Render and tokenize CORE's items.",
    title=lambda plan: "rendered and tokenized",
    headline=lambda metrics: f"{metrics['num_items']:,} items, {count(metrics['num_tokens'])} tokens",
    settings=lambda plan: {"max_per_benchmark": plan.config.core.max_per_benchmark},
    packages=("tiktoken", "numpy"),
    inputs=(tokenizer, core_bundle),
    body=prompts_body,
    is_wanted=lambda plan: plan.has_core,
)

evaluate_core = Step(
    name="evaluate_core",
    description="CORE of the base model.",
    title=lambda plan: "CORE of the base model",
    headline=headline,
    settings=lambda plan: {"dtype": plan.config.pretrain.dtype},
    packages=PACKAGES,
    inputs=(core_prompts, pretrain),
    body=score_body,
    is_wanted=lambda plan: plan.has_core,
    needs_gpu=True,
)
