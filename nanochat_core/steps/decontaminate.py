"""The text without documents that hold items of the run's benchmarks: scores then measure what was learnt."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nanochat_core.pipeline.cleaning import checks, headline, text_of, written
from nanochat_core.pipeline.step import LOG_FOLDER, Metrics, Step, StepRun
from nanochat_core.steps.benchmarks import benchmarks
from nanochat_core.steps.core_bundle import core_bundle
from nanochat_core.steps.corpus import corpus
from nanochat_core.steps.deduplicate import deduplicate
from nanochat_core.steps.filter_language import filter_language
from nanochat_core.steps.filter_quality import filter_quality

if TYPE_CHECKING:
    from nanochat_core.evals.benchmarks.protocol import Item


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.cleaning import judge_in_processes
    from nanochat_core.evals.benchmarks.contaminated import item_judge, save_items

    items = save_items(_items(run), run.attempt / "items")
    workers = run.plan.config.runtime.num_workers
    judged = judge_in_processes(item_judge, (run.attempt / "items",), text_of(run.inputs), num_workers=workers)
    metrics = written(run, items.noted(judged))
    (run.out / LOG_FOLDER).mkdir()
    (run.out / LOG_FOLDER / "contamination.json").write_text(json.dumps(items.report(), indent=1))
    run.note(f"{run.step}: {items.told()}")
    return {**metrics, "notes": [*metrics["notes"], items.told()]}


def _items(run: StepRun) -> "Iterator[Item]":
    """All items of the benchmarks that the run measures."""
    from nanochat_core.evals.benchmarks.contaminated import core_items
    from nanochat_core.evals.benchmarks.protocol import EVERY_NAME, read_item_file
    from nanochat_core.evals.core.bundle import read_bundle

    if "core_bundle" in run.inputs:
        yield from core_items(read_bundle(run.inputs["core_bundle"]))
    if "benchmarks" in run.inputs:
        yield from read_item_file(run.inputs["benchmarks"] / EVERY_NAME)


TEXTS = (corpus, filter_language, filter_quality, deduplicate)
decontaminate = Step(
    name="decontaminate",
    description="Leave out text that holds benchmark items.",
    title=lambda plan: "text without items of the benchmarks",
    headline=headline,
    settings=lambda plan: {},
    packages=("numpy", "pyarrow"),
    inputs=(*TEXTS, core_bundle, benchmarks),
    last_of=TEXTS,
    body=body,
    checks=checks,
    is_wanted=lambda plan: plan.config.clean.benchmarks,
)
