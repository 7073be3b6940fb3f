"""What the gpu pool runs: one step of somebody's pipeline, with everything else coming from the store.

A driver on the cpu pool sends it (placement.py). The step is the same Prefect task as in an inline run, so it shows
its progress, retries what can heal, and goes on from the last checkpoint of whoever was at it before.
"""

from collections.abc import Mapping
from typing import Any

from prefect import runtime
from pydantic import BaseModel, ConfigDict, Field

import tasks
from flows.parameters import StepName, dated_name
from flows.recorded import flow
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import RunConfig
from nanochat_core.pipeline.execute import ref_of
from nanochat_core.pipeline.step import Ref, step_key
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import config_from_record
from tasks import policy


class SentArtifact(BaseModel):
    """An artifact in the store, by what it takes to find it."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str = Field(description="The fingerprint of the step that made it.")
    inputs: list[str] = Field(default_factory=list, description="The steps that it was made from.")


def gpu_step_name() -> str:
    """gpu-step-pretrain-d12-2026-11-22-a1b2."""
    parameters = runtime.flow_run.parameters
    depth = parameters.get("config", {}).get("pretrain", {}).get("depth")
    return dated_name("gpu-step", str(parameters.get("step", "")).replace("_", "-"), f"d{depth}" if depth else "")


@flow(
    name="gpu_step",
    description="One step of a run, made on the gpu pool; the run that wants it sends it.",
    flow_run_name=gpu_step_name,
    has_steps=True,
)
def gpu_step(
    step: StepName,
    config: dict[str, Any],
    inputs: dict[str, SentArtifact],
    fingerprint: str,
    fresh: bool = False,
    accept_drift: bool = False,
) -> str:
    """Make one step of a run; returns the fingerprint of its artifact.

    Args:
        step: Which step.
        config: The whole configuration of the run that sends it.
        inputs: What the step reads, and what that was made from, by step.
        fingerprint: The artifact that the sender waits for; a worker with other code or packages refuses.
        fresh: Make it again although it is cached.
        accept_drift: Go on from what an earlier code has left unfinished.
    """
    policy.begin_run()
    plan = plan_run(config_of(config), fresh=(step,) if fresh else (), accept_drift=(step,) if accept_drift else ())
    refs = found(inputs)
    sources = {source: refs[source] for source in STEPS[step].sources if source in inputs}
    check_same(step, plan, sources, fingerprint)
    made = tasks.make(STEPS[step], plan, *(sources.get(source) for source in STEPS[step].sources))
    if made is None:
        raise ConfigError(f"the plan of this run has no step {step}", hint="give both pools the same commit")
    return made.fingerprint


def config_of(values: Mapping[str, Any]) -> RunConfig:
    """A configuration from its plain values."""
    try:
        return config_from_record(values)
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"the configuration does not fit this worker's code: {error}", hint="give both pools the same commit"
        ) from error


def found(inputs: Mapping[str, SentArtifact]) -> dict[str, Ref]:
    """The refs of artifacts, by step; the senders put each one after those that it was made from."""
    store, refs = workspace.current().store, dict[str, Ref]()
    for name, sent in inputs.items():
        artifact = store.find(name, sent.fingerprint)
        if artifact is None:
            raise MissingError(
                f"{name}/{sent.fingerprint[:12]} is not in {store.url}",
                hint="give the workers of both pools the same NANOCHAT_STORE",
            )
        refs[name] = ref_of(artifact, {source: refs[source] for source in sent.inputs})
    return refs


def check_same(step: str, plan: RunPlan, sources: Mapping[str, Ref], fingerprint: str) -> None:
    """Refuse before the first second of GPU time when this worker would make something else than the sender wants."""
    key = step_key(STEPS[step], plan, STEPS[step].digests(sources))
    if key.fingerprint != fingerprint:
        raise ConfigError(
            f"this worker would make {step}/{key.fingerprint[:12]}, and {fingerprint[:12]} is wanted",
            hint="give the workers of both pools the same commit, packages and files; `nanochat why` names the "
            "differences",
        )
