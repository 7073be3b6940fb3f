"""What the steps have in common that take documents out of the text: the text so far in, the text without them out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat_core.base.units import count
from nanochat_core.pipeline.step import Check, Metrics, StepRun
from nanochat_core.plan import RunPlan

if TYPE_CHECKING:
    from nanochat_core.data.cleaning import Judge, Judged

T = TypeVar("T")
TEXT = ("corpus", "filter_language", "filter_quality", "deduplicate", "decontaminate")
"""The steps whose artifact is text, in the order in which they hand it on."""


def text_of(inputs: Mapping[str, T]) -> T:
    """The text as the last step left it: the corpus, where nothing cleans it."""
    return inputs[next(name for name in reversed(TEXT) if name in inputs)]


def chosen(plan: RunPlan, *names: str) -> dict[str, Any]:
    """These settings of `clean`, as a key has them."""
    values = asdict(plan.config.clean)
    return {name: values[name] for name in names}


def judged(run: StepRun, make: "Callable[..., Judge]", *told: Any) -> Metrics:
    """The text without what a judge of single documents takes out."""
    from nanochat_core.data.cleaning import judge_in_processes

    text = text_of(run.inputs)
    return written(run, judge_in_processes(make, told, text, num_workers=run.plan.config.runtime.num_workers))


def written(run: StepRun, found: "Iterator[Sequence[Judged]]") -> Metrics:
    """The text without what was found, the record of it, and how much that is."""
    from nanochat_core.data.cleaning import write_cleaned

    def progress(done: int, total: int) -> None:
        run.progress(done, total, "row groups")

    cleaned = write_cleaned(text_of(run.inputs), run.out, found, progress=progress)
    run.note(f"{run.step}: {cleaned.told()}")
    return {**cleaned.metrics(), "notes": [cleaned.told()]}


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    """Every document of the text is either kept or in the record of what was taken out."""
    from nanochat_core.data.cleaning import REMOVED, SPLITS, num_rows

    before = num_rows(text_of(run.inputs), SPLITS)
    kept, removed = num_rows(run.out, SPLITS), num_rows(run.out, (REMOVED,))
    found = f"{kept:,} kept and {removed:,} taken out"
    return [Check("every document is accounted for", found, f"{before:,} in all", kept + removed == before)]


def headline(metrics: Metrics) -> str:
    total = metrics["removed_docs"] + metrics["train_docs"] + metrics["validation_docs"]
    told = f"{metrics['removed_docs']:,} of {total:,} documents left out"
    return f"{told}, {count(metrics['train_bytes'])}B of text stay"
