"""What a step is: a pure function of (settings, input artifacts) that makes one artifact, and the words around it.

Each step is a `Step` in a file of its own (nanochat_core/steps), which says what decides its result, what it reads and
what makes it. `execute.py` runs one or finds what it made; `table.py` has all of them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat_core import observe, workspace
from nanochat_core.base import fingerprint
from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.pipeline.data_files import Seen, reading
from nanochat_core.plan import RunPlan
from nanochat_core.store.lease import Lease
from nanochat_core.store.manifest import LOG_FOLDER as LOG_FOLDER  # where a body puts its logs
from nanochat_core.store.partial import Partial

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob

Metrics = dict[str, Any]
T = TypeVar("T")
CHECKS = "checks"  # where they are among an artifact's metrics
HINTS = {
    "no validation text in training": "look at the corpus for repeated files; bits per byte would measure memory",
    "same text after decoding": "an edit in the tokenizer, or in how documents are encoded, loses bytes",
    "bytes per token": "the vocabulary does not fit the text, or token_bytes.npy does not fit the vocabulary",
    "loss is a number": "look at the loss in the step's log; a lower learning rate, or less fp8, may mend it",
    "better than guessing": "the model has learnt nothing or has diverged; look at the loss curve in the step's log",
    "weights are numbers": "look at the loss in the step's log for where it went wrong",
    "last checkpoint is whole": "retry the step: it goes on from the checkpoint before; look at the disk as well",
    "reward is a share": "look at the held-out answers in the step's log",
}


@dataclass(frozen=True)
class Check:
    """One thing that a step looked at in what it had made, before anybody might use it: what was found, and wanted."""

    check: str
    found: str
    wanted: str
    is_passed: bool


class ChecksFailedError(NanochatError):
    """A step made something that is not fit to be used, and publishes nothing; `checks` holds all its checks."""

    def __init__(self, message: str, *, hint: str | None = None, checks: Sequence[Check] = ()) -> None:
        super().__init__(message, hint=hint)
        self.checks = list(checks)


def require(step: str, checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as part of the metrics, when all of them passed."""
    failed = [check for check in checks if not check.is_passed]
    if failed:
        told = "; ".join(f"{check.check}: found {check.found}, wanted {check.wanted}" for check in failed)
        raise ChecksFailedError(
            f"{step} did not pass its checks and is not published: {told}",
            hint=HINTS.get(failed[0].check),
            checks=checks,
        )
    return {CHECKS: [asdict(check) for check in checks]} if checks else {}


def checks_of(metrics: dict[str, Any]) -> list[Check]:
    """The checks that an artifact passed; none where it was made before there were any."""
    return [Check(**held) for held in metrics.get(CHECKS, [])]


@dataclass(frozen=True)
class Ref:
    """A small value that points at an artifact and carries its headline numbers; what tasks pass around."""

    step: str
    fingerprint: str
    digest: str
    """Of the results: the artifact's `result_digest`."""
    content: str
    """Of all files, logs included."""
    metrics: Metrics
    seconds: float
    """What making it took, whenever that was."""
    is_cached: bool
    inputs: dict[str, "Ref"] = field(default_factory=dict)
    """What it was made from, so that it can be made again."""

    @property
    def short(self) -> str:
        return f"{self.step}/{self.fingerprint[:12]}"

    def line(self) -> dict[str, Any]:
        """Its line in the record of a run, a night or a sweep: what is kept is read from there."""
        names = ("step", "fingerprint", "digest", "is_cached", "seconds", "metrics")
        return {name: getattr(self, name) for name in names}


@dataclass
class StepRun:
    """What a step's body gets to work with."""

    plan: RunPlan
    step: str
    key: str
    """The fingerprint."""
    work: Path
    """Scratch that later attempts at the same fingerprint find again."""
    attempt: Path
    """Scratch of this attempt alone: a driver that lost its lease and does not know yet writes into its own."""
    out: Path
    """The files put here become the artifact."""
    partial: Partial
    inputs: Mapping[str, Path]
    """Verified, read-only folders of the input artifacts."""
    settings: Mapping[str, Any]
    """The step's identity config, as its fingerprint has it."""
    digests: Mapping[str, str]
    """Of the input artifacts."""
    lease: Lease
    """The right to make it; who loses it stops."""
    parts: Mapping[str, Ref] = field(default_factory=dict)
    """What it is put together from (`Step.parts`); the folders are among the inputs."""

    def progress(self, done: float, total: float, text: str = "") -> None:
        observe.current().step_progress(self.step, done, total, text)

    def record(self, record: dict[str, Any]) -> None:
        observe.current().step_record(self.step, record)

    def note(self, text: str) -> None:
        observe.current().note(text)


