"""What the evaluation steps do: the data of benchmarks into artifacts, and models measured on them in child processes.

Kept apart from bodies.py so that either file says one thing. A model is measured by ranks of its own (torchrun where
there are several), so this process never touches a GPU; every single item's outcome is part of the artifact.
"""

import json
import sys
from pathlib import Path
from typing import Any

from nanochat_core.base.child import run_child
from nanochat_core.base.environment import loopback
from nanochat_core.base.torchrun import torchrun
from nanochat_core.pipeline.step import StepRun

Metrics = dict[str, Any]


def evaluate_base(run: StepRun) -> Metrics:
    return _evaluate(run, model=run.inputs["pretrain"], questions=None)


def evaluate_chat(run: StepRun) -> Metrics:
    return _evaluate(run, model=run.inputs["sft"], questions=run.inputs["conversations"])


def evaluate_rl(run: StepRun) -> Metrics:
    return _evaluate(run, model=run.inputs["rl"], questions=run.inputs["conversations"])


def _evaluate(run: StepRun, *, model: Path, questions: Path | None) -> Metrics:
    config = run.plan.config
    job = {
        "model": str(model),
        "tokenizer": str(run.inputs["tokenizer"]),
        "tokens": str(run.inputs["tokens"]),
        "questions": str(questions) if questions else None,
        "is_chat": questions is not None,
        "bpb_tokens": config.evaluate.bpb_tokens,
        "sample_tokens": config.evaluate.sample_tokens,
        "document_mask": config.pretrain.document_mask,
    }
    return measure(run, "nanochat_core.evals.worker", job)


def core_bundle(run: StepRun) -> Metrics:
    from nanochat_core.evals.core.bundle_source import obtain_bundle

    return obtain_bundle(run.plan.config.core, run.out, downloads=run.work / "downloads")


def core_prompts(run: StepRun) -> Metrics:
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


def evaluate_core(run: StepRun) -> Metrics:
    job = {"model": str(run.inputs["pretrain"]), "prompts": str(run.inputs["core_prompts"])}
    return measure(run, "nanochat_core.evals.core.worker", job)


def benchmarks(run: StepRun) -> Metrics:
    from nanochat_core.evals.benchmarks.registry import write_items

    return write_items(run.plan.config.benchmarks, run.out, seed=run.plan.config.seed)


def benchmark_base(run: StepRun) -> Metrics:
    """Multiple choice only: a model that never saw an end of an answer writes until it is stopped."""
    return _benchmark(run, model=run.inputs["pretrain"], kinds=["choice"])


def benchmark_chat(run: StepRun) -> Metrics:
    return _benchmark(run, model=run.inputs["sft"], kinds=["choice", "generate"])


def benchmark_rl(run: StepRun) -> Metrics:
    return _benchmark(run, model=run.inputs["rl"], kinds=["choice", "generate"])


def _benchmark(run: StepRun, *, model: Path, kinds: list[str]) -> Metrics:
    config = run.plan.config
    job = {
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
    return measure(run, "nanochat_core.evals.benchmarks.worker", job)


def measure(run: StepRun, module: str, job: dict[str, Any]) -> Metrics:
    """Run an evaluation worker with `job` and what every worker is told; returns its headline numbers."""
    runtime = run.plan.config.runtime
    told = {
        **job,
        "dtype": run.plan.config.pretrain.dtype,
        "device": runtime.device,
        "num_threads": runtime.num_threads,
        "batch_tokens": runtime.eval_batch_tokens,
        "work": str(run.attempt),
        "out": str(run.out),
    }
    plan = run.attempt / "plan.json"
    plan.write_text(json.dumps(told))
    command = [sys.executable, "-m", module, str(plan)]
    if runtime.num_processes > 1:
        command = torchrun(module, str(plan), num_processes=runtime.num_processes)
    result = run_child(
        command,
        run.attempt,
        on_record=lambda record: run.progress(record["done"], record["total"], record["text"]),
        environment=loopback(),
        check=run.lease.raise_if_lost,
    )
    if reason := result.get("own_forward"):  # model/probe.py
        run.note(f"measured by the model's own forward, slowly: {reason}")
    return {key: value for key, value in result.items() if key != "status"}
