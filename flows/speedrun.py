"""The pipeline, from raw text to a chat model with a report.

`pipeline` is the whole story: each line is one step, and what it takes is what it depends on. The Prefect flow runs
it with the tasks of `tasks/`; without Prefect the same lines run with the core's own functions.
"""

import time
from collections.abc import Iterator
from typing import Protocol

import tasks
from flows.parameters import Placement, PresetName, Settings, StepName, check_cost, speedrun_name
from flows.placement import placed
from flows.recorded import flow
from nanochat_core.cli.app import check_step, derived_plan
from nanochat_core.pipeline.finish import FinishedRun
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from tasks import policy

DEFAULTS = Settings()


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
    yield (questions := steps.rl_questions(plan))
    yield (rl := steps.rl(plan, tokenizer, questions, chat))
    yield (rl_evals := steps.evaluate_rl(plan, tokenizer, tokens, conversations, rl))
    yield (rl_marks := steps.benchmark_rl(plan, tokenizer, items, rl))
    scores = (base_evals, core, base_marks, chat, chat_evals, chat_marks, rl, rl_evals, rl_marks)
    yield steps.report(plan, tokenizer, base, *scores)


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


@flow(
    name="speedrun",
    description="Train a chat model from raw text: cached, resumable, with a report.",
    flow_run_name=speedrun_name,
    **policy.HOOKS,
)
def speedrun(
    preset: PresetName = "tiny",
    settings: Settings = DEFAULTS,
    overrides: list[str] | None = None,
    placement: Placement = "inline",
    until: StepName | None = None,
    fresh: list[StepName] | None = None,
    accept_drift: list[StepName] | None = None,
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
        accept_drift: Steps whose artifact is reused although their code changed.
        verify_inputs: Read every input file whole, also those above 256 MiB, and say what differs.
    """
    started_at = time.time()
    policy.begin_run()
    sets = [*settings.overrides(), *(overrides or [])]
    plan = derived_plan(preset, sets, fresh=fresh, accept_drift=accept_drift, verify_inputs=verify_inputs)
    check_step(until, plan)
    check_cost(plan, plan.config.runtime.max_cost_usd)
    with placed(placement, plan):
        refs = run_until(tasks, plan, until)
    return tasks.publish_summary(plan, refs, started_at=started_at)
