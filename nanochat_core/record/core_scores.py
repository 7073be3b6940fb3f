"""Check of CORE: every figure of core.json computed again from the items, with the published baselines and shots.

The formulas are those of evals/core/results.py, which needs no torch; what is published about the benchmarks is in
evals/core/published.py. Whether an item is right follows from its losses in multiple choice (the choice with the lowest
one is chosen); in language modelling the log says it without more.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat_core.base.intervals import Z_95, wilson_interval
from nanochat_core.evals.core.published import BY_LABEL, PUBLISHED, Published
from nanochat_core.evals.core.results import LOSS_DIGITS, centered, headline
from nanochat_core.record.chain import manifest_name
from nanochat_core.record.evidence import CORE, OUTCOMES, Evidence
from nanochat_core.record.problems import differences, is_close, is_count, is_number, shown

ITEM_FIELDS = {"benchmark", "index", "is_right", "gold", "chosen"}
CHOICE_FIELDS, WRITTEN_FIELDS = ITEM_FIELDS | {"losses"}, ITEM_FIELDS | {"num_tokens"}
FIELDS = {
    "core", "standard_error", "interval_95", "num_items", "max_per_benchmark", "is_complete", "missing",
    "bundle_digest", "benchmarks",
}  # fmt: skip
BENCHMARK_FIELDS = {
    "accuracy", "standard_error", "interval_95", "centered", "baseline_percent", "num_items", "num_fewshot", "type",
    "category",
}  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """The items of one benchmark. Not evals' own Accuracy, on purpose: a mistake there must not confirm itself here."""

    num_items: int
    num_right: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_items

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_items)


def is_whole(scores: Mapping[str, Any]) -> bool:
    """Whether core.json is of all items of all published benchmarks."""
    asked = {label: entry.get("num_items") for label, entry in scores["benchmarks"].items()}
    return asked == {published.label: published.num_items for published in PUBLISHED}


def check_core(evidence: Evidence) -> None:
    """Add what contradicts itself among core.json, outcomes.jsonl and the published table to the problems."""
    if evidence.core is not None and evidence.outcomes is not None:
        with evidence.checking(CORE):
            _check_core(evidence, evidence.core)


def _check_core(evidence: Evidence, scores: Mapping[str, Any]) -> None:
    tallies = tally(evidence)
    benchmarks = scores.get("benchmarks")
    for name in sorted(FIELDS - scores.keys()):
        evidence.say(CORE, name, "is missing")
    for name in sorted(scores.keys() - FIELDS):
        evidence.say(CORE, name, "is unknown")
    if not isinstance(benchmarks, dict) or not all(isinstance(value, dict) for value in benchmarks.values()):
        evidence.say(CORE, "benchmarks", "is no table of benchmarks")
        return
    for label in sorted(tallies.keys() ^ benchmarks.keys()):
        where = "no item" if label in benchmarks else "no line in core.json"
        evidence.say(CORE, f"benchmarks.{label}", f"has {where}")
    for label in sorted(tallies.keys() & benchmarks.keys()):
        _check_benchmark(evidence, label, benchmarks[label], tallies[label])
    _check_whole(evidence, scores, tallies)


def tally(evidence: Evidence) -> dict[str, Tally]:
    """Right and asked by benchmark; rows that are unsound are told and left out."""
    seen: dict[str, dict[int, bool]] = {}
    for row in evidence.outcomes or []:
        where = f"line {row['line']}"
        if not _is_sound(evidence, row, where):
            continue
        items = seen.setdefault(row["benchmark"], {})
        if row["index"] in items:
            evidence.say(OUTCOMES, f"{where} field index:", f"item {row['index']} of {row['benchmark']} is there twice")
        items[row["index"]] = row["is_right"]
    return {label: Tally(len(items), sum(items.values())) for label, items in seen.items()}


def _is_sound(evidence: Evidence, row: Mapping[str, Any], where: str) -> bool:
    before = len(evidence.problems)
    expected = WRITTEN_FIELDS if row.get("gold") is None else CHOICE_FIELDS
    for name in sorted((expected | {"line"}) ^ row.keys()):
        evidence.say(OUTCOMES, f"{where} field {name}:", "is unknown" if name in row else "is missing")
    for name, is_fine in KINDS.items():
        if name in row and not is_fine(row[name]):
            evidence.say(OUTCOMES, f"{where} field {name}:", f"{shown(row[name])} is not what it can be")
    if len(evidence.problems) > before:
        return False
    published = BY_LABEL.get(row["benchmark"])
    if published is not None and row["index"] >= published.num_items:
        evidence.say(OUTCOMES, f"{where} field index:", f"{row['benchmark']} has {published.num_items:,} items")
    if published is not None and (published.kind == "language_modeling") != (row["gold"] is None):
        text = f"{shown(row['gold'])} does not fit {published.kind}, which {row['benchmark']} is"
        evidence.say(OUTCOMES, f"{where} field gold:", text)
    elif row["gold"] is not None:
        _check_choice(evidence, row, where)
    return True


def _is_index(value: Any) -> bool:
    return value is None or is_count(value)


