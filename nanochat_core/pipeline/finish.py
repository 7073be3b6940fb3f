"""What a run leaves behind besides artifacts: refs for people, its ledger in the store, its report in a folder."""

import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from nanochat_core.store import provenance

MAX_PATCH_CHARS = 1 << 20  # of uncommitted changes that the ledger takes in; larger ones are known by digest alone


@dataclass(frozen=True)
class FinishedRun:
    """A run's results for those who called it."""

    run_id: str
    refs: list[Ref]
    seconds: float
    report: Path | None
    """The HTML report; None when the run stopped before it."""

    def ref(self, step: str) -> Ref | None:
        return next((ref for ref in self.refs if ref.step == step), None)


def finish_run(plan: RunPlan, refs: list[Ref], *, started_at: float) -> FinishedRun:
    """Name the models, record the run, write its report."""
    space = workspace.current()
    seconds = time.time() - started_at
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{plan.config.preset}-{stamp}-{secrets.token_hex(2)}"
    by_step = {ref.step: ref for ref in refs}
    for kind, step in model_steps(by_step).items():
        if artifact := space.store.find(step, by_step[step].fingerprint):
            space.store.set_ref(f"{plan.config.preset}-{kind}", artifact.fingerprint[:12], artifact, expires=True)
    report = None
    if "report" in by_step:
        from nanochat_core.report.page import write_report  # jinja: no other verb waits for it

        report = write_report(space, plan, refs, run_id=run_id, seconds=seconds)
    record = {
        "run_id": run_id,
        "started_at": datetime.fromtimestamp(started_at, UTC).isoformat(),
        "seconds": seconds,
        "config": asdict(plan.config),
        "steps": [ref.line() for ref in refs],
        "source": _source(),
    }
    space.store.put_run(run_id, record)
    return FinishedRun(run_id, refs, seconds, report)


def model_steps(made: Collection[str]) -> dict[str, str]:
    """The names that a run's models go by -> the steps that made them. "chat" is the last one that one can talk to."""
    named = {"base": "pretrain", "chat": "rl", "sft": "sft"} if "rl" in made else {"base": "pretrain", "chat": "sft"}
    return {kind: step for kind, step in named.items() if step in made}


def _source() -> dict[str, object]:
    """Commit and uncommitted changes, so that a record can show them (manifests hold the digest only)."""
    state = provenance.git_state(PACKAGE_ROOT)
    patch = provenance.git_patch(PACKAGE_ROOT) if state["git_patch_sha256"] else None
    return {**state, "git_patch": patch if patch and len(patch) <= MAX_PATCH_CHARS else None}
