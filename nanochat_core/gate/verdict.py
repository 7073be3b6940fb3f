"""What a night comes to: bits per byte by its own evidence and that of the nights before, everything else beside it.

Pure: runs in, verdict out. Effects are oriented so that above 0 is worse. A night that nothing can be compared with is
`unjudged`, and the reason is part of the verdict.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from nanochat_core.base.errors import NanochatError
from nanochat_core.gate import rule
from nanochat_core.gate.compared import Row, compare
from nanochat_core.gate.evidence import Found, num_regressions, weigh
from nanochat_core.gate.level import Level, Looks, estimate_level
from nanochat_core.gate.metrics import PRIMARY, NightRun
from nanochat_core.gate.probe import Pairs
from nanochat_core.report.tables import Table

Outcome = Literal["green", "red", "unsure", "unjudged"]
PRIOR_EFFECT_SD = 1.5  # regressions are mostly this large; what a night shows is shrunk towards none by it
EQUAL_BITS, PROBE = "equal bits", "a paired probe"  # what decides before a night's own training
MARKS = {"green": "GREEN", "red": "RED", "unsure": "UNSURE", "unjudged": "NOT JUDGED"}


class RegressionError(NanochatError):
    """The gate found a regression."""

    exit_code = 5


@dataclass(frozen=True)
class Past:
    """A night after the baseline and before this one."""

    run_id: str
    runs: tuple[NightRun, ...]
    is_red: bool
    effect_sd: float | None = None
    """What it was found to be worse by, where bits per byte were what made it red."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on a night."""

    outcome: Outcome
    summary: str
    decided_by: str = ""
    """What made it red or green: equal bits, a paired probe, this night, several nights together, a regression that is
    not over, another metric."""
    num_looks: int = 0
    num_baseline: int = 0
    degrees: float = 0.0
    effect_sd: float | None = None
    effect_frac: float | None = None
    likely_sd: float | None = None
    """The effect, shrunk: what was looked at because it looked bad is less bad than it looks."""
    p_value: float | None = None
    since: tuple[str, str] | None = None
    """The nights between which the level changed, for better or worse."""
    is_improved: bool = False
    """The level is better than the baseline's, by several nights."""
    multiplier: dict[str, Any] | None = None
    """Of tonight's first run over the baseline's most typical one: below 1, tonight needs more compute."""
    alarms_a_year: float | None = None
    """False alarms that nights may cost."""
    alarms_spent: float | None = None
    """Of those, what chance alone would have made of the nights since the baseline, tonight among them."""
    num_regressions: int | None = None
    """Found in those nights."""
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    runs: Sequence[NightRun],
    baseline: Sequence[NightRun],
    past: Sequence[Past] = (),
    *,
    prior_frac: float | None = None,
    budget: float = rule.BUDGET,
) -> Verdict:
    """The verdict on a night's runs after the nights `past`, oldest first, at `budget` false alarms a year.

    `prior_frac`: the relative standard deviation that is expected of bits per byte.
    """
    before = [night for night in past if night.runs]
    later = [
        Looks(night.runs[0].recipe, _values(night.runs, PRIMARY), is_red=night.is_red, effect_sd=night.effect_sd)
        for night in before
    ]
    level = estimate_level(looks_of(baseline), later, prior_frac=prior_frac)
    if level is None or not runs:
        return unjudged(f"a baseline takes two runs or more, and there are {len(baseline)}", num_looks=len(runs))
    values = _values(runs, PRIMARY)
    tonight = Looks(runs[0].recipe, values)
    found = weigh(level, tonight, later, budget=budget)
    rows = compare(runs, baseline, before[-1].runs if before else (), level)
    failed = [row for row in rows if row.state == "fail"]
    outcome, decided_by = found.outcome, found.decided_by
    if failed and outcome == "green":
        outcome, decided_by = ("red", "another metric") if len(runs) > 1 else ("unsure", "")
    effect = found.effect
    since: tuple[str, str] | None = None
    if found.first is not None:
        names = [*(night.run_id for night in before), "tonight"]
        since = names[-1 - found.first[0]], names[-1 - found.first[1]]
    return Verdict(
        outcome=outcome,
        summary=_summary(outcome, found, level, failed, num_looks=len(runs)),
        decided_by=decided_by,
        num_looks=len(runs),
        num_baseline=level.num_runs,
        degrees=round(level.degrees, 1),
        effect_sd=effect / level.scale if level.scale else None,
        effect_frac=effect / level.location,
        likely_sd=_shrunk(effect, level, len(runs)),
        p_value=found.p_value,
        since=since,
        is_improved=found.is_improved,
        multiplier=_multiplier(runs[0], baseline, level),
        alarms_a_year=budget,
        alarms_spent=budget * (len(later) + 1) / rule.NIGHTS_A_YEAR,
        num_regressions=num_regressions([*later, replace(tonight, is_red=found.outcome == "red")]),
        rows=rows,
        notes=tuple(_notes(level, rows, found, since)),
    )


def _shrunk(effect: float, level: Level, num_looks: int) -> float | None:
    if not level.scale:
        return None
    error = level.standard_error(num_looks) / level.scale
    return effect / level.scale * PRIOR_EFFECT_SD**2 / (PRIOR_EFFECT_SD**2 + error**2)


