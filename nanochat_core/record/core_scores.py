"""Check of CORE: every figure of core.json computed again from the items, with the published baselines and shots.

By the functions that made it (evals/core/results.py, whose formulas its own tests work out by hand) and what is
published about the benchmarks (evals/core/published.py). Whether an item is right follows from its losses in multiple
choice (the choice with the lowest one is chosen); in language modelling the log says it without more.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from nanochat_core.evals.core.bundle import Benchmark
from nanochat_core.evals.core.published import BY_LABEL, PUBLISHED
from nanochat_core.evals.core.results import LOSS_DIGITS, Accuracy, headline, summary
from nanochat_core.record.chain import manifest_name
from nanochat_core.record.evidence import CORE, OUTCOMES, Evidence
from nanochat_core.record.problems import differences, is_count, is_number, shown

ITEM_FIELDS = {"benchmark", "index", "is_right", "gold", "chosen"}
CHOICE_FIELDS, WRITTEN_FIELDS = ITEM_FIELDS | {"losses"}, ITEM_FIELDS | {"num_tokens"}
SOURCES = {  # where a figure is from that does not follow from the items
    "max_per_benchmark": "the configuration gives",
    "bundle_digest": "the manifest of core_prompts gives",
    **dict.fromkeys(("baseline_percent", "num_fewshot", "type", "category"), "as published it is"),
}
Tallies = Mapping[str, tuple[int, int]]
"""Benchmark -> (right, asked)."""


def is_whole(scores: Mapping[str, Any]) -> bool:
    """Whether core.json is of all items of all published benchmarks."""
    asked = {label: entry.get("num_items") for label, entry in scores["benchmarks"].items()}
    return asked == {published.label: published.num_items for published in PUBLISHED}


def check_core(evidence: Evidence) -> None:
    """Add what contradicts itself among core.json, outcomes.jsonl and the published table to the problems."""
    if evidence.core is not None and evidence.outcomes is not None:
        with evidence.checking(CORE):
            _check_core(evidence, evidence.core)


def _check_core(evidence: Evidence, scores: dict[str, Any]) -> None:
    tallies, benchmarks = tally(evidence), scores.get("benchmarks")
    if not isinstance(benchmarks, dict) or not all(isinstance(entry, dict) for entry in benchmarks.values()):
        evidence.say(CORE, "benchmarks", "is no table of benchmarks")
        return
    if not tallies:
        evidence.say(CORE, "benchmarks", "have no item in outcomes.jsonl")
        return
    prompts = evidence.manifests.get("core_prompts")
    digest: Any = prompts.metrics.get("bundle_digest") if prompts else scores.get("bundle_digest")
    expected = summary(
        [
            Accuracy(_benchmark(label, benchmarks.get(label, {})), right, asked)
            for label, (right, asked) in tallies.items()
        ],
        max_per_benchmark=evidence.plan.config.core.max_per_benchmark if evidence.plan else None,
        missing=_missing(scores.get("missing"), tallies),
        bundle_digest=digest,
    )
    for path, claimed, found in differences(scores, expected):
        source = SOURCES.get(path.rpartition(".")[2], "the items give")
        evidence.say(CORE, path, f"is {shown(claimed)}, {source} {shown(found)}")
    if artifact := evidence.manifests.get("evaluate_core"):
        for path, claimed, found in differences(dict(artifact.metrics), headline(expected), "metrics"):
            evidence.say(manifest_name("evaluate_core"), path, f"is {shown(claimed)}, the items give {shown(found)}")


def _benchmark(label: str, told: Mapping[str, Any]) -> Benchmark:
    """How it is published; of one that nobody published, what core.json says of it."""
    known = BY_LABEL.get(label)
    baseline: Any = told.get("baseline_percent")
    kind: Any = told.get("type")
    shots: Any = told.get("num_fewshot")
    category: Any = told.get("category")
    if not (is_number(baseline) and (baseline == known.baseline_percent if known else 0 <= baseline / 100 < 1)):
        baseline = float(known.baseline_percent) if known else 0.0
    return Benchmark(
        label=label,
        kind=known.kind if known else kind,
        data="",
        num_fewshot=known.num_fewshot if known else shots,
        delimiter="",
        baseline_percent=baseline,
        category=known.category if known else category,
    )


def _missing(listed: Any, tallies: Tallies) -> Any:
    """What core.json may list as missing: the published benchmarks that have no item, then others."""
    unmeasured = [published.label for published in PUBLISHED if published.label not in tallies]
    is_sound = isinstance(listed, list) and listed[: len(unmeasured)] == unmeasured
    return listed if is_sound and not tallies.keys() & set(map(str, listed)) else unmeasured


def tally(evidence: Evidence) -> Tallies:
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
    return {label: (sum(items.values()), len(items)) for label, items in seen.items()}


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
