"""The text with one of documents that are equal, or nearly: the first stays, training before validation."""

from typing import Any

from nanochat_core.pipeline.cleaning import checks, chosen, headline, text_of, written
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.corpus import corpus
from nanochat_core.steps.filter_language import filter_language
from nanochat_core.steps.filter_quality import filter_quality

NEARLY = ("duplicate_jaccard", "duplicate_ngram_words", "minhash_permutations")


def settings(plan: RunPlan) -> dict[str, Any]:
    return chosen(plan, "duplicates", *(NEARLY if plan.config.clean.duplicates == "near" else ()))


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.duplicates import find_duplicates

    def progress(done: int, total: int) -> None:
        run.progress(done, total, "row groups compared")

    workers = run.plan.config.runtime.num_workers
    scratch = run.attempt / "prints"
    found = find_duplicates(text_of(run.inputs), scratch, run.settings, num_workers=workers, progress=progress)
    return written(run, found)


def title(plan: RunPlan) -> str:
    config = plan.config.clean
    alike = f", or alike by {config.duplicate_jaccard:g}" if config.duplicates == "near" else ""
    return f"one of documents that are equal{alike}"


TEXTS = (corpus, filter_language, filter_quality)
deduplicate = Step(
    name="deduplicate",
    description="Leave out text that is there already.",
    title=title,
    headline=headline,
    settings=settings,
    packages=("numpy", "pyarrow", "rensa"),
    inputs=TEXTS,
    last_of=TEXTS,
    body=body,
    checks=checks,
    is_wanted=lambda plan: plan.config.clean.duplicates != "off",
)
