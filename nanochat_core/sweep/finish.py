"""What a sweep leaves behind: its record in the store, and a report in its folder that can be drawn again from it."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.errors import MissingError
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import estimate
from nanochat_core.presets import load_config
from nanochat_core.store.store import Store
from nanochat_core.sweep.cells import Sweep
from nanochat_core.sweep.execute import Execution
from nanochat_core.sweep.results import CellResult, cell_result, to_record

KINDS = ("miniseries", "scaling_laws")


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep's results for those who called it."""

    run_id: str
    record: dict[str, Any]
    results: list[CellResult]
    report: Path
    is_complete: bool
    """Every planned cell was run; False when the money was spent before."""


def finish_sweep(
    sweep: Sweep, done: Execution, *, started_at: float, settings: Mapping[str, Any] | None = None
) -> FinishedSweep:
    """Record the sweep and write its report. `settings` are what the report's fits were asked for."""
    space = workspace.current()
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{sweep.kind.replace('_', '-')}-{Path(sweep.preset).stem}-{stamp}-{secrets.token_hex(2)}"
    results = [cell_result(cell, done.refs[cell.name]) for cell in sweep.cells if cell.name in done.refs]
    guess = estimate(sweep.cells[0].plan)
    record = {
        "run_id": run_id,
        "kind": sweep.kind,
        "started_at": datetime.fromtimestamp(started_at, UTC).isoformat(),
        "seconds": time.time() - started_at,
        "preset": sweep.preset,
        "overrides": list(sweep.overrides),
        "config": asdict(load_config(sweep.preset, sweep.overrides)),
        "settings": {**sweep.settings, **(settings or {})},
        "notes": list(sweep.notes),
        "hardware": f"{guess.num_gpus} x {guess.gpu}",
        "usd_per_hour": guess.usd / guess.hours,
        "spent_usd": done.spent_usd,
        "cells": [
            {**to_record(result), "overrides": list(cell.overrides)}
            for result, cell in zip(results, [c for c in sweep.cells if c.name in done.refs], strict=True)
        ],
        "left_out": [asdict(cell) for cell in (*sweep.left_out, *done.left_out)],
        "steps": _ledger(list(done.refs.values())),
    }
    space.store.put_run(run_id, record)
    return FinishedSweep(run_id, record, results, _write_report(space, record), is_complete=not done.left_out)


def _ledger(cells: Sequence[Sequence[Ref]]) -> list[dict[str, Any]]:
    """Every artifact of the sweep once."""
    lines: dict[str, dict[str, Any]] = {}
    for ref in (ref for refs in cells for ref in refs):
        lines.setdefault(f"{ref.step}/{ref.fingerprint}", ref.line())
    return list(lines.values())


def list_sweeps(store: Store) -> list[dict[str, Any]]:
    """The records of all sweeps, oldest first."""
    prefixes = tuple(f"{kind.replace('_', '-')}-" for kind in KINDS)
    records = [store.run(run_id) for run_id in store.runs() if run_id.startswith(prefixes)]
    return sorted((r for r in records if r.get("kind") in KINDS), key=lambda record: str(record["started_at"]))


def render_again(run_id: str) -> Path:
    """Write a recorded sweep's report anew; nothing but the record is needed."""
    space = workspace.current()
    record = space.store.run(run_id)
    if record.get("kind") not in KINDS:
        raise MissingError(f"{run_id} is the record of a run, not of a sweep", hint="nanochat sweeps lists them")
    return _write_report(space, record)


def _write_report(space: workspace.Workspace, record: dict[str, Any]) -> Path:
    from nanochat_core.sweep.report import write_report  # numpy and jinja: no other verb waits for them

    return write_report(space, record)
