"""The text without documents that break rules of good prose, Gopher's or C4's."""

from dataclasses import fields
from typing import Any

from nanochat_core.clean_config import CleanConfig
from nanochat_core.pipeline.cleaning import checks, chosen, headline, judged
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.corpus import corpus
from nanochat_core.steps.filter_language import filter_language

FIRST, LAST = "quality", "placeholder_words"
NOTE = "filter_quality: its rules are for English prose; other languages, code and tables break them as a rule"


def settings(plan: RunPlan) -> dict[str, Any]:
    """The rules and their limits: the fields of the configuration from the first of them to the last."""
    names = [field.name for field in fields(CleanConfig)]
    return chosen(plan, *names[names.index(FIRST) : names.index(LAST) + 1])


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.quality import quality_judge

    return judged(run, quality_judge, dict(run.settings))


filter_quality = Step(
    name="filter_quality",
    description="Leave out text that breaks rules of good prose.",
    title=lambda plan: f"rules of {plan.config.clean.quality}",
    headline=headline,
    settings=settings,
    packages=("numpy", "pyarrow"),
    inputs=(corpus, filter_language),
    last_of=(corpus, filter_language),
    body=body,
    checks=checks,
    is_wanted=lambda plan: plan.config.clean.quality != "off",
    notes=lambda plan: [NOTE],
)
