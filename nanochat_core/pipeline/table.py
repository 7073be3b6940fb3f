"""All steps, in the order in which a run makes them: whatever stands in nanochat_core/steps.

A step comes after those that it reads; of several that could, first what the report reads, in its order, so that the
table is the flow's order (flows/speedrun.py). What the report does not read comes as soon as it can.
"""

from importlib import import_module
from pkgutil import iter_modules

from nanochat_core import steps
from nanochat_core.pipeline.step import Step
from nanochat_core.plan import RunPlan
from nanochat_core.steps.report import report


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
