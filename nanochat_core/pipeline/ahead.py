"""What a run would do with each step, before anything runs: found in the store, or made, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from nanochat_core import workspace
from nanochat_core.pipeline.execute import explain
from nanochat_core.pipeline.step import Step, StepKey, step_key
from nanochat_core.pipeline.table import wanted
from nanochat_core.plan import RunPlan
from nanochat_core.store.manifest import Artifact


@dataclass(frozen=True)
class Preview:
    """What a run would do with a step."""

    state: str
    """"cached" or "run"."""
    artifact: Artifact | None
    reasons: list[str]


def preview_key(step: Step, plan: RunPlan, inputs: Mapping[str, Artifact]) -> StepKey:
    """The key of a step whose input artifacts are known."""
    made = inputs.items()
    return step_key(step, plan, {name: a.digest if step.reads_logs else a.result_digest for name, a in made})


def preview(step: Step, plan: RunPlan, inputs: Mapping[str, Artifact | None]) -> Preview:
    """Look a step up before a run; an input that is None is not made yet."""
    space = workspace.current()
    waiting = [name for name, artifact in inputs.items() if artifact is None]
    if waiting:
        return Preview("run", None, [f"after {', '.join(waiting)}"])
    key = preview_key(step, plan, {name: artifact for name, artifact in inputs.items() if artifact is not None})
    read = [str(key.seen)] if plan.verify_inputs and key.seen.stamps else []
    if step.name in plan.fresh:
        return Preview("run", None, ["asked for by --fresh", *read])
    artifact = space.store.find(step.name, key.fingerprint)
    if artifact is not None:
        return Preview("cached", artifact, [f"{each}: none differs" for each in read])
    reasons = [*read, *explain(step, key)]
    if step.name in plan.accept_drift and all(reason.startswith("code ") for reason in reasons):
        return Preview("cached", None, ["accepted although: ", *reasons])
    return Preview("run", None, reasons)


def previews(plan: RunPlan, until: str | None = None) -> dict[str, Preview]:
    """What a run would do with each of its steps up to and including `until`, in order."""
    made: dict[str, Artifact | None] = {}
    seen: dict[str, Preview] = {}
    for name, step in wanted(plan).items():
        seen[name] = preview(step, plan, {source: made[source] for source in step.sources if source in made})
        made[name] = seen[name].artifact
        if name == until:
            break
    return seen
