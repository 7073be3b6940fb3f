"""Measuring a model in child processes, and the words for what came out.

A model is measured by ranks of its own (torchrun where there are several), so this process never touches a GPU; every
single item's outcome is part of the artifact.
"""

import json
from typing import Any

from nanochat_core.pipeline.step import Metrics, StepRun

PACKAGES = ("torch", "numpy", "tiktoken")


def limited(what: str, limit: int | None) -> str:
    """What is asked, for a title."""
    return what if limit is None else f"{what}, {limit:,} items each"


def measure(run: StepRun, module: str, job: dict[str, Any]) -> Metrics:
    """Run an evaluation worker with `job` and what every worker is told; returns its headline numbers."""
    # here: a step that measures nothing loads this module too
    from nanochat_core.base.child import run_child
    from nanochat_core.base.environment import loopback
    from nanochat_core.base.torchrun import command_of_ranks

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
    result = run_child(
        command_of_ranks(module, str(plan), num_processes=runtime.num_processes),
        run.attempt,
        on_record=lambda record: run.progress(record["done"], record["total"], record["text"]),
        environment=loopback(),
        check=run.lease.raise_if_lost,
    )
    if reason := result.get("own_forward"):  # model/probe.py
        run.note(f"measured by the model's own forward, slowly: {reason}")
    return {key: value for key, value in result.items() if key != "status"}
