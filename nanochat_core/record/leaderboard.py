"""Time to GPT-2: runs by their clock, those whose CORE reaches GPT-2's, beside the published ones.

The published rows are nanochat's leaderboard as its README had it in July 2026, with the commits it names; their times
are hours on eight H100s by nanochat's clock, which leaves out the first ten steps. Ours come from the step logs of the
runs in the store, or from bundles, which are verified first. A CORE over a sample of the items ranks nobody.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import CorruptError, NanochatError
from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.record.runs import read_training
from nanochat_core.record.verify import verify
from nanochat_core.store.provenance import steps_by_code
from nanochat_core.store.store import Store

log = logging.getLogger(__name__)
README = "https://github.com/karpathy/nanochat/blob/master/README.md"
WRITE_UPS = "https://github.com/karpathy/nanochat/blob/master/dev/LEADERBOARD.md"
COMMIT = "https://github.com/karpathy/nanochat/commit/"
MIXED = "several codes made its steps, so its time is no code's"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry."""

    clock_s: float | None
    val_bits_per_byte: float | None
    core: float | None
    description: str
    date: str
    commit: str | None
    contributors: str
    source: str
    """Where the row comes from: a URL, a run of the store, or a bundle's path."""
    is_published: bool = False
    lacks: str = ""
    """What keeps the row below the line; empty: it is a time to GPT-2."""


def _published(
    hours: float, bits: float | None, core: float, description: str, date: str, commit: str | None, contributors: str
) -> Row:
    return Row(
        clock_s=hours * 3600, val_bits_per_byte=bits, core=core, description=description, date=date, commit=commit,
        contributors=contributors, source=f"{COMMIT}{commit}" if commit else README, is_published=True,
    )  # fmt: skip


PUBLISHED = (
    _published(168.0, None, GPT2_CORE, "original GPT-2 checkpoint, 32 TPU v3", "2019", None, "OpenAI"),
    _published(3.04, 0.74833, 0.2585, "depth 24 baseline, slightly overtrained", "2026-01-29", "348fbb3", "karpathy"),
    _published(2.91, 0.74504, 0.2578, "depth 26, slightly undertrained, fp8", "2026-02-02", "a67eba3", "karpathy"),
    _published(2.76, 0.74645, 0.2602, "total batch of 1M tokens", "2026-02-05", "2c062aa", "karpathy"),
    _published(2.02, 0.71854, 0.2571, "ClimbMix as the data", "2026-03-04", "324e69c", "ddudek, karpathy"),
    _published(1.80, 0.71808, 0.2690, "autoresearch, round 1", "2026-03-09", "6ed7d1d", "karpathy"),
    _published(1.65, 0.71800, 0.2626, "autoresearch, round 2", "2026-03-14", "a825e63", "karpathy"),
)


def leaderboard(store: Store | None, bundles: Sequence[Path] = ()) -> list[Row]:
    """Those that reach GPT-2 by their clock, then the others by how near they come."""
    rows = [*PUBLISHED, *(_rows_of_store(store) if store else []), *(_row_of_bundle(path) for path in bundles)]
    ranked = [row for row in rows if not row.lacks]
    others = [row for row in rows if row.lacks]
    return sorted(ranked, key=lambda row: row.clock_s or 0.0) + sorted(others, key=lambda row: -(row.core or 0.0))


def _rows_of_store(store: Store) -> list[Row]:
    """The store's runs with a CORE; one row per trained model, however many runs found it cached."""
    rows: dict[str, Row] = {}
    for run_id in store.runs():
        try:
            record = store.run(run_id)
            core = next((line for line in record["steps"] if line["step"] == "evaluate_core"), None)
            if core is not None and (row := _row_of_run(store, run_id, record, core["metrics"])) is not None:
                rows.setdefault(core["fingerprint"], row)
        except (NanochatError, KeyError, TypeError) as error:
            log.warning("%s is left out: %s", run_id, error)
    return list(rows.values())


def _row_of_run(store: Store, run_id: str, record: dict[str, Any], core: dict[str, Any]) -> Row | None:
    training = read_training(store, record)
    if training is None or training.plan.has_base:  # who goes on from a model has no time to GPT-2
        return None
    metrics, made = training.artifact.metrics, training.artifact.provenance
    is_whole = bool(core.get("is_complete")) and core.get("max_per_benchmark") is None
    clock_s = training.clock.clock_s if training.clock else None
    depth = training.plan.pretrain.model.n_layer
    return Row(
        clock_s=clock_s,
        val_bits_per_byte=metrics.get("bits_per_byte"),
        core=core["core"],
        description=f"{record['config']['preset']}, depth {depth}, {metrics.get('device')}",
        date=str(made.get("finished_at", ""))[:10],
        commit=(made.get("git_commit") or "")[:7] or None,
        contributors="this store",
        source=run_id,
        lacks=MIXED if steps_by_code(made) else lacking(core["core"], is_whole=is_whole, clock_s=clock_s),
    )


def _row_of_bundle(path: Path) -> Row:
    verdict = verify(path)
    if not verdict.is_sound or verdict.claims is None:
        raise CorruptError(f"{path} is refused: {verdict.problems[0]}", hint=f"nanochat verify {path}")
    claims, first = verdict.claims, verdict.claims["runs"][0]
    is_whole = all(run["core_is_whole"] for run in claims["runs"])
    is_mixed = any(run.get("steps_by_code") for run in claims["runs"])
    return Row(
        clock_s=claims["clock_s"],
        val_bits_per_byte=claims["val_bits_per_byte"],
        core=claims["core"],
        description=verdict.description,
        date=claims["date"][:10],
        commit=(first["git_commit"] or "")[:7] or None,
        contributors="bundle",
        source=str(path),
        lacks=MIXED if is_mixed else lacking(claims["core"], is_whole=is_whole, clock_s=claims["clock_s"]),
    )


def lacking(core: float | None, *, is_whole: bool, clock_s: float | None) -> str:
    """What a run misses for a time to GPT-2; empty: nothing."""
    if core is None:
        return "CORE was not measured"
    if not is_whole:
        return "CORE over a part of the items or benchmarks"
    if core < GPT2_CORE:
        return f"CORE is {GPT2_CORE - core:.4f} below GPT-2's {GPT2_CORE}"
    return "" if clock_s is not None else "the step log does not hold every step, so there is no clock"