def looks_of(runs: Sequence[NightRun]) -> list[Looks]:
    """Runs as the nights that they were made in; one that does not say counts as a night of its own."""
    groups: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        groups.setdefault((run.night or run.fingerprint, run.recipe), []).append(run.metrics[PRIMARY])
    return [Looks(recipe, tuple(values)) for (_, recipe), values in groups.items()]


def unjudged(reason: str, *, num_looks: int = 0) -> Verdict:
    """A night without a baseline to compare with."""
    return Verdict(outcome="unjudged", summary=reason, num_looks=num_looks)


def unfit(error: NanochatError, *, num_looks: int = 0) -> Verdict:
    """A night whose training made nothing that can be measured: no noise explains that, so no seed confirms it."""
    return Verdict(outcome="red", summary=f"the training with a new seed failed: {error.message}", num_looks=num_looks)


def by_equal_bits(steps: int, rows: Sequence[Row], *, num_baseline: int) -> Verdict:
    """A night whose short training made the baseline's weights."""
    told = f"after {steps} steps at the baseline's seed the weights are equal bit for bit: nothing that decides changed"
    return Verdict(
        outcome="green",
        summary=told,
        decided_by=EQUAL_BITS,
        num_baseline=num_baseline,
        rows=tuple(rows),
        notes=tuple(_warnings(rows)),
    )


def by_pairs(steps: int, pairs: Pairs, *, num_baseline: int) -> Verdict:
    """A night whose short trainings are worse than the baseline's."""
    return Verdict(
        outcome="red",
        summary=f"a probe of {steps} steps is {pairs.told()}",
        decided_by=PROBE,
        num_baseline=num_baseline,
        effect_frac=pairs.effect_frac,
        p_value=pairs.p_value,
        notes=("it was not trained in full: `nanochat nightly --full` does so, for a change that pays later",),
    )


def _values(runs: Sequence[NightRun], name: str) -> tuple[float, ...]:
    return tuple(run.metrics[name] for run in runs if name in run.metrics)


def _multiplier(run: NightRun, baseline: Sequence[NightRun], level: Level) -> dict[str, Any]:
    """Of tonight over the baseline's most typical run."""
    from nanochat_core.record.multiplier import compute_multiplier  # numpy, which a refusal need not wait for

    typical = min(baseline, key=lambda each: abs(each.metrics[PRIMARY] - level.location))
    noise = level.scale / level.location
    return asdict(compute_multiplier(run.curve, typical.curve, names=("tonight", "the baseline"), noise_frac=noise))


def _summary(outcome: str, found: Found, level: Level, failed: list[Row], *, num_looks: int) -> str:
    effect = found.effect
    seeds = f"{num_looks} seed{'s' if num_looks > 1 else ''}"
    how = found.decided_by if found.decided_by.endswith("together") else seeds
    told = (
        f"bits per byte {abs(effect) / level.location:.3%} {'worse' if effect > 0 else 'better'} than the baseline "
        f"({effect / level.scale if level.scale else 0.0:+.1f} sd, p = {found.p_value:.2g}, {how})"
    )
    if outcome == "red" and found.decided_by.startswith("a regression"):
        told += f"; {found.decided_by}"
    if failed:
        told += "; " + ", ".join(f"{row.label} {row.told}" for row in failed)
    return f"{told}; a confirming seed is needed" if outcome == "unsure" else told


def _notes(
    level: Level, rows: tuple[Row, ...], found: Found, since: tuple[str, str] | None
) -> list[str]:  # fmt: skip
    notes = []
    if since is not None:
        between = f"in {since[0]}" if since[0] == since[1] else f"between {since[0]} and {since[1]}"
        what = "is better" if found.is_improved else "became worse"
        more = ": `nanochat nightly promote` makes it the baseline, or a fall back to the old level passes unseen"
        notes.append(f"the level {what} {between}{more if found.is_improved else ''}")
    if level.degrees < rule.READY_DEGREES:
        notes.append(
            f"the noise is known from {level.degrees:.0f} degrees of freedom only: small regressions pass unseen until "
            f"there are {rule.READY_DEGREES} (docs/nightly.md has the power)"
        )
    return notes + _warnings(rows)


def _warnings(rows: Sequence[Row]) -> list[str]:
    return [f"{row.label} {row.told}: a warning" for row in rows if row.state in ("warn", "lost", "suspect")]


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
    decided = f" Decided by {verdict['decided_by']}." if verdict.get("decided_by") else ""
    lines += ["", f"Night `{night['run_id']}`; seeds (bits per byte): {seeds}.{decided}"]
    baseline = night.get("baseline") or "none"
    return "\n".join([*lines, f"Baseline: {baseline}, {verdict['num_baseline']} runs.{_budget(verdict)}", ""])


def _budget(verdict: dict[str, Any]) -> str:
    allowed = verdict.get("alarms_a_year")
    if allowed is None:
        return ""
    found = verdict["num_regressions"]
    return (
        f" Of {allowed:g} false alarms a year the nights since have spent {verdict['alarms_spent']:.2f}; "
        f"{found or 'no'} regression{'' if found == 1 else 's'} found in them."
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def figure(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    figures = figure("value", ".6g"), f"{row['location']:.6g}", f"{row['scale']:.2g}"
    return row["label"], *figures, figure("effect_frac", "+.3%"), figure("effect_sd", "+.1f"), row["state"]
