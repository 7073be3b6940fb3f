"""One of the other nodes of a training: it waits for what the first node made, and lends its ranks.

The first node runs the pipeline as ever. This one reads the same settings, so it knows each step's fingerprint: it
waits until the inputs of a training are in the store, fetches them, and joins the rendezvous; when the model is in
the store, the next training follows. It writes nothing to the store. A training that broke off is joined again, as
often as the first node tries.
"""

import time
from collections.abc import Callable

from nanochat_core import observe, workspace
from nanochat_core.base import gpu_slots
from nanochat_core.base.errors import HardwareError, MissingError, TrainingError
from nanochat_core.base.torchrun import Nodes
from nanochat_core.pipeline.execute import gpus_wanted
from nanochat_core.pipeline.step import Step, StepKey
from nanochat_core.pipeline.table import preview_key, wanted
from nanochat_core.pipeline.training import AS_IT_IS
from nanochat_core.plan import RunPlan
from nanochat_core.store.manifest import Artifact

POLL_S = 2.0
FAILURES_LEFT = 20  # of the trainings joined, before this node gives up: it cannot know why the others ended


def join(plan: RunPlan, *, note: Callable[[str], None], wait_s: float, until: str | None = None) -> None:
    """Take part in every training of the run that the first node leads, up to the step `until`; `wait_s`: longest
    silence of that node."""
    steps = wanted(plan)
    names = list(steps)
    for name in names if until is None else names[: names.index(until) + 1]:
        step = steps[name]
        if step.job is None or step.settings(plan) == AS_IT_IS:
            continue
        inputs, key = _wait_for_inputs(plan, step, note=note, wait_s=wait_s)
        for _ in range(FAILURES_LEFT):
            if workspace.current().store.find(name, key.fingerprint):
                note(f"{name} is done")
                break
            _lend(plan, step, key, inputs, note=note)
        else:
            raise TrainingError(f"{name} broke off {FAILURES_LEFT} times", hint="see the first node's log")


def _wait_for_inputs(
    plan: RunPlan, step: Step, *, note: Callable[[str], None], wait_s: float
) -> tuple[dict[str, Artifact], StepKey]:
    """The artifacts that a training reads, as soon as they are in the store."""
    note(f"waiting for the inputs of {step.name}")
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        made = _made(plan, until=step.name)
        sources = [source.name for source in step.inputs if source.is_wanted(plan)]
        if all(source in made for source in sources):
            inputs = {source: made[source] for source in sources}
            return inputs, preview_key(step, plan, inputs)
        time.sleep(POLL_S)
    raise MissingError(
        f"the inputs of {step.name} did not appear in {workspace.current().store.url} within {wait_s:.0f} s",
        hint="start the first node with the same settings, code and NANOCHAT_STORE",
    )


def _made(plan: RunPlan, *, until: str) -> dict[str, Artifact]:
    """What there is of the steps before `until`."""
    made: dict[str, Artifact] = {}
    for name, step in wanted(plan).items():
        if name == until:
            break
        sources = [source.name for source in step.inputs if source.is_wanted(plan)]
        if all(source in made for source in sources):
            key = preview_key(step, plan, {source: made[source] for source in sources})
            if artifact := workspace.current().store.find(name, key.fingerprint):
                made[name] = artifact
    return made


def _lend(plan: RunPlan, step: Step, key: StepKey, inputs: dict[str, Artifact], *, note: Callable[[str], None]) -> None:
    """Run this node's ranks until the training ends, one way or the other."""
    from nanochat_core.train.launch import run_training

    assert step.job is not None
    name, space, runtime = step.name, workspace.current(), plan.config.runtime
    nodes = Nodes.from_environment(runtime.num_nodes, run_id=key.fingerprint[:16])
    # beside the first node's folder and not in it, which that node empties: they may share a home
    work = space.work(f"{name}.node-{nodes.rank}", key.fingerprint)
    (work / "out").mkdir(parents=True, exist_ok=True)
    folders = {source: space.store.fetch(artifact) for source, artifact in inputs.items()}
    job = step.job(plan, folders, checkpoints=work / "checkpoints", work=work, out=work / "out")
    note(f"joining {name} at {nodes.rendezvous} as node {nodes.rank} of {nodes.num}")
    try:
        with gpu_slots.taken(gpus_wanted(plan), owner=observe.who(), on_wait=lambda _: None, note=note):
            run_training(job, lambda record: None, nodes)
    except (TrainingError, HardwareError) as error:
        note(f"{name} broke off here: {error.message}")
    time.sleep(POLL_S)  # the first node publishes, or starts again
