"""The text without documents in other languages than those that are wanted."""

from typing import Any

from nanochat_core.pipeline.cleaning import checks, chosen, headline, judged
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.corpus import corpus


def settings(plan: RunPlan) -> dict[str, Any]:
    return chosen(plan, "languages", "min_language_score")


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.languages import language_judge, wanted_languages

    wanted = wanted_languages(run.settings["languages"])
    return judged(run, language_judge, wanted, run.settings["min_language_score"])


filter_language = Step(
    name="filter_language",
    description="Leave out text in other languages.",
    title=lambda plan: f"text in {plan.config.clean.languages}",
    headline=headline,
    settings=settings,
    packages=("py3langid", "pyarrow"),
    inputs=(corpus,),
    body=body,
    checks=checks,
    is_wanted=lambda plan: plan.config.clean.languages is not None,
)
