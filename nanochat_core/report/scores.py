"""CORE and the chat benchmarks as rows of words: score, error, what it is compared with, and what limits it.

From a ref's metrics or from the artifact's own file, which says more; both go by the same names. No torch, no store and
no matplotlib, since the markdown summary needs it in the middle of a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat_core.base.intervals import wilson_interval
from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.report.references import STAGE_NAMES

NUM_CORE = 22
MIN_ERROR = 1e-9  # below it, errors are no measure of a distance


@dataclass(frozen=True)
class CoreSummary:
    """CORE in words."""

    score: str
    error: str
    note: str
    """For under the number."""
    compared: str
    """A sentence: how far from GPT-2's; empty when the two cannot be compared."""
    limits: tuple[str, ...]
    """Sentences: why it is less than the full score; empty when it is that."""


@dataclass(frozen=True)
class StageCell:
    """One stage's score in one benchmark."""

    accuracy: str
    error: str
    """Half of the 95% interval's width, in points."""
    extra: str
    """pass@k for k > 1."""


@dataclass(frozen=True)
class StageRow:
    """One benchmark."""

    name: str
    cells: tuple[StageCell | None, ...]
    chance: str
    """Empty where guessing scores nothing."""
    num_asked: int
    is_limited: bool


@dataclass(frozen=True)
class Total:
    """ChatCORE of one stage."""

    score: str
    error: str
    """Standard error; empty where there is none."""


@dataclass(frozen=True)
class ChatCore:
    """The last stage's ChatCORE in words."""

    score: str
    note: str


@dataclass(frozen=True)
class StageTable:
    """Benchmarks against stages."""

    stages: tuple[str, ...]
    rows: tuple[StageRow, ...]
    totals: tuple[Total, ...]
    """ChatCORE of each stage."""
    chat_core: ChatCore | None
    notes: tuple[str, ...]


def core_summary(core: Mapping[str, Any]) -> CoreSummary | None:
    """From core.json or from the metrics of its step; None when CORE was not measured."""
    if "core" not in core:
        return None
    score, error = core["core"], core.get("standard_error", core.get("core_standard_error", 0.0))
    limits = core_limits(core)
    distance = score - GPT2_CORE
    where = f"{abs(distance):.4f} {'above' if distance >= 0 else 'below'} the {GPT2_CORE:.4f} of GPT-2 (1.6B)"
    if error > MIN_ERROR:
        where += f", {abs(distance) / error:.1f} standard errors"
    note = f"± {error:.4f}, " + ("not the full score" if limits else f"GPT-2 has {GPT2_CORE:.4f}")
    is_comparable = core.get("is_complete", True)
    return CoreSummary(f"{score:.4f}", f"± {error:.4f}", note, f"{where}." if is_comparable else "", limits)


def core_limits(core: Mapping[str, Any]) -> tuple[str, ...]:
    """What keeps this CORE from being the published one."""
    limits = []
    if not core.get("is_complete", True):
        missing = [str(name) for name in core.get("missing") or []]
        lacks = f": {', '.join(missing)} missing" if missing else ""
        measured = core.get("num_benchmarks") or len(core.get("benchmarks") or {})
        limits.append(
            f"Incomplete, {measured} of {NUM_CORE} benchmarks{lacks}. "
            "The score is the mean of those measured and cannot be held against a full one."
        )
    if core.get("max_per_benchmark"):
        limits.append(
            f"At most {core['max_per_benchmark']:,} items of each benchmark: a quick look, not the full score."
        )
    return tuple(limits)


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> StageTable:
    """From benchmarks.json, or the metrics, by step; steps that are no stage are passed over."""
    found = {step: stages[step] for step in STAGE_NAMES if (stages.get(step) or {}).get("benchmarks")}
    names = list(dict.fromkeys(name for stage in found.values() for name in stage["benchmarks"]))
    return StageTable(
        stages=tuple(STAGE_NAMES[step] for step in found),
        rows=tuple(_row(name, [stage["benchmarks"].get(name) for stage in found.values()]) for name in names),
        totals=tuple(_total(stage) for stage in found.values()),
        chat_core=_chat_core(found),
        notes=_notes(found),
    )


def _row(name: str, scores: list[Mapping[str, Any] | None]) -> StageRow:
    some = next(score for score in scores if score is not None)
    chance = some.get("baseline")
    return StageRow(
        name=str(some.get("title", name)),
        cells=tuple(_cell(score) if score else None for score in scores),
        chance=f"{chance:.0%}" if chance else "",
        num_asked=int(some["num_asked"]),
        is_limited=bool(some.get("is_limited")),
    )


def _cell(score: Mapping[str, Any]) -> StageCell:
    low, high = score.get("interval_95") or wilson_interval(score["accuracy"], max(1, score["num_asked"]))
    tries = {int(k): value for k, value in (score.get("pass_at_k") or {}).items() if int(k) > 1}
    extra = ", ".join(f"pass@{k} {value:.1%}" for k, value in sorted(tries.items()))
    return StageCell(f"{score['accuracy']:.1%}", f"{50 * (high - low):.1f}", extra)


def _total(stage: Mapping[str, Any]) -> Total:
    score, error = stage.get("chat_core"), stage.get("chat_core_standard_error")
    return Total("–" if score is None else f"{score:.4f}", "" if error is None else f"{error:.4f}")


def _chat_core(found: Mapping[str, Mapping[str, Any]]) -> ChatCore | None:
    told = {STAGE_NAMES[step]: stage for step, stage in found.items() if stage.get("chat_core") is not None}
    if not told:
        return None
    *before, last = told
    error = told[last].get("chat_core_standard_error")
    parts = [f"± {error:.4f}"] if error is not None else []
    most = len(told[last].get("benchmarks") or {})
    for name in reversed(before):  # the mean of other benchmarks is another measure, and says so
        num = len(told[name].get("benchmarks") or {})
        parts.append(f"{name} {told[name]['chat_core']:.4f}" + ("" if num == most else f" over {num} of {most}"))
    return ChatCore(f"{told[last]['chat_core']:.4f}", f"{last}: " + ", ".join(parts) if parts else last)


def _notes(found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    every = [(STAGE_NAMES[step], score) for step, stage in found.items() for score in stage["benchmarks"].values()]
    notes = []
    if any(score.get("is_limited") for _, score in every):
        notes.append("Benchmarks marked * were cut short: a quick look, not the full score.")
    too_long: dict[str, int] = {}
    for stage, score in every:
        too_long[stage] = too_long.get(stage, 0) + int(score.get("num_too_long") or 0)
    if any(too_long.values()):
        told = ", ".join(f"{count:,} ({stage})" for stage, count in too_long.items() if count)
        notes.append(f"Questions longer than the model's context count as wrong: {told}.")
    return tuple(notes)
