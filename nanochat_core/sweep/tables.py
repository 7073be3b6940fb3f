"""The tables of a sweep as rows of text: the page, the markdown artifact and the terminal show the same ones."""

from collections.abc import Callable, Sequence
from typing import Any

from nanochat_core.base.units import count, dollars, duration
from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.report.tables import Table
from nanochat_core.sweep.cells import budget_name
from nanochat_core.sweep.crossing import Crossing
from nanochat_core.sweep.fits import LEVEL, Interval
from nanochat_core.sweep.laws import COUNTS, TOKENS, Laws, Optimum
from nanochat_core.sweep.results import CellResult

LITERATURE = {  # what others found for N ~ C^a, by how they count
    "all": "0.50 (Hoffmann)",
    "without_embeddings": "0.73 (Kaplan)",
    "scaling": "",
    TOKENS: "0.50 (Hoffmann)",
}


Column = tuple[str, Callable[[CellResult], str]]


def cells_table(results: Sequence[CellResult]) -> Table:
    """A row per cell. Columns that say nothing (dollars of a CPU, CORE that was not measured) are left out."""
    columns: list[Column | None] = [
        ("cell", lambda r: r.name),
        ("width", lambda r: f"{r.n_embd:,}"),
        ("parameters", lambda r: count(r.params["all"])),
        ("matrices + head", lambda r: count(r.params["scaling"])),
        ("tokens", lambda r: count(r.tokens)),
        ("tokens/param", lambda r: f"{r.tokens_per_param:.3g}"),
        ("epochs", lambda r: f"{r.epochs:.2f}") if _any(results, "epochs") else None,
        ("steps", lambda r: f"{r.steps:,}"),
        ("FLOPs", lambda r: f"{r.flops:.2e}".replace("e+", "e")),
        ("time", lambda r: duration(r.train_s)),
        ("dollars", lambda r: dollars(r.usd)) if _any(results, "usd") else None,
        ("bits/byte", lambda r: f"{r.bits_per_byte:.4f}"),
        ("CORE", _core) if _any(results, "core") else None,
        ("this sweep", lambda r: "cached" if not r.made else "trained" if "pretrain" in r.made else "measured"),
    ]
    shown = [column for column in columns if column is not None]
    rows = [tuple(text(result) for _, text in shown) for result in results]
    return Table([name for name, _ in shown], rows, numbers=range(1, len(shown) - 1))


def _any(results: Sequence[CellResult], name: str) -> bool:
    return any(getattr(result, name) for result in results)


def _core(result: CellResult) -> str:
    if result.core is None:
        return ""
    text = f"{result.core:.4f} ± {result.core_standard_error or 0.0:.4f}"
    return text if result.core_is_whole else f"{text} (in part)"


def exponents_table(laws: Laws) -> Table:
    """How the best size and length grow with compute, and what others found."""
    rows = []
    for axis in (*COUNTS, TOKENS):
        law = laws.laws.get(axis)
        what = f"parameters: {COUNTS[axis]}" if axis in COUNTS else "tokens"
        exponent = _interval(law.exponent, "{:.3f}") if law else ("not found", "")
        ratio = _interval(laws.tokens_per_param[axis], "{:.3g}") if axis in laws.tokens_per_param else ("", "")
        rows.append((what, *exponent, str(law.num_budgets) if law else "", *ratio, LITERATURE[axis]))
    within = f"{LEVEL:.0%} interval"
    headers = ("grows with compute", "exponent", within, "budgets", "best tokens/param", within, "published exponent")
    return Table(headers, rows, numbers=range(1, len(headers) - 1))


