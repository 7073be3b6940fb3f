"""The report of a sweep: one HTML file that asks for nothing, and the same in markdown, both from the record alone.

The page takes its looks from the run report (report/page.css). A fit is computed here, not recorded: the record holds
what was measured, and drawing again with a better fit needs no training.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nanochat_core import report as run_report
from nanochat_core.report.tables import Table
from nanochat_core.sweep import tables
from nanochat_core.sweep.cells import budget_name
from nanochat_core.sweep.crossing import Measured, find_crossing
from nanochat_core.sweep.laws import Laws, Point, fit_laws
from nanochat_core.sweep.results import CellResult, from_record
from nanochat_core.workspace import Workspace

HTML_NAME, MARKDOWN_NAME, TEMPLATE_NAME = "report.html", "report.md", "sweep.html"
TITLES = {"miniseries": "Miniseries", "scaling_laws": "Scaling laws"}
VERBS = {"miniseries": "miniseries", "scaling_laws": "scaling-laws"}
BEYOND = (
    "At each budget, where the fitted curve is lowest. A lowest point beyond the cells that were measured is not used: "
    "the budget then needs larger or smaller depths."
)
MANY_EPOCHS = 4.0  # repeated text is worth about as much as new text up to here (arXiv 2305.16264)


@dataclass(frozen=True)
class Section:
    """A heading, what stands under it, and its charts and table."""

    title: str
    texts: list[str]
    charts: list[tuple[str, str]]
    """(title, SVG element)"""
    table: Table | None = None


def write_report(space: Workspace, record: dict[str, Any]) -> Path:
    """Write report.html and report.md into the sweep's folder; returns the path of the page."""
    folder = space.run(record["run_id"])
    page = folder / HTML_NAME
    page.write_text(render_page(record), encoding="utf-8")
    (folder / MARKDOWN_NAME).write_text(render_markdown(record), encoding="utf-8")
    return page


def render_page(record: dict[str, Any]) -> str:
    """The whole page."""
    folders = [str(Path(__file__).parent), str(Path(run_report.__file__).parent)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # the charts are our own
    results = cell_results(record)
    return environment.get_template(TEMPLATE_NAME).render(
        title=title(record),
        kind=TITLES[record["kind"]].lower(),
        record=record,
        numbers=tables.facts(record, results),
        sections=sections(record, with_charts=True),
        command=command(record),
    )


def render_markdown(record: dict[str, Any]) -> str:
    """The same without charts: Prefect shows it beside the run."""
    results = cell_results(record)
    parts = [f"# {title(record)}", "\n".join(f"- {name}: **{value}**" for name, value in tables.facts(record, results))]
    for section in sections(record, with_charts=False):
        parts += [f"## {section.title}", *section.texts]
        if section.table is not None:
            parts.append(section.table.markdown())
    return "\n\n".join([*parts, f"Again: `{command(record)}`"]) + "\n"


def cell_results(record: dict[str, Any]) -> list[CellResult]:
    return [
        from_record({name: value for name, value in cell.items() if name != "overrides"}) for cell in record["cells"]
    ]


def title(record: dict[str, Any]) -> str:
    depths = record["settings"]["depths"]
    shown = f"{len(depths)} depths, {depths[0]} to {depths[-1]}" if len(depths) > 1 else f"depth {depths[0]}"
    return f"{TITLES[record['kind']]} of {record['preset']}: {shown}"


def command(record: dict[str, Any]) -> str:
    """What to type to have the sweep again."""
    settings = record["settings"]
    parts = ["nanochat", VERBS[record["kind"]], record["preset"], "--depths", ",".join(map(str, settings["depths"]))]
    if "budgets_flops" in settings:
        parts += ["--flops", ",".join(budget_name(flops) for flops in settings["budgets_flops"])]
    if settings.get("noise_bpb") is not None:
        parts += ["--noise-bpb", f"{settings['noise_bpb']:g}"]
    for change in record["overrides"]:
        parts += ["--set", change]
    return shlex.join(parts)


def sections(record: dict[str, Any], *, with_charts: bool) -> list[Section]:
    """The body of the report, in order."""
    results = cell_results(record)
    parts = _series(results, with_charts) if record["kind"] == "miniseries" else _laws(record, results, with_charts)
    parts.append(Section("Cells", _remarks(record, results), [], tables.cells_table(results)))
    if record["left_out"]:
        rows = [(cell["name"], cell["reason"]) for cell in record["left_out"]]
        parts.append(Section("Left out", [], [], Table(("cell", "why"), rows)))
    return parts


def _remarks(record: dict[str, Any], results: Sequence[CellResult]) -> list[str]:
    texts = list(record["notes"])
    seen = [result for result in results if (result.epochs or 0.0) > MANY_EPOCHS]
    if seen:
        names = ", ".join(result.name for result in seen)
        texts.append(f"More than {MANY_EPOCHS:g} epochs over the training text: {names}. Repeated text teaches less.")
    return [*texts, "What a cached cell took is from the run that made it."]


def _series(results: Sequence[CellResult], with_charts: bool) -> list[Section]:
    charts = _series_charts(results) if with_charts else []
    crossing = find_crossing(
        [
            Measured(name=r.name, core=r.core, flops=r.flops, hours=r.train_s / 3600, usd=r.usd)
            for r in results
            if r.core is not None and r.core_is_whole
        ]
    )
    cores = [chart for chart in charts if chart[0].startswith("CORE")]
    return [
        Section("What more compute buys", [], [chart for chart in charts if chart not in cores]),
        Section("Against GPT-2", [tables.crossing_text(results, crossing)], cores),
    ]


def _series_charts(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    from nanochat_core.sweep import figures  # matplotlib costs half a second, and every command imports this module

    return figures.render_charts(figures.series_charts(results))


def _law_charts(points: Sequence[Point], laws: Laws) -> list[tuple[str, str]]:
    from nanochat_core.sweep import figures

    return figures.render_charts(figures.law_charts(points, laws))


def _laws(record: dict[str, Any], results: Sequence[CellResult], with_charts: bool) -> list[Section]:
    points, laws = fit_record(record, results)
    charts = _law_charts(points, laws) if with_charts else []
    curves = [chart for chart in charts if chart[0].startswith("Bits per byte")]
    others = [chart for chart in charts if chart not in curves]
    return [
        Section("Loss at equal compute", [BEYOND], curves, tables.budgets_table(laws)),
        Section("How the best model grows", tables.law_texts(laws), others, tables.exponents_table(laws)),
    ]


def fit_record(record: dict[str, Any], results: Sequence[CellResult]) -> tuple[list[Point], Laws]:
    """The fit of a recorded grid."""
    points = [
        Point(
            budget_flops=result.budget_flops,
            flops=result.flops,
            params=result.params,
            tokens=result.tokens,
            bits_per_byte=result.bits_per_byte,
        )
        for result in results
        if result.budget_flops is not None
    ]
    return points, fit_laws(points, noise_bpb=record["settings"].get("noise_bpb"))
