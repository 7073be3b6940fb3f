"""All steps, in the order in which a run makes them, and what a run would do with each before anything runs.

The table is whatever stands in nanochat_core/steps. A step comes after those that it reads; of several that could,
first what the report reads, in its order, so that the table is in the flow's order (flows/speedrun.py). What the report
does not read comes as soon as it can.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

from nanochat_core import steps, workspace
from nanochat_core.base.errors import MissingError
from nanochat_core.pipeline import unfinished
from nanochat_core.pipeline.execute import accepted, explain
from nanochat_core.pipeline.step import Step, StepKey, step_key
from nanochat_core.plan import RunPlan
from nanochat_core.steps.report import report
from nanochat_core.store.manifest import Artifact


def _found() -> dict[str, Step]:
    found: dict[str, Step] = {}
    for module in iter_modules(steps.__path__, f"{steps.__name__}."):
        for step in vars(import_module(module.name)).values():
            if isinstance(step, Step):
                assert found.setdefault(step.name, step) is step, f"two steps have the name {step.name}"
    return found


def _in_order(found: dict[str, Step]) -> dict[str, Step]:
    names: list[str] = []

    def place(step: Step, *, is_early: bool) -> None:
        for source in step.inputs:
            if source.name not in names:
                place(source, is_early=is_early)
        soonest = 1 + max((names.index(name) for name in step.sources), default=-1)
        names.insert(soonest if is_early else len(names), step.name)

    place(report, is_early=False)
    for name in sorted(found.keys() - names, reverse=True):
        if name not in names:
            place(found[name], is_early=True)
    return {name: found[name] for name in names}


STEPS = _in_order(_found())


def wanted(plan: RunPlan) -> dict[str, Step]:
    """The steps that a run of this plan has, in order."""
    return {name: step for name, step in STEPS.items() if step.is_wanted(plan)}


@dataclass(frozen=True)
class Preview:
    """What a run would do with a step."""

    state: str
    """"cached", "accepted" (an earlier one, by --accept-drift), "resumed" (what an earlier code left unfinished, by
    --accept-drift) or "run"."""
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
    if found := accepted(step, plan, key):
        return Preview("accepted", found[0], [*read, *found[1]])
    if left := unfinished.earlier(step, key):
        if step.name in plan.accept_drift:
            return Preview("resumed", None, [f"{left.told()}: it goes on from them", *read, *left.differs])
        return Preview("run", None, [left.offer(plan), *read])
    if stand := unfinished.standing(step, key):
        return Preview("run", None, [f"{stand.step:,} of {stand.num_steps:,} steps stand: it goes on from them", *read])
    return Preview("run", None, [*read, *explain(step, key)])


def above(names: Iterable[str]) -> tuple[str, ...]:
    """These steps, and all that they are made from; "all": every step."""
    found: set[str] = set()
    left = [*STEPS] if "all" in names else [*names]
    while left:
        found.add(name := left.pop())
        left += STEPS[name].sources
    return tuple(name for name in STEPS if name in found)


def check_drift(plan: RunPlan, names: Iterable[str]) -> None:
    """Refuse to begin where a step that was to be kept (`names`) would be made again."""
    names = [name for name in names if name != "all"]
    seen = previews(plan) if names else {}
    for name in names:
        if name in seen and seen[name].state == "run":
            raise MissingError(
                f"--accept-drift {name} cannot hold: {'; '.join(seen[name].reasons[:3])}",
                hint="only code, packages and settings at their neutral values can be accepted; nanochat why " + name,
            )


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
