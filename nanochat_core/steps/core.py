"""CORE of the base model in three steps: its data, its items as tokens, and the score with every item's outcome."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.pipeline.data_files import stamps
from nanochat_core.pipeline.measure import limited, measure
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.pipeline.training import PACKAGES
from nanochat_core.plan import RunPlan
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.tokenizer import tokenizer


def bundle_settings(plan: RunPlan) -> dict[str, Any]:
    config = plan.config.core
    if config.source == "path":
        return {"files": stamps(config.path)}
    return {"url": config.url, "sha256": config.sha256}


def bundle_body(run: StepRun) -> Metrics:
    from nanochat_core.evals.core.bundle_source import obtain_bundle

    return obtain_bundle(run.plan.config.core, run.out, downloads=run.work / "downloads")


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


core_bundle = Step(
    name="core_bundle",
    description="Fetch the data of the CORE benchmarks.",
    title=lambda plan: limited("CORE's benchmarks", plan.config.core.max_per_benchmark),
    headline=lambda metrics: f"{metrics['num_benchmarks']} benchmarks, {count(metrics['num_bytes'])}B",
    settings=bundle_settings,
    packages=(),
    body=bundle_body,
    is_wanted=lambda plan: plan.has_core,
)

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
