"""A run on one screen of markdown: Prefect shows it beside the run, and it is the report for those without a browser.

From the plan and the refs alone, so it also serves a run that stopped early. Answers come from a model that may say
anything: they are escaped for HTML and for tables, and never become a heading, a link or an image.
"""

import html
import re
from typing import TYPE_CHECKING, Any

from nanochat_core.accounting.ledger import Windows, ledger_rows
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline, scores, sources
from nanochat_core.report.tables import Table

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

SAMPLES_SHOWN = 3
MARKS = re.compile(r"([\\`*_\[\]!#|])")  # what markdown would act on


def summarize(plan: RunPlan, refs: "list[Ref]", *, seconds: float | None = None, windows: Windows | None = None) -> str:
    """The headline numbers, the steps, the scores, the ledger and a few answers, as far as the refs have them."""
    sections = [
        f"# nanochat: {plain(outline.title(plan))}",
        _numbers(plan, refs, seconds),
        _steps(refs),
        _sources(refs),
        _core(refs),
        _stages(refs),
        _benchmarks(refs),
        _answers(refs),
        _ledger(plan, refs, seconds, windows),
        f"Again: `{outline.commands(plan.config)['run']}`. Talk to it: `{outline.commands(plan.config)['chat']}`.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def plain(text: str) -> str:
    """`text` on one line, with nothing in it that markdown or HTML would act on."""
    return MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _numbers(plan: RunPlan, refs: "list[Ref]", seconds: float | None) -> str:
    numbers = outline.headline_numbers(plan, refs, seconds=seconds)
    rows = [(number.label, f"**{number.value}**", number.note) for number in numbers]
    return Table(("", "", ""), rows, numbers=[1]).markdown()


def _steps(refs: "list[Ref]") -> str:
    if not refs:
        return "No step has finished."
    rows = [
        (row.step, "cached" if row.is_cached else "made", row.seconds, plain(row.headline), f"`{row.artifact}`")
        for row in outline.step_rows(refs)
    ]
    return "## Steps\n\n" + Table(("step", "", "took", "result", "artifact"), rows, numbers=[2]).markdown()


def _sources(refs: "list[Ref]") -> str:
    rows = [tuple(map(plain, row.cells)) for row in sources.source_rows(refs)]
    return f"## Text by source\n\n{Table(sources.HEADERS, rows, numbers=sources.NUMBERS).markdown()}" if rows else ""


def _benchmarks(refs: "list[Ref]") -> str:
    rows = [
        (plain(row.name), row.accuracy, f"± {row.standard_error}", f"{row.num_right:,} of {row.num_asked:,}")
        for row in outline.benchmark_rows(refs)
    ]
    if not rows:
        return ""
    table = Table(("benchmark", "right", "standard error", ""), rows, numbers=[1, 2, 3])
    return f"## Held-out questions\n\n{table.markdown()}"


def _core(refs: "list[Ref]") -> str:
    summary = scores.core_summary(_metrics(refs, "evaluate_core"))
    if summary is None:
        return ""
    return f"## CORE\n\n**{summary.score}** {summary.error}. {plain(' '.join([summary.compared, *summary.limits]))}"


def _stages(refs: "list[Ref]") -> str:
    table = scores.stage_table({ref.step: ref.metrics for ref in refs})
    if not table.rows:
        return ""
    rows = [
        (plain(row.name), *(f"{cell.accuracy} ± {cell.error}" if cell else "" for cell in row.cells))
        for row in table.rows
    ]
    totals = [f"{total.score} ± {total.error}" if total.error else total.score for total in table.totals]
    shown = Table(("benchmark", *table.stages), [*rows, ("ChatCORE", *totals)], numbers=range(1, len(table.stages) + 1))
    return f"## Chat benchmarks\n\n{shown.markdown()}\n\nPercent right, with the half-width of the 95% interval."


def _ledger(plan: RunPlan, refs: "list[Ref]", seconds: float | None, windows: Windows | None) -> str:
    if not refs:
        return ""
    told = ledger_rows(plan, refs, seconds=seconds, windows=windows)
    rows = [(row.name, row.made, row.reused, row.made_usd if told.has_usd else "") for row in (*told.rows, told.total)]
    table = Table(("", "this run", "reused", "cost"), rows, numbers=[1, 2, 3])
    return f"## Time and money\n\n{table.markdown()}\n\n{plain(' '.join(told.sentences))}"


def _metrics(refs: "list[Ref]", step: str) -> dict[str, Any]:
    return next((ref.metrics for ref in refs if ref.step == step), {})


def _answers(refs: "list[Ref]") -> str:
    samples = [sample for ref in refs for sample in ref.metrics.get("samples") or []]
    if not samples:
        return ""
    shown = [f"> **{plain(s['prompt'])}**\\\n> {plain(s['answer'])}" for s in samples[:SAMPLES_SHOWN]]
    return "## What it says\n\n" + "\n\n".join(shown)