def _always(plan: RunPlan) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the pipeline; made once, in its own file, and called by the flow.

    Making one does nothing but hold what it is given, and closure.py relies on that: no `__post_init__`. So wording may
    stand beside the body, and an edit of it makes nothing again.
    """

    name: str
    description: str
    """What it does, in a sentence."""
    title: Callable[[RunPlan], str]
    """One line for people: what and how big."""
    headline: Callable[[Metrics], str]
    """The result in a few words, from the metrics."""
    settings: Callable[[RunPlan], dict[str, Any]]
    """What of the configuration decides the result, as plain values: all that is in the key of it. A setting that is
    not here reruns nothing."""
    packages: tuple[str, ...]
    """Packages whose version decides the result."""
    inputs: tuple["Step", ...] = ()
    """The steps whose artifacts it reads, in the order in which the flow hands them over; it does without those that
    are not part of the run."""
    last_of: tuple["Step", ...] = ()
    """Of these inputs, each of which hands on what those before it made, it reads the last that the run has."""
    body: Callable[[StepRun], Metrics]
    """Fills `out`; returns the headline numbers."""
    checks: Callable[[StepRun, Metrics], list[Check]] | None = None
    """What must be true of what the body made, before it is published."""
    job: "Callable[..., TrainJob] | None" = None
    """Of a training: what each node of it is told, from the plan and the folders (pipeline/training.py)."""
    is_wanted: Callable[[RunPlan], bool] = _always
    """Whether a run has this step."""
    notes: Callable[[RunPlan], list[str]] | None = None
    """What a person is told of its input files each time, whether it is made or found."""
    needs_gpu: bool = False
    """Whether it trains or runs a model, in ranks that have a GPU each where there are some."""
    reads: Callable[[Mapping[str, Any]], dict[str, list[str]]] | None = None
    """The files that it needs of its inputs, from its settings; None, or an input left out: all of them."""
    reads_logs: bool = False
    """Its result depends on its inputs' logs as well."""
    parts: Callable[[RunPlan], dict[str, RunPlan]] | None = None
    """What it is put together from, by name: artifacts of this same step by other plans, made first where they are not
    there. Its own settings say what they are."""
    entries: tuple[str, ...] = ()
    """Code that the body reaches in a way that cannot be followed by name: "module" or "module:name"."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return tuple(step.name for step in self.inputs)

    def named(self, refs: Sequence[Ref | None]) -> dict[str, Ref]:
        """What the flow hands over, by the step that made it; NanochatError where that is not what this one reads.

        Of `last_of` it may hand over all, or the one that counts.
        """
        latest = {step.name for step in self.last_of}
        all_of_them = [{name} for name in self.sources]
        one_of_them = [*([latest] if latest else []), *({name} for name in self.sources if name not in latest)]
        for places in (all_of_them, one_of_them):
            if len(refs) == len(places) and all(
                ref is None or ref.step in names for ref, names in zip(refs, places, strict=True)
            ):
                return self.needed({ref.step: ref for ref in refs if ref is not None})
        reads = [next(name for name in self.sources if name in names) for names in one_of_them]
        raise NanochatError(
            f"{self.name} was handed ({', '.join(ref.step if ref else 'None' for ref in refs)})",
            hint=f"it reads ({', '.join(reads)}), in this order: correct its line in the flow",
        )

    def needed(self, inputs: Mapping[str, T]) -> dict[str, T]:
        """Of what its inputs made, by their names, that which it reads."""
        older = [step.name for step in self.last_of if step.name in inputs][:-1]
        return {name: made for name, made in inputs.items() if name not in older}

    def digests(self, inputs: Mapping[str, Ref]) -> dict[str, str]:
        """Of its inputs, as they are in its key."""
        return {name: ref.content if self.reads_logs else ref.digest for name, ref in inputs.items()}

    def maker(self, name: str) -> "Step":
        """The step of this name among those that lead to this one; MissingError where none does."""
        for step in self.inputs:
            if step.name == name:
                return step
            with contextlib.suppress(MissingError):
                return step.maker(name)
        raise MissingError(f"no step {name} leads to {self.name}", hint="run the pipeline again")


@dataclass(frozen=True)
class StepKey:
    """A step's identity in a run, and its digest."""

    identity: dict[str, Any]
    fingerprint: str
    seen: Seen
    """The files outside of the store that it is made of."""


def step_key(step: Step, plan: RunPlan, digests: Mapping[str, str]) -> StepKey:
    """The fingerprint of a step, given the content digests of its inputs."""
    functions: list[Callable[..., Any]] = [step.body, *([step.checks] if step.checks else [])]
    with reading(whole=plan.verify_inputs) as seen:
        config = step.settings(plan)
    identity = {
        "step": step.name,
        "config": config,
        "inputs": step.needed(digests),
        "code": fingerprint.step_code(functions, step.entries, memo=workspace.current().sources),
        "packages": fingerprint.package_versions(step.packages),
    }
    return StepKey(identity, fingerprint.identity_digest(identity), seen)
