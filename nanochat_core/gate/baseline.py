"""The pinned baseline: an artifact that lists runs, under the ref `nightly-baseline`.

An artifact, so that refs, pins and garbage collection treat it like any other: its inputs are the models of its runs,
and an older version can be promoted again. Each version is for one set of conditions; a night finds the newest one for
its own, and where there is none it is told what differs from the newest of all.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.base.fingerprint import canonical_json, identity_digest
from nanochat_core.gate.metrics import NightRun
from nanochat_core.gate.rule import BUDGET
from nanochat_core.store import provenance
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

REF = "nightly-baseline"
STEP = "nightly_baseline"
FILE = "baseline.json"
NUM_RUNS = 24  # the rule's power at 3 sd is then above 90% without any further history
PROMOTE = "nanochat nightly promote"
MIXED = "steps_by_code"  # a condition of a training that several codes made; nothing compares with it


@dataclass(frozen=True)
class Chosen:
    """The baseline for a night, or why there is none."""

    name: str | None
    runs: list[NightRun] | None
    reason: str = ""
    budget: float = BUDGET
    """False alarms a year."""


def find(store: Store, conditions: Mapping[str, Any]) -> Chosen:
    """The newest baseline under these conditions."""
    newest: Mapping[str, Any] | None = None
    for ref in sorted((ref for ref in store.refs() if ref.name == REF), key=lambda ref: ref.set_at, reverse=True):
        artifact = store.ref(REF, ref.version)
        if canonical_json(artifact.config["conditions"]) == canonical_json(conditions):
            budget = float(artifact.config.get("false_alarms_a_year", BUDGET))
            return Chosen(f"{REF}@{ref.version}", read(store, artifact), budget=budget)
        newest = newest or artifact.config["conditions"]
    if newest is None:
        return Chosen(None, None, f"there is no baseline yet: {PROMOTE} makes one of the nights so far")
    told = "; ".join(differences(newest, conditions))
    return Chosen(None, None, f"no baseline is comparable; the newest one differs in {told}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not equal, old -> new."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [_difference(name, before.get(name, "absent"), now.get(name, "absent")) for name in names]


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):  # overrides: only those that are not in both
        before, now = ([text for text in ours if text not in others] for ours, others in ((before, now), (now, before)))
        before, now = (", ".join(texts) or "none" for texts in (before, now))
    return f"{name}: {before} -> {now}"


def read(store: Store, artifact: Artifact) -> list[NightRun]:
    """The runs of a baseline, oldest first."""
    content = json.loads((store.fetch(artifact, [FILE]) / FILE).read_text())
    runs = [NightRun.from_record(run) for run in content["runs"]]
    return runs if runs[0].night else runs[::-1]  # those from before runs named their night began with the newest


def promote(
    store: Store, history: Sequence[Mapping[str, Any]], *, night: str | None = None, last: int = NUM_RUNS,
    is_same_recipe: bool = False, budget: float = BUDGET,
) -> tuple[str, list[NightRun]]:  # fmt: skip
    """Pin the newest comparable runs as the baseline; returns its name and them.

    `night`: the newest night to use, also a red one that is accepted; by default the newest that is not red.
    `budget`: false alarms a year that nights against it may cost.
    """
    done = [each for each in history if each["runs"] and each["state"] != "open"]
    if night is not None and night not in {each["run_id"] for each in done}:
        raise MissingError(f"there is no finished night {night}", hint="nanochat nightly history lists them")
    if night is not None and any(
        MIXED in run["conditions"] for each in done if each["run_id"] == night for run in each["runs"]
    ):
        raise MissingError(f"{night} was trained by several codes, which is no baseline for any", hint=PROMOTE)
    newest = next((each for each in reversed(done) if _may_lead(each, night)), None)
    if newest is None:
        raise MissingError("there is no finished night that is not red", hint="nanochat nightly")
    head = NightRun.from_record(newest["runs"][0])
    done = done[: done.index(newest) + 1]
    chosen = [
        run
        for each in reversed(done)
        if each is newest or each["state"] != "red"
        for run in map(NightRun.from_record, reversed(each["runs"]))
        if run.conditions == head.conditions and (run.recipe == head.recipe or not is_same_recipe)
    ][:last][::-1]
    if len(chosen) < 2:
        raise MissingError(
            f"{newest['run_id']} has {len(chosen)} comparable run, a baseline takes two or more",
            hint="train more of them: nanochat nightly --seeds 8",
        )
    artifact = _publish(store, chosen, history, budget)
    made = store.set_ref(REF, artifact.fingerprint[:12], artifact)
    return f"{made.name}@{made.version}", chosen


def _may_lead(night: Mapping[str, Any], wanted: str | None) -> bool:
    if any(MIXED in run["conditions"] for run in night["runs"]):
        return False
    return bool(night["run_id"] == wanted if wanted is not None else night["state"] != "red")


def _publish(store: Store, runs: Sequence[NightRun], history: Sequence[Mapping[str, Any]], budget: float) -> Artifact:
    """Write the artifact; its inputs keep the models of its runs from being collected."""
    started = time.time()
    lines = [line for night in history for line in night["steps"] if line["step"] == "pretrain"]
    digests = {line["fingerprint"]: line["digest"] for line in lines}
    inputs = {run.fingerprint[:16]: digests[run.fingerprint] for run in runs}
    config: dict[str, Any] = {"conditions": runs[0].conditions, "runs": [run.fingerprint for run in runs]}
    config |= {} if budget == BUDGET else {"false_alarms_a_year": budget}
    fingerprint = identity_digest({"step": STEP, "config": config, "inputs": inputs})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_text(json.dumps({"runs": [asdict(run) for run in runs]}, indent=1))
        return store.publish(
            Path(folder),
            step=STEP,
            fingerprint=fingerprint,
            inputs=inputs,
            config=config,
            code={},
            packages={},
            metrics={"num_runs": len(runs), "num_recipes": len({run.recipe for run in runs})},
            provenance=provenance.collect(arguments=sys.argv[1:], started_at=started),
        )
