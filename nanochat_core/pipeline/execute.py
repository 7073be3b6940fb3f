"""Running one step: its artifact is found in the store, or made and published, manifest last.

`execute` computes the fingerprint, takes the store's lease on it, runs the body in a scratch folder, and publishes the
result. A driver that was silent for too long has lost its step to another one: it publishes nothing, and its ranks
stop. An input whose bytes are damaged is never used: it is discarded and the step that made it runs again, on the spot.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanochat_core import observe, workspace
from nanochat_core.base import gpu_slots, locks
from nanochat_core.base.errors import CorruptError, MissingError, NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.base.neutral import ONCE_ABSENT
from nanochat_core.pipeline import unfinished
from nanochat_core.pipeline.step import Ref, Step, StepKey, StepRun, require, step_key
from nanochat_core.plan import RunPlan
from nanochat_core.store import provenance, why
from nanochat_core.store.lease import Lease
from nanochat_core.store.manifest import PARTS, Artifact
from nanochat_core.store.partial import Partial
from nanochat_core.store.store import FENCING_NUMBER
from nanochat_core.workspace import Workspace

STOPPED = "stopped"  # what is told of a step that a Ctrl-C or a cancel ended
ATTEMPT = "attempt"
LEASE_TTL_S = 60.0  # a driver that is silent for so long has lost its step to whoever waits
QUICK_CHECK_BYTES = 256 << 20  # cached artifacts up to this size are read and verified before they are reused
_begun_anew: set[tuple[str, str]] = set()  # steps that this process has begun again, and not finished


def make(step: Step, plan: RunPlan, *refs: Ref | None) -> Ref | None:
    """Run one step without Prefect, as a flow's line calls it; None where the plan has no such step.

    `refs`: what its inputs made, in their order; None for an input that the plan leaves out.
    """
    return execute(step, plan, step.named(refs)) if step.is_wanted(plan) else None


def execute(step: Step, plan: RunPlan, inputs: Mapping[str, Ref]) -> Ref:
    """Find the step's artifact or make it, from refs by the names of the steps that it reads."""
    observer, space, inputs = observe.current(), workspace.current(), step.needed(inputs)
    observer.step_started(step.name, step.title(plan))
    started = time.time()
    try:
        for text in step.notes(plan) if step.notes else []:
            observer.note(text)
        key = step_key(step, plan, step.digests(inputs))
        found = _found(space, step, plan, key)
        if plan.verify_inputs and key.seen.stamps:
            observer.note(f"{step.name}: {key.seen}: {'none differs' if found else '; '.join(explain(step, key))}")
        if found is None:
            with _lease(space, step.name, key) as lease, _in_use(space, step.name, key.fingerprint):
                other = _other_key(step, plan, key)  # before the files are read to make something of them
                # whoever held the lease before may have made it
                found = _found(space, step, plan, key) or _found_by_content(space, step, plan, key, other)
                artifact = found or _make(space, step, plan, key, other, inputs, lease)
        else:
            artifact = found
        if found is not None and plan.verify_inputs and (other := _other_key(step, plan, key)):
            _correct(space, step, artifact, other)
    except BaseException as error:
        limit = limit_error(error, near=space.home)
        told = str(limit or error) or type(error).__name__ if isinstance(error, Exception) else STOPPED
        observer.step_failed(step.name, told)
        if limit is not None:
            raise limit from error
        raise
    ref = ref_of(artifact, inputs, is_cached=found is not None)
    observer.step_finished(
        step.name, is_cached=ref.is_cached, seconds=time.time() - started, headline=step.headline(ref.metrics)
    )
    return ref


def _found(space: Workspace, step: Step, plan: RunPlan, key: StepKey) -> Artifact | None:
    """The artifact where the run may reuse one. Anew means once: a retry goes on with what the first try has."""
    if step.name in plan.fresh and (step.name, key.fingerprint) not in _begun_anew:
        return None
    return reusable(space, step.name, key) or _accept_drift(space, step, plan, key)


def _found_by_content(
    space: Workspace, step: Step, plan: RunPlan, key: StepKey, whole: StepKey | None
) -> Artifact | None:
    """The artifact of the same large files by all of their content: copied or renamed they have other samples."""
    if whole is None or plan.verify_inputs or step.name in plan.fresh:
        return None
    earlier = reusable(space, step.name, whole)
    return _published_as(space, earlier, key) if earlier else None


def _correct(space: Workspace, step: Step, artifact: Artifact, samples: StepKey) -> None:
    """What stands under the samples of large files is what was made from all of their content."""
    known = space.store.find(step.name, samples.fingerprint)
    if known is None or known.result_digest != artifact.result_digest:
        _published_as(space, artifact, samples)


def _other_key(step: Step, plan: RunPlan, key: StepKey) -> StepKey | None:
    """Large files have two keys, by samples and by all of their content: the one that this run does not go by.

    None where there is no other, or where the files just changed.
    """
    other = step_key(step, replace(plan, verify_inputs=not plan.verify_inputs), key.identity["inputs"])
    is_other = other.fingerprint != key.fingerprint and other.seen.stamps == key.seen.stamps
    return other if is_other else None


