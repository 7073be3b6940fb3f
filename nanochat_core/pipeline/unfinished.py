"""Trainings that were not finished: what stands of them, also of one that differs in code or packages alone.

A training keeps its identity beside its checkpoints. So after a line was mended, or on a machine with another torch,
the steps of the earlier code are found and offered. Who accepts goes on from a copy of them under the new key: the old
ones stay until gc takes them. Which steps were made by which code is kept with the copy, and read from the log at the
end: a start that the copied log does not know is the first one of the newer code, whatever any clock says.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base import files
from nanochat_core.base.errors import CorruptError
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.base.units import dollars, duration
from nanochat_core.pipeline.checkpoints import CHECKPOINT, TIMESHEETS
from nanochat_core.pipeline.step import LOG_FOLDER, Step, StepKey
from nanochat_core.plan import GPUS, RunPlan
from nanochat_core.store import provenance, why
from nanochat_core.store.lease import TTL_S, LeaseBook
from nanochat_core.store.partial import Partial, unfinished
from nanochat_core.store.provenance import STEPS_BY_CODE
from nanochat_core.workspace import Workspace

IDENTITY = "identity"
ORIGIN = "origin"  # of checkpoints that another code has made
SOURCE = ("git_commit", "git_patch_sha256")
CHECKPOINTS = "checkpoints"  # in the scratch folder of a training on a remote store


@dataclass(frozen=True, kw_only=True)
class Stand:
    """How far an unfinished training came."""

    step: int
    num_steps: int
    train_s: float
    """In those steps."""
    world_size: int

    @property
    def whole_s(self) -> float:
        """What all steps take at this speed."""
        return self.train_s / self.step * self.num_steps


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An unfinished training of other code."""

    step: str
    fingerprint: str
    stand: Stand
    differs: tuple[str, ...]
    identity: Mapping[str, Any]
    source: Mapping[str, Any]

    @property
    def code(self) -> Mapping[str, str]:
        return dict(self.identity["code"])

    @property
    def packages(self) -> Mapping[str, str]:
        return dict(self.identity["packages"])

    @property
    def inputs(self) -> Mapping[str, str]:
        return dict(self.identity["inputs"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.identity["config"])

    def told(self) -> str:
        """How many of how many steps stand, and what made them."""
        modules = [line for line in self.differs if line.startswith("code ")]
        parts = [f"{len(modules):,} module{'s differ' if len(modules) > 1 else ' differs'}"] if modules else []
        parts += [line.removeprefix("package ") for line in self.differs if line.startswith("package ")]
        made_by = "an earlier code" if modules else "other packages"
        return f"{self.stand.step:,} of {self.stand.num_steps:,} steps stand at {made_by} ({', '.join(parts)})"

    def offer(self, plan: RunPlan) -> str:
        """What `plan` and a run say where nobody has decided yet."""
        price = _usd(self.stand, plan)
        whole = f"about {duration(self.stand.whole_s)}" + (f", {dollars(price)}" if price else "")
        return f"{self.told()}: --accept-drift {self.step} goes on from them, else it begins at 0 ({whole})"


def _usd(stand: Stand, plan: RunPlan) -> float:
    runtime = plan.config.runtime
    listed = GPUS[runtime.gpu][2] if runtime.gpu in GPUS else 0.0
    price = listed if runtime.usd_per_gpu_hour is None else runtime.usd_per_gpu_hour
    return stand.whole_s / 3600 * stand.world_size * price


def is_training(step: Step, key: StepKey) -> bool:
    """Whether this step takes training steps; a model to start from is taken as it is."""
    return step.job is not None and "schedule" in key.identity["config"]


def standing(step: Step, key: StepKey) -> Stand | None:
    """What stands of the training with this very key."""
    if not is_training(step, key):
        return None
    return _stand(workspace.current().store.partial(step.name, key.fingerprint), key.identity)


def earlier(step: Step, key: StepKey) -> Earlier | None:
    """The furthest unfinished training that differs in code and packages alone, and is further than this one."""
    if not is_training(step, key):
        return None
    store, own = workspace.current().store, standing(step, key)
    found = []
    for fingerprint in unfinished(store.files, step.name):
        if fingerprint != key.fingerprint and (each := _read(store.partial(step.name, fingerprint), step, key)):
            found.append(each)
    far = [each for each in found if each.stand.step > (own.step if own else 0)]
    for each in sorted(far, key=lambda each: each.stand.step, reverse=True):
        if not _is_live(LeaseBook(store.files, step=step.name, fingerprint=each.fingerprint)):
            return each
    return None


def _read(partial: Partial, step: Step, key: StepKey) -> Earlier | None:
    kept = partial.record(IDENTITY)
    if kept is None or (stand := _stand(partial, key.identity)) is None:
        return None
    candidate = Earlier(
        step=step.name, fingerprint=partial.fingerprint, stand=stand, differs=(), identity=kept["identity"],
        source=kept["source"],
    )  # fmt: skip
    if candidate.identity["step"] != step.name:
        return None
    lines = why.drift(key.identity, candidate, neutral={})
    return None if lines is None else replace(candidate, differs=tuple(lines))


def _stand(partial: Partial, identity: Mapping[str, Any]) -> Stand | None:
    """By the newest checkpoint whose state can be read; its tensors are looked at when they are loaded."""
    for name in reversed(partial.matching(CHECKPOINT)):
        try:
            state = json.loads(partial.read(name, "state.json") or b"")
            return Stand(
                step=int(state["step"]), num_steps=int(identity["config"]["schedule"]["num_steps"]),
                train_s=float(state["train_s"]), world_size=int(state["world_size"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _is_live(book: LeaseBook) -> bool:
    """Whether somebody may be at it now: then its checkpoints come and go."""
    held = book.current()
    if held is None or held.is_free:
        return False
    stamps = book.files.stamps(book.root).values()
    ttl_s = held.record.ttl_s if held.record else TTL_S
    return book.files.now() - max((stamp.modified for stamp in stamps), default=0.0) <= 2 * ttl_s


def begin(partial: Partial, key: StepKey) -> None:
    """Keep what this training is, before its first checkpoint."""
    if partial.record(IDENTITY) is None:
        state = provenance.git_state(PACKAGE_ROOT)
        partial.put_record(IDENTITY, {"identity": key.identity, "source": {name: state[name] for name in SOURCE}})


def take(space: Workspace, found: Earlier, key: StepKey, partial: Partial, work: Path) -> None:
    """Copy what stands of `found` to where the training of `key` keeps its own, then let go of what that had: less.

    Killed at any moment it leaves the one or the other, and a record that fits both. CorruptError where none of the
    checkpoints can be copied.
    """
    old = space.store.partial(found.step, found.fingerprint)
    begin(partial, key)
    folder = partial.folder or work / CHECKPOINTS
    partial.make_folder(folder)
    copied = [name for name in old.matching(CHECKPOINT) if _copy(old, name, _taken(folder, name))]
    if not copied:
        raise CorruptError(
            f"the checkpoints of {found.step} {found.fingerprint[:12]} cannot be read",
            hint="run without --accept-drift: it begins anew",
        )
    log = read_records(_taken(folder, copied[-1]) / RECORDS_NAME)
    made = {
        "fingerprint": found.fingerprint, "code": found.code, "packages": found.packages, **found.source,
        "differs": list(found.differs), "starts": [line["time_s"] for line in log if line["event"] == "start"],
    }  # fmt: skip
    codes = [*(old.record(ORIGIN) or {"codes": []})["codes"], made]
    own = (partial.record(ORIGIN) or {"codes": []})["codes"]
    partial.put_record(ORIGIN, {"codes": [*(each for each in own if each not in codes), *codes]})
    _copy_timesheet(space, found, old, work / TIMESHEETS)
    for name in reversed(copied):  # the newest first: from then on it is what the training goes on from
        _drop(partial, folder, name)
        files.move(_taken(folder, name), folder / name)
    for name in {*partial.matching(CHECKPOINT), *(path.name for path in folder.glob(CHECKPOINT))} - {*copied}:
        _drop(partial, folder, name)


def _taken(folder: Path, name: str) -> Path:
    """Where a checkpoint lies until all are copied; the trainer clears away what a kill leaves of it."""
    return folder / f"{name}.tmp-taken"


def _drop(partial: Partial, folder: Path, name: str) -> None:
    """A checkpoint of less steps, here and in the store."""
    partial.remove(name)
    shutil.rmtree(folder / name, ignore_errors=True)


def _copy(old: Partial, name: str, target: Path) -> bool:
    """One checkpoint; whether it is whole is looked at when it is loaded, as ever."""
    shutil.rmtree(target, ignore_errors=True)
    if old.folder is None:
        return old.get_folder(name, target)
    try:
        shutil.copytree(old.folder / name, target, copy_function=files.link_or_copy)
    except (FileNotFoundError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def _copy_timesheet(space: Workspace, found: Earlier, old: Partial, target: Path) -> None:
    """What the earlier attempts cost counts on: in the report, and for a budget."""
    shutil.rmtree(target, ignore_errors=True)
    here = space.home / "work" / f"{found.step}-{found.fingerprint[:16]}" / TIMESHEETS
    if here.is_dir():
        shutil.copytree(here, target)
    elif old.folder is None:
        old.get_folder(TIMESHEETS, target)


def history(partial: Partial, out: Path, key: StepKey) -> dict[str, Any]:
    """For the manifest: which steps were made by which code; nothing where one code made all of them."""
    origin = partial.record(ORIGIN)
    if origin is None:
        return {}
    log = [record for record in read_records(out / LOG_FOLDER / RECORDS_NAME) if record["event"] == "start"]
    last = int(key.identity["config"]["schedule"]["num_steps"])
    segments, done = [], 0
    for made in origin["codes"]:
        until = next((int(record["step"]) for record in log if record["time_s"] not in made["starts"]), last)
        if until > done:
            facts = {name: value for name, value in made.items() if name != "starts"}
            segments.append({"first_step": done + 1, "last_step": until, **facts})
            done = until
    if not segments:
        return {}
    if done < last:
        source = {name: provenance.git_state(PACKAGE_ROOT)[name] for name in SOURCE}
        segments.append({"first_step": done + 1, "last_step": last, "fingerprint": key.fingerprint, **source})
    return {STEPS_BY_CODE: segments}
