"""What a night comes to: bits per byte by the two-look rule, everything else beside it, in figures and in words.

Pure: runs in, verdict out. Effects are oriented so that above 0 is worse. A night that nothing can be compared with is
`unjudged`, and the reason is part of the verdict.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nanochat_core.base.errors import NanochatError
from nanochat_core.gate import rule
from nanochat_core.gate.level import Level, estimate_level
from nanochat_core.gate.metrics import FAIL_SD, METRICS, PRIMARY, WARN_SD, Metric
from nanochat_core.report.tables import Table

Outcome = Literal["green", "red", "unsure", "unjudged"]
Curve = Sequence[tuple[float, float]]
MARKS = {"green": "GREEN", "red": "RED", "unsure": "UNSURE", "unjudged": "NOT JUDGED"}


class RegressionError(NanochatError):
    """The gate found a regression."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class NightRun:
    """One training of a night and what it measured."""

    seed: int
    recipe: str
    """Digest of everything that decides the result but the seed: equal recipes are replicates."""
    fingerprint: str
    """Of the pretraining."""
    metrics: dict[str, float]
    conditions: dict[str, Any]
    """What has to be equal for two nights to be compared."""
    curve: tuple[tuple[float, float], ...] = ()
    """(FLOPs, bits per byte) at each validation."""
    seconds: float = 0.0

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "NightRun":
        points = tuple((float(flops), float(value)) for flops, value in record["curve"])
        return cls(**{**record, "curve": points})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric against the baseline."""

    name: str
    label: str
    value: float
    location: float
    scale: float
    effect_sd: float | None
    """None: the scale is 0."""
    effect_frac: float
    state: Literal["ok", "better", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on a night."""

    outcome: Outcome
    summary: str
    num_looks: int = 0
    num_baseline: int = 0
    degrees: int = 0
    effect_sd: float | None = None
    effect_frac: float | None = None
    p_value: float | None = None
    multiplier: dict[str, Any] | None = None
    """Of tonight's first run over the baseline's most typical one: below 1, tonight needs more compute."""
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    runs: Sequence[NightRun], baseline: Sequence[NightRun], replicates: Sequence[Sequence[NightRun]] = ()
) -> Verdict:
    """The verdict on the first two of `runs`. `replicates`: further groups of equal recipe, which tell of the noise."""
    looks = list(runs[:2])
    level = estimate_level(_values(baseline, PRIMARY), [_values(group, PRIMARY) for group in replicates])
    if level is None or not looks:
        return unjudged(f"a baseline takes two runs or more, and there are {len(baseline)}", num_looks=len(looks))
    values = [run.metrics[PRIMARY] for run in looks]
    rows = tuple(row for metric in METRICS if (row := _row(metric, looks, baseline, level)) is not None)
    outcome = rule.look(level, *values)
    failed = [row for row in rows if row.state == "fail"]
    if failed and outcome == "green":
        outcome = "red" if len(looks) > 1 else "unsure"
    effect = rule.combined(values[0], values[-1], rule.CAP * level.scale) - level.location
    p_value = rule.p_value(level, *values)
    return Verdict(
        outcome=outcome,
        summary=_summary(outcome, effect, p_value, level, failed, num_looks=len(looks)),
        num_looks=len(looks),
        num_baseline=level.num_runs,
        degrees=level.degrees,
        effect_sd=effect / level.scale if level.scale else None,
        effect_frac=effect / level.location,
        p_value=p_value,
        multiplier=_multiplier(looks[0], baseline, level),
        rows=rows,
        notes=tuple(_notes(level, rows)),
    )


def unjudged(reason: str, *, num_looks: int = 0) -> Verdict:
    """A night without a baseline to compare with."""
    return Verdict(outcome="unjudged", summary=reason, num_looks=num_looks)


def unfit(error: NanochatError, *, num_looks: int = 0) -> Verdict:
    """A night whose training made nothing that can be measured: no noise explains that, so no seed confirms it."""
    return Verdict(outcome="red", summary=f"the training with a new seed failed: {error.message}", num_looks=num_looks)


def _values(runs: Sequence[NightRun], name: str) -> list[float]:
    return [run.metrics[name] for run in runs if name in run.metrics]