def _check_unchanged(step: Step, plan: RunPlan, key: StepKey) -> None:
    """Refuse what was made of files that somebody wrote to meanwhile: it would stand under the key of the old ones."""
    if key.seen.stamps and step_key(step, plan, key.identity["inputs"]).identity["config"] != key.identity["config"]:
        raise NanochatError(f"the files of {step.name} changed while it read them", hint="run the same command again")


def _lease(space: Workspace, step: str, key: StepKey) -> Lease:
    """The right to make this step, held by one process of all machines that share the store."""

    told: list[str] = []

    def on_wait(owner: str) -> None:
        if owner not in told:
            told.append(owner)
            observe.current().note(f"{step} is being made by {owner}; waiting for it")
        observe.current().step_progress(step, 0, 1, f"waiting for {owner}")  # where a stop is heard

    inputs = key.identity["inputs"]
    return space.store.lease(
        step, key.fingerprint, owner=observe.who(), ttl_s=LEASE_TTL_S, inputs=inputs, on_wait=on_wait
    )


@contextlib.contextmanager
def _in_use(space: Workspace, step: str, fingerprint: str) -> Iterator[None]:
    """Tell gc that this step's scratch is in use here; the kernel takes it back from a process that dies."""
    lock = space.home / "locks" / space.work(step, fingerprint).name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        locks.share(file, lock)
        yield


def ref_of(artifact: Artifact, inputs: Mapping[str, Ref], *, is_cached: bool = True) -> Ref:
    """The small value that stands for an artifact; without `inputs` it cannot be made again when it is damaged."""
    return Ref(
        step=artifact.step,
        fingerprint=artifact.fingerprint,
        digest=artifact.result_digest,
        content=artifact.digest,
        metrics=dict(artifact.metrics),
        seconds=float(artifact.provenance.get("seconds", 0.0)),
        is_cached=is_cached,
        inputs=dict(inputs),
    )


def reusable(space: Workspace, step: str, key: StepKey) -> Artifact | None:
    """The artifact, when it is whole. Small ones are read and verified, since that costs less than a surprise."""
    artifact = space.store.reuse(step, key.fingerprint)
    if artifact is None or artifact.num_bytes > QUICK_CHECK_BYTES or "://" in space.store.url:
        return artifact  # what is large or far is verified when it is read
    damaged = space.store.verify(artifact)
    if not damaged:
        return artifact
    observe.current().note(f"{step}: {', '.join(damaged[:3])} was damaged in the store; it is made again")
    space.store.discard(artifact)
    return None


def accepted(step: Step, plan: RunPlan, key: StepKey) -> tuple[Artifact, list[str]] | None:
    """The newest artifact that differs without effect, where the user said that this is so; and what differs."""
    if step.name not in plan.accept_drift:
        return None
    for earlier in workspace.current().store.artifacts(step.name):
        lines = why.drift(key.identity, earlier, neutral=ONCE_ABSENT)
        if lines is not None:
            return earlier, lines
    return None


def _accept_drift(space: Workspace, step: Step, plan: RunPlan, key: StepKey) -> Artifact | None:
    """An accepted artifact is published again under the new fingerprint with a note, so everything downstream can be
    traced to that decision.
    """
    found = accepted(step, plan, key)
    return _published_as(space, found[0], key, accepted_drift=found[1]) if found else None


def _published_as(space: Workspace, earlier: Artifact, key: StepKey, **facts: Any) -> Artifact:
    """An artifact once more, under another key."""
    known = {name: value for name, value in earlier.provenance.items() if name != FENCING_NUMBER}
    return space.store.publish(
        space.store.fetch(earlier),
        **key.identity,
        fingerprint=key.fingerprint,
        metrics=earlier.metrics,
        provenance={**known, **facts},
    )


def explain(step: Step, key: StepKey) -> list[str]:
    """Why there is no whole artifact under this key: what differs from the nearest earlier one."""
    nearest = why.nearest(key.identity, workspace.current().store.artifacts(step.name))
    if nearest is None:
        source = key.identity["config"].get("source")
        return ["never made in this store" + (f" with source = {source}" if source else "")]
    return why.explain(key.identity, nearest) or ["some of its files are missing or damaged in the store"]