def _are_losses(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(loss is None or is_number(loss) for loss in value)


KINDS: dict[str, Callable[[Any], bool]] = {
    "benchmark": lambda value: isinstance(value, str),
    "index": is_count,
    "is_right": lambda value: isinstance(value, bool),
    "gold": _is_index,
    "chosen": _is_index,
    "losses": _are_losses,
    "num_tokens": is_count,
}


def _check_choice(evidence: Evidence, row: Mapping[str, Any], where: str) -> None:
    """The choice with the lowest loss is chosen, and right where it is the gold one."""
    losses = [math.inf if loss is None else loss for loss in row["losses"]]
    chosen, gold = row["chosen"], row["gold"]
    if len(losses) < 2 or min(losses) < 0:
        evidence.say(OUTCOMES, f"{where} field losses:", f"{shown(row['losses'])}: two choices or more, none below 0")
    elif chosen is None or max(chosen, gold) >= len(losses):
        evidence.say(OUTCOMES, f"{where} field chosen:", f"{shown(chosen)} of {len(losses)} choices, gold {gold}")
    elif losses[chosen] > min(losses) + 2 * 10**-LOSS_DIGITS:  # they are rounded, and equals may have changed places
        text = f"{chosen}, the lowest loss is that of {losses.index(min(losses))}"
        evidence.say(OUTCOMES, f"{where} field chosen:", text)
    elif row["is_right"] != (chosen == gold):
        evidence.say(
            OUTCOMES, f"{where} field is_right:", f"{shown(row['is_right'])}, {chosen} was chosen, gold is {gold}"
        )


def _check_benchmark(evidence: Evidence, label: str, claimed: Mapping[str, Any], found: Tally) -> None:
    where = f"benchmarks.{label}"
    for name in sorted(BENCHMARK_FIELDS - claimed.keys()):
        evidence.say(CORE, f"{where}.{name}", "is missing")
    for name in sorted(claimed.keys() - BENCHMARK_FIELDS):
        evidence.say(CORE, f"{where}.{name}", "is unknown")
    baseline = claimed.get("baseline_percent")
    expected: dict[str, Any] = {
        "accuracy": found.accuracy,
        "standard_error": found.standard_error,
        "num_items": found.num_items,
    }
    if isinstance(baseline, int | float) and 0 <= baseline < 100:
        expected["centered"] = centered(found.accuracy, baseline)
    for name, value in expected.items():
        _check_value(evidence, f"{where}.{name}", claimed.get(name), value, "the items give")
    if label in BY_LABEL:
        for name, value in _published(BY_LABEL[label]).items():
            _check_value(evidence, f"{where}.{name}", claimed.get(name), value, "as published it is")
    interval = list(wilson_interval(found.accuracy, found.num_items))
    _check_interval(evidence, f"{where}.interval_95", claimed.get("interval_95"), interval)


def _published(published: Published) -> dict[str, Any]:
    return {
        "baseline_percent": published.baseline_percent,
        "num_fewshot": published.num_fewshot,
        "type": published.kind,
        "category": published.category,
    }


def _check_value(evidence: Evidence, where: str, claimed: Any, expected: Any, source: str) -> None:
    is_same = is_close(claimed, expected) if is_number(expected) else claimed == expected
    if not is_same or isinstance(claimed, bool) != isinstance(expected, bool):
        evidence.say(CORE, where, f"is {shown(claimed)}, {source} {shown(expected)}")


def _check_interval(evidence: Evidence, where: str, claimed: Any, expected: list[float]) -> None:
    if any(True for _ in differences(claimed, expected)):
        evidence.say(CORE, where, f"is {shown(claimed)}, the items give {shown(expected)}")


def _check_whole(evidence: Evidence, scores: Mapping[str, Any], tallies: Mapping[str, Tally]) -> None:
    """The figures over all benchmarks."""
    baselines = {label: scores["benchmarks"].get(label, {}).get("baseline_percent") for label in tallies}
    if not tallies or not all(is_number(baseline) and baseline < 100 for baseline in baselines.values()):
        return
    shares = [centered(found.accuracy, baselines[label]) for label, found in tallies.items()]
    errors = [found.standard_error / (1 - baselines[label] / 100) for label, found in tallies.items()]
    core, error = math.fsum(shares) / len(shares), math.sqrt(math.fsum(e**2 for e in errors)) / len(errors)
    expected: dict[str, Any] = {
        "core": core,
        "standard_error": error,
        "num_items": sum(found.num_items for found in tallies.values()),
        "is_complete": is_whole({"benchmarks": {label: vars(found) for label, found in tallies.items()}}),
    }
    for name, value in expected.items():
        _check_value(evidence, name, scores.get(name), value, "the items give")
    _check_interval(evidence, "interval_95", scores.get("interval_95"), [core - Z_95 * error, core + Z_95 * error])
    _check_origin(evidence, scores, tallies)


def _check_origin(evidence: Evidence, scores: Mapping[str, Any], tallies: Mapping[str, Tally]) -> None:
    """Which items were asked, by the configuration and the manifests."""
    unmeasured = [published.label for published in PUBLISHED if published.label not in tallies]
    listed = scores.get("missing")
    if (
        not isinstance(listed, list)
        or listed[: len(unmeasured)] != unmeasured
        or tallies.keys() & set(map(str, listed))
    ):
        evidence.say(CORE, "missing", f"is {shown(listed)}, the items give {shown(unmeasured)}")
    limit = evidence.plan.config.core.max_per_benchmark if evidence.plan else None
    _check_value(evidence, "max_per_benchmark", scores.get("max_per_benchmark"), limit, "the configuration gives")
    if (prompts := evidence.manifests.get("core_prompts")) is not None:
        digest = prompts.metrics.get("bundle_digest")
        _check_value(
            evidence, "bundle_digest", scores.get("bundle_digest"), digest, "the manifest of core_prompts gives"
        )
    if (artifact := evidence.manifests.get("evaluate_core")) is None or not scores.keys() >= FIELDS:
        return
    for path, claimed, found in differences(dict(artifact.metrics), headline(dict(scores)), "metrics"):
        evidence.say(manifest_name("evaluate_core"), path, f"is {shown(claimed)}, core.json gives {shown(found)}")
