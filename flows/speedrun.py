"""The pipeline, from raw text to a chat model with a report.

`pipeline` is the whole story: each line is one step, and what it takes is what it depends on. A step's file is
nanochat_core/steps. The Prefect flow runs each as a task (`tasks.make`); without Prefect the core runs the same lines.
"""

import time
from collections.abc import Iterator
from typing import Protocol

from flows.parameters import DriftName, Placement, PresetName, Settings, StepName, check_cost, speedrun_name
from flows.recorded import flow
from nanochat_core.cli.app import check_step, derived_plan
from nanochat_core.pipeline.finish import FinishedRun
from nanochat_core.pipeline.step import Ref, Step
from nanochat_core.plan import RunPlan
from nanochat_core.steps.base import base
from nanochat_core.steps.benchmark import benchmark_base, benchmark_chat, benchmark_rl
from nanochat_core.steps.benchmarks import benchmarks
from nanochat_core.steps.conversations import conversations
from nanochat_core.steps.core import core_prompts, evaluate_core
from nanochat_core.steps.core_bundle import core_bundle
from nanochat_core.steps.corpus import corpus
from nanochat_core.steps.decontaminate import decontaminate
from nanochat_core.steps.deduplicate import deduplicate
from nanochat_core.steps.evaluate import evaluate_base, evaluate_chat, evaluate_rl
from nanochat_core.steps.filter_language import filter_language
from nanochat_core.steps.filter_quality import filter_quality
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.report import report
from nanochat_core.steps.rl import rl
from nanochat_core.steps.rl_questions import rl_questions
from nanochat_core.steps.sft import sft
from nanochat_core.steps.tokenizer import tokenizer
from nanochat_core.steps.tokens import tokens

DEFAULTS = Settings()


class Make(Protocol):
    """Runs one step: `tasks.make`, or `nanochat_core.pipeline.execute.make` without Prefect."""

    def __call__(self, step: Step, plan: RunPlan, /, *refs: Ref | None) -> Ref | None: ...


def pipeline(make: Make, plan: RunPlan) -> Iterator[Ref | None]:
    """Run the steps in order, yielding what each one made; whoever stops asking stops the run.

    A step that the plan leaves out (CORE on a laptop without a network) yields None, and so do those that need it.
    """
    yield (text := make(corpus, plan))
    yield (spoken := make(filter_language, plan, text))
    text = spoken or text
    yield (good := make(filter_quality, plan, text))
    text = good or text
    yield (once := make(deduplicate, plan, text))
    text = once or text
    yield (bundle := make(core_bundle, plan))
    yield (items := make(benchmarks, plan))
    yield (unseen := make(decontaminate, plan, text, bundle, items))
    text = unseen or text
    yield (begun := make(base, plan))
    yield (vocabulary := make(tokenizer, plan, text, begun))
    yield (rows := make(tokens, plan, text, vocabulary))
    yield (model := make(pretrain, plan, vocabulary, rows, begun))
    yield (model_evals := make(evaluate_base, plan, vocabulary, rows, model))
    yield (prompts := make(core_prompts, plan, vocabulary, bundle))
    yield (core := make(evaluate_core, plan, prompts, model))
    yield (model_marks := make(benchmark_base, plan, vocabulary, items, model))
    yield (talks := make(conversations, plan, vocabulary, items))
    yield (chat := make(sft, plan, vocabulary, talks, model))
    yield (chat_evals := make(evaluate_chat, plan, vocabulary, rows, talks, chat))
    yield (chat_marks := make(benchmark_chat, plan, vocabulary, items, chat))
    yield (questions := make(rl_questions, plan))
    yield (practised := make(rl, plan, vocabulary, questions, chat))
    yield (rl_evals := make(evaluate_rl, plan, vocabulary, rows, talks, practised))
    yield (rl_marks := make(benchmark_rl, plan, vocabulary, items, practised))
    scores = (model_evals, core, model_marks, chat, chat_evals, chat_marks, practised, rl_evals, rl_marks)
    yield make(report, plan, vocabulary, model, *scores)


def run_until(make: Make, plan: RunPlan, until: str | None) -> list[Ref]:
    """The refs of all steps up to and including `until` (None: all of them)."""
    refs: list[Ref] = []
    for ref in pipeline(make, plan):
        if ref is None:
            continue
        refs.append(ref)
        if ref.step == until:
            break
    return refs


@flow(
    name="speedrun",
    description="Train a chat model from raw text: cached, resumable, with a report.",
    flow_run_name=speedrun_name,
    has_steps=True,
)
def speedrun(
    preset: PresetName = "tiny",
    settings: Settings = DEFAULTS,
    overrides: list[str] | None = None,
    placement: Placement = "inline",
    until: StepName | None = None,
    fresh: list[StepName] | None = None,
    accept_drift: list[DriftName] | None = None,
    verify_inputs: bool = False,
) -> FinishedRun:
    """Train a chat model from raw text to a report.

    Args:
        preset: The size to start from. tiny: minutes on a laptop. cpu: half an hour. d12: nightly. gpt2: the speedrun.
        settings: What people change most. Leave a field empty to keep what the preset says.
        overrides: Any other setting, each as section.field=value, for example pretrain.depth=4; they win.
        placement: Where GPU steps run. inline: in this run's own process. pool: each on a worker of the gpu pool.
            auto: on the pool where it has a live worker, else here where this machine has a GPU, else it waits for one.
        until: The last step of this run; empty means all of them.
        fresh: Steps to make again although they are cached.
        accept_drift: Steps whose artifact is reused, with what they are made from, although code or packages changed;
            all: whatever can be.
        verify_inputs: Read every input file whole, also those above 256 MiB, and say what differs.
    """
    from flows.placement import placed
    from tasks import make, policy, publish_summary

    started_at = time.time()
    policy.begin_run()
    sets = [*settings.overrides(), *(overrides or [])]
    plan = derived_plan(preset, sets, fresh=fresh, accept_drift=accept_drift, verify_inputs=verify_inputs)
    check_step(until, plan)
    check_cost(plan, plan.config.runtime.max_cost_usd)
    with placed(placement, plan):
        refs = run_until(make, plan, until)
    return publish_summary(plan, refs, started_at=started_at)