def _row(metric: Metric, looks: list[NightRun], baseline: Sequence[NightRun], primary: Level) -> Row | None:
    """The metric of the night (mean of its runs); None where tonight or the baseline does not have it."""
    values, before = _values(looks, metric.name), _values(baseline, metric.name)
    level = primary if metric.name == PRIMARY else estimate_level(before, floor_frac=0.0)
    if level is None or not values:
        return None
    value, sign = sum(values) / len(values), -1.0 if metric.is_better_high else 1.0
    effects = [sign * (each - level.location) for each in values]
    effect = sign * (value - level.location)
    has_gpu = str(looks[0].conditions.get("device")) != "cpu"
    state: Literal["ok", "better", "warn", "fail"] = "ok"
    base = abs(level.location)
    if metric.fail is not None and (has_gpu or not metric.is_speed) and _all_worse(effects, metric.fail, base, level):
        state = "fail"
    elif effect > max(metric.tolerance * base, WARN_SD * level.scale):
        state = "warn"
    elif -effect > max(metric.tolerance * base, WARN_SD * level.scale):
        state = "better"
    return Row(
        name=metric.name, label=metric.label, value=value, location=level.location, scale=level.scale, state=state,
        effect_sd=effect / level.scale if level.scale else None, effect_frac=effect / base if base else 0.0,
    )  # fmt: skip


def _all_worse(effects: list[float], fraction: float, base: float, level: Level) -> bool:
    return min(effects) > max(fraction * base, FAIL_SD * level.scale)


def _multiplier(run: NightRun, baseline: Sequence[NightRun], level: Level) -> dict[str, Any]:
    """Of tonight over the baseline's most typical run."""
    from nanochat_core.record.multiplier import compute_multiplier  # numpy, which a refusal need not wait for

    typical = min(baseline, key=lambda each: abs(each.metrics[PRIMARY] - level.location))
    noise = level.scale / level.location
    return asdict(compute_multiplier(run.curve, typical.curve, names=("tonight", "the baseline"), noise_frac=noise))


def _summary(
    outcome: str, effect: float, p_value: float, level: Level, failed: list[Row], *, num_looks: int
) -> str:  # fmt: skip
    direction = "worse" if effect > 0 else "better"
    told = (
        f"bits per byte {abs(effect) / level.location:.3%} {direction} than the baseline "
        f"({effect / level.scale if level.scale else 0.0:+.1f} sd, p = {p_value:.2g}, "
        f"{num_looks} seed{'s' if num_looks > 1 else ''})"
    )
    if failed:
        told += "; far worse: " + ", ".join(f"{row.label} {row.effect_frac:+.1%}" for row in failed)
    return f"{told}; a confirming seed is needed" if outcome == "unsure" else told


def _notes(level: Level, rows: tuple[Row, ...]) -> list[str]:
    notes = []
    if level.degrees < rule.READY_DEGREES:
        notes.append(
            f"the noise is known from {level.degrees} degrees of freedom only: small regressions pass unseen until "
            f"there are {rule.READY_DEGREES} (docs/nightly.md has the power)"
        )
    notes += [f"{row.label} is {row.effect_frac:.1%} worse: a warning" for row in rows if row.state == "warn"]
    return notes


def markdown(night: dict[str, Any]) -> str:
    """A night's verdict as a page: what happened first, then the figures. Takes the night's record."""
    verdict, source = night["verdict"], night["source"]
    commit = (source.get("git_commit") or "unknown")[:12] + (" with changes" if source.get("git_patch_sha256") else "")
    lines = [
        f"# {MARKS[verdict['outcome']]}: {night['preset']} at {commit}",
        "",
        f"{verdict['summary']}.",
        "",
    ]
    if verdict["multiplier"] and verdict["multiplier"]["value"] is not None:
        value = verdict["multiplier"]
        interval = f" ({value['low']:.3f} to {value['high']:.3f})" if value["low"] is not None else ""
        lines += [f"Compute multiplier {value['value']:.3f}{interval}: {value['statement']}.", ""]
    if verdict["rows"]:
        headers = ("metric", "tonight", "baseline", "sd", "worse by", "in sd", "")
        lines += [Table(headers, [_cells(row) for row in verdict["rows"]]).markdown(), ""]
    lines += [f"- {note}" for note in verdict["notes"]]
    seeds = ", ".join(f"{run['seed']} ({run['metrics'][PRIMARY]:.5f})" for run in night["runs"]) or "none measured"
    lines += ["", f"Night `{night['run_id']}`; seeds (bits per byte): {seeds}."]
    baseline = night.get("baseline") or "none"
    return "\n".join([*lines, f"Baseline: {baseline}, {verdict['num_baseline']} runs.", ""])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    in_sd = "-" if row["effect_sd"] is None else f"{row['effect_sd']:+.1f}"
    figures = f"{row['value']:.6g}", f"{row['location']:.6g}", f"{row['scale']:.2g}", f"{row['effect_frac']:+.3%}"
    return row["label"], *figures, in_sd, row["state"]