def budgets_table(laws: Laws) -> Table:
    """The best cell that each budget's curves name: a row per budget."""
    within = f"{LEVEL:.0%} interval"
    headers = ("FLOPs", "cells", "matrices + head", within, "tokens", within, "bits/byte",
               *(f"tokens/param, {name}" for name in ("all", "no embeddings", "matrices + head")))  # fmt: skip
    rows = []
    for fit in laws.budgets:
        size, length = fit.optima.get("scaling"), fit.optima.get(TOKENS)
        loss = f"{size.bits_per_byte:.4f}" if size and size.bits_per_byte is not None else ""
        ratios = [f"{fit.tokens_per_param[name].value:.3g}" if name in fit.tokens_per_param else "" for name in COUNTS]
        rows.append((budget_name(fit.budget_flops), str(fit.num_cells), *_best(size), *_best(length), loss, *ratios))
    return Table(headers, rows, numbers=range(1, len(headers)))


def _best(optimum: Optimum | None) -> tuple[str, str]:
    if optimum is None:
        return "needs three cells", ""
    if optimum.best is None:
        return optimum.problem, ""
    return _counts(optimum.best)


def _interval(value: Interval, form: str) -> tuple[str, str]:
    if value.low is None or value.high is None:
        return form.format(value.value), "not known"
    return form.format(value.value), f"{form.format(value.low)} to {form.format(value.high)}"


def _counts(value: Interval) -> tuple[str, str]:
    if value.low is None or value.high is None:
        return count(value.value), "not known"
    return count(value.value), f"{count(value.low)} to {count(value.high)}"


def crossing_text(results: Sequence[CellResult], crossing: Crossing | None) -> str:
    """Where the series reaches GPT-2, or plainly that it does not."""
    measured = [result for result in results if result.core is not None]
    line = f"GPT-2's CORE of {GPT2_CORE:.6f}"
    if not measured:
        return "CORE was not measured in this series, so there is no comparison with GPT-2."
    if not all(result.core_is_whole for result in measured):
        return "CORE was measured in part only, so it does not compare with GPT-2."
    if crossing is not None:
        cost = f" and {dollars(crossing.usd)}" if crossing.usd else ""
        return (
            f"{line} is reached between {crossing.below} and {crossing.above}, at about "
            f"{budget_name(crossing.flops)} FLOPs, "
            f"{duration(crossing.hours * 3600)} of training{cost} (interpolated in log FLOPs)."
        )
    best = max(measured, key=lambda result: result.core or 0.0)
    if (best.core or 0.0) < GPT2_CORE:
        return f"{line} is not reached: the best of the series is {best.name} with {best.core:.4f}."
    return f"Every model of the series is above {line}: smaller depths would show where it is crossed."


def law_texts(laws: Laws) -> list[str]:
    """What can be said of the laws before the table: whether there are any, and what their intervals rest on."""
    if not laws.laws:
        return ["No exponent: fewer than two budgets have their lowest point among the cells."]
    return [_noise_text(laws)]


def _noise_text(laws: Laws) -> str:
    """What the intervals rest on."""
    if laws.noise is None:
        return (
            "There are no intervals: with three cells at every budget each curve goes through all its points, and "
            "nothing is left to judge the scatter by. A fourth depth or --noise-bpb gives them."
        )
    if laws.noise.degrees is None:
        return f"Intervals are for a scatter of {laws.noise.sigma:g} bits per byte from run to run, as given."
    return (
        f"Intervals are for a scatter of {laws.noise.sigma:.2g} bits per byte around the curves, judged by "
        f"{laws.noise.degrees} degrees of freedom. They hold the scatter only, and not that a curve is no parabola."
    )


def facts(record: dict[str, Any], results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """Headline numbers of any sweep: what, on what, for how much."""
    trained = sum("pretrain" in result.made for result in results)
    flops = sum(result.flops for result in results)
    numbers = [
        ("cells", f"{len(results)}" + (f" (of {len(results) + n})" if (n := len(record["left_out"])) else "")),
        ("trained now", str(trained)),
        ("FLOPs", f"{flops:.2e}".replace("e+", "e")),
        ("training", duration(sum(result.train_s for result in results))),
        ("this sweep took", duration(record["seconds"])),
    ]
    if record["usd_per_hour"]:
        numbers.append(("spent now", dollars(record["spent_usd"])))
    return numbers