def _make(
    space: Workspace,
    step: Step,
    plan: RunPlan,
    key: StepKey,
    other: StepKey | None,
    inputs: Mapping[str, Ref],
    lease: Lease,
) -> Artifact:
    """Run the body and publish what it made, under both keys where there are two."""
    started = time.time()
    work = space.work(step.name, key.fingerprint)
    for old in sorted(work.glob(f"{ATTEMPT}-*"))[:-1]:  # the last one's log may be wanted
        shutil.rmtree(old, ignore_errors=True)
    attempt = work / f"{ATTEMPT}-{lease.number:06d}"
    shutil.rmtree(attempt, ignore_errors=True)
    out = attempt / "out"
    out.mkdir(parents=True)
    partial = space.store.partial(step.name, key.fingerprint, lease=lease)
    if step.name in plan.fresh and (step.name, key.fingerprint) not in _begun_anew:
        partial.clear()  # anew means without the old checkpoints, here as in the store
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        _begun_anew.add((step.name, key.fingerprint))
    elif unfinished.is_training(step, key):
        _mend(space, step, plan, key, partial, work)
    if unfinished.is_training(step, key):
        unfinished.begin(partial, key)
    settings = key.identity["config"]
    needed = step.reads(settings) if step.reads else {}
    folders = {name: _fetch_input(space, plan, step, ref, needed.get(name)) for name, ref in inputs.items()}
    parts = _make_parts(step, plan)
    folders |= {name: _fetch_input(space, parts[name][0], step, parts[name][1], None) for name in parts}
    run = StepRun(
        plan, step.name, key.fingerprint, work, attempt, out, partial, folders, settings, key.identity["inputs"], lease,
        parts={name: ref for name, (_, ref) in parts.items()},
    )  # fmt: skip
    with _on_gpus(run) if step.needs_gpu else contextlib.nullcontext():
        metrics = step.body(run)
    _check_unchanged(step, plan, key)
    run.lease.check()  # whoever took it over has cleared what a quality check would look at
    if parts:
        metrics |= {PARTS: {name: ref.digest for name, (_, ref) in parts.items()}}
    metrics |= require(step.name, step.checks(run, metrics) if step.checks else [])
    told = provenance.collect(arguments=sys.argv[1:], started_at=started)
    if unfinished.is_training(step, key):
        told |= unfinished.history(partial, out, key)
    artifact = space.store.publish(
        out, **key.identity, fingerprint=key.fingerprint, metrics=metrics, provenance=told, lease=lease
    )
    if other is not None:
        space.store.publish(out, **other.identity, fingerprint=other.fingerprint, metrics=metrics, provenance=told)
    partial.clear()
    shutil.rmtree(work, ignore_errors=True)
    _begun_anew.discard((step.name, key.fingerprint))
    return artifact


def _make_parts(step: Step, plan: RunPlan) -> dict[str, tuple[RunPlan, Ref]]:
    """Find or make what a step is put together from: each its plan, and what that made."""
    observer = observe.current()
    made = {}
    for name, alone in (step.parts(plan) if step.parts else {}).items():
        observer.note(f"{step.name} of {name}")
        made[name] = alone, execute(replace(step, notes=None), alone, {})  # the whole has told them
    if made:
        observer.step_started(step.name, step.title(plan))
    return made


def _mend(space: Workspace, step: Step, plan: RunPlan, key: StepKey, partial: Partial, work: Path) -> None:
    """Go on from what an earlier code has left, where the user said so; where nobody said it, say what there is."""
    if (found := unfinished.earlier(step, key)) is None:
        return
    if step.name in plan.accept_drift:
        unfinished.take(space, found, key, partial, work)
        observe.current().note(f"{step.name}: {found.told()}; it goes on from them")
    else:
        observe.current().note(f"{step.name}: {found.offer(plan)}")


def _fetch_input(space: Workspace, plan: RunPlan, step: Step, ref: Ref, names: list[str] | None) -> Path:
    """The verified folder of an input; a damaged one is made again by its own step."""
    for _ in range(2):
        artifact = space.store.find(ref.step, ref.fingerprint)
        try:
            if artifact is None:
                raise MissingError(f"{ref.short} is not in the store any more")
            return space.store.fetch(artifact, names)
        except MissingError as error:  # CorruptError is one
            observe.current().note(f"{error.message}; {ref.step} runs again")
            if artifact is not None:
                space.store.discard(artifact)
            maker = step if ref.step == step.name else step.maker(ref.step)  # a part of its own
            remade = execute(maker, plan, ref.inputs)
            if remade.digest != ref.digest:
                raise NanochatError(
                    f"{ref.short} was damaged, and making it again gave other content",
                    hint="run the same command again",
                ) from error
    raise CorruptError(
        f"{ref.short} is damaged again right after it was made", hint="check the disk or the object store"
    )


@contextlib.contextmanager
def _on_gpus(run: StepRun) -> Iterator[None]:
    """Within the block as many of the machine's GPUs are the step's own as it has ranks; a wait says who has them.

    Its own while it runs, and the last thing that it waits for: who holds a GPU waits for nobody, so no two runs can
    wait for each other.
    """

    def on_wait(reason: str) -> None:
        run.lease.raise_if_lost()
        run.progress(0, 1, reason)  # where a stop is heard

    def note(text: str) -> None:
        run.note(f"{run.step} {text}")

    with gpu_slots.taken(gpus_wanted(run.plan), owner=observe.who(), on_wait=on_wait, note=note):
        yield


def gpus_wanted(plan: RunPlan) -> int:
    """How many a step's ranks take on this machine, where it has any."""
    return plan.config.runtime.num_processes if plan.config.runtime.device in ("auto", "cuda") else 0
