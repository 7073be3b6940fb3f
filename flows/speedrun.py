"""The pipeline, from raw text to a chat model with a report.

`pipeline` is the whole story: each line is one step, and what it takes is what it depends on. The Prefect flow runs
it with the tasks of `tasks/`; without Prefect the same lines run with the core's own functions.
"""

import time
from collections.abc import Iterator
from typing import Protocol

from prefect import flow

import tasks
from nanochat_core.pipeline.finish import FinishedRun
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config


class Steps(Protocol):
    """`tasks` or `nanochat_core.pipeline.steps`: one function per step."""

    def __getattr__(self, name: str): ...


def pipeline(steps: Steps, plan: RunPlan) -> Iterator[Ref | None]:
    """Run the steps in order, yielding what each one made; whoever stops asking stops the run.

    A step that the plan leaves out (CORE on a laptop without a network) yields None, and so do those that need it.
    """
    yield (corpus := steps.corpus(plan))
    yield (tokenizer := steps.tokenizer(plan, corpus))
    yield steps.encoded_shards(plan, corpus, tokenizer)  # on a cluster, where runtime.scale_out names one
    yield (tokens := steps.tokens(plan, corpus, tokenizer))
    yield (base := steps.pretrain(plan, tokenizer, tokens))
    yield (base_evals := steps.evaluate_base(plan, tokenizer, tokens, base))
    yield (bundle := steps.core_bundle(plan))
    yield (prompts := steps.core_prompts(plan, tokenizer, bundle))
    yield (core := steps.evaluate_core(plan, prompts, base))
    yield (items := steps.benchmarks(plan))
    yield (base_marks := steps.benchmark_base(plan, tokenizer, items, base))
    yield (conversations := steps.conversations(plan, tokenizer, items))
    yield (chat := steps.sft(plan, tokenizer, conversations, base))
    yield (chat_evals := steps.evaluate_chat(plan, tokenizer, tokens, conversations, chat))
    yield (chat_marks := steps.benchmark_chat(plan, tokenizer, items, chat))
    yield steps.report(plan, tokenizer, base, base_evals, core, base_marks, chat, chat_evals, chat_marks)


def run_until(steps: Steps, plan: RunPlan, until: str | None) -> list[Ref]:
    """The refs of all steps up to and including `until` (None: all of them)."""
    refs: list[Ref] = []
    for ref in pipeline(steps, plan):
        if ref is None:
            continue
        refs.append(ref)
        if ref.step == until:
            break
    return refs


@flow(name="speedrun", description="Train a chat model from raw text: cached, resumable, with a report.")
def speedrun(
    preset: str = "tiny",
    overrides: list[str] | None = None,
    until: str | None = None,
    fresh: list[str] | None = None,
    accept_drift: list[str] | None = None,
) -> FinishedRun:
    """Train a chat model from raw text to a report.

    Args:
        preset: Name of a preset: tiny (a laptop, minutes), cpu, d12, gpt2.
        overrides: Changes to the preset, each as section.field=value.
        until: Stop after this step.
        fresh: Steps to make again although they are cached.
        accept_drift: Steps whose artifact is reused although their code changed.
    """
    started_at = time.time()
    config = load_config(preset, overrides or ())
    plan = plan_run(config, fresh=tuple(fresh or ()), accept_drift=tuple(accept_drift or ()))
    refs = run_until(tasks, plan, until)
    return tasks.publish_summary(plan, refs, started_at=started_at)
