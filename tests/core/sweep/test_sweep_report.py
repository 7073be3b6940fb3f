"""The report of a sweep: from the record alone, complete, and plain about what it does not know."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from nanochat_core.pipeline.step import Ref
from nanochat_core.sweep.cells import plan_miniseries
from nanochat_core.sweep.figures import round_ticks
from nanochat_core.sweep.report import cell_results, fit_record, render_markdown, render_page
from nanochat_core.sweep.results import cell_result, from_record, to_record

Record = dict[str, Any]


class Page(HTMLParser):
    """What a page shows and asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.captions: list[str] = []
        self.fetched: list[str] = []
        self._is_caption = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._is_caption = tag == "figcaption"
        self.fetched += [
            str(value) for name, value in attributes if name in ("src", "href") and value and value[0] != "#"
        ]
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        if self._is_caption and data.strip():
            self.captions.append(data.strip())


def test_a_series_shows_loss_and_core_over_every_cost(series_record: Record) -> None:
    page = Page(render_page(series_record))
    costs = ("training FLOPs", "parameters", "hours of training", "dollars of training")
    assert page.captions == [
        *(f"Bits per byte over {cost}" for cost in costs),
        *(f"CORE over {cost}" for cost in costs),
    ]
    assert page.fetched == []


def test_a_series_says_where_it_passes_gpt2(series_record: Record) -> None:
    text = render_markdown(series_record)
    assert re.search(
        r"0\.256525 is reached between d20 and d24, at about [\d.]+e\+?19 FLOPs, .* of training and \$\d+\.\d\d ", text
    )
    for cell in series_record["cells"]:
        cell["core"] -= 0.2
    assert "is not reached: the best of the series is d24" in render_markdown(series_record)


def test_a_score_in_part_is_not_compared_with_gpt2(series_record: Record) -> None:
    series_record["cells"][0]["core_is_whole"] = False
    text = render_markdown(series_record)
    assert "measured in part only" in text
    assert "is reached" not in text
    assert "(in part)" in text


def test_a_cpu_series_without_core_has_no_dollars_and_no_score(series_record: Record) -> None:
    for cell in series_record["cells"]:
        cell.update(core=None, core_standard_error=None, core_is_whole=False, usd=0.0)
    series_record["usd_per_hour"] = 0.0
    page = Page(render_page(series_record))
    assert [caption for caption in page.captions if "CORE" in caption or "dollars" in caption] == []
    text = render_markdown(series_record)
    assert "CORE was not measured" in text
    assert "$" not in text


def test_a_series_of_one_is_drawn(series_record: Record) -> None:
    series_record["cells"] = series_record["cells"][:1]
    series_record["settings"]["depths"] = [12]
    assert len(Page(render_page(series_record)).captions) == 8


def test_every_cell_is_a_row_with_its_own_numbers(series_record: Record) -> None:
    text = render_markdown(series_record)
    for cell in series_record["cells"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {cell['name']} |"))
        assert f"{cell['bits_per_byte']:.4f}" in row
        assert f"{cell['steps']:,}" in row


def test_a_grid_shows_curves_exponents_and_three_counts(grid_record: Record) -> None:
    page = Page(render_page(grid_record))
    assert page.captions == [
        "Bits per byte over parameters in matrices and head",
        "Bits per byte over training tokens",
        "Best size over compute",
        "Best length over compute",
    ]
    text = render_markdown(grid_record)
    rows = [line for line in text.splitlines() if line.startswith("| parameters:")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "parameters: all parameters", "parameters: without embeddings", "parameters: matrices and head",
    ]  # fmt: skip
    _, laws = fit_record(grid_record, cell_results(grid_record))
    assert f"{laws.laws['scaling'].exponent.value:.3f}" in rows[2]


def test_cells_left_out_are_named_with_the_reason(grid_record: Record) -> None:
    grid_record["left_out"] = [{"name": "d26@1e18", "reason": "too large for the budget"}]
    assert "| d26@1e18 | too large for the budget |" in render_markdown(grid_record)


def test_three_depths_say_that_there_are_no_intervals(grid_record: Record) -> None:
    grid_record["cells"] = [cell for cell in grid_record["cells"] if cell["depth"] in (8, 12, 16)]
    text = render_markdown(grid_record)
    assert "There are no intervals" in text
    grid_record["settings"]["noise_bpb"] = 0.002
    assert "Intervals are for a scatter of 0.002 bits per byte" in render_markdown(grid_record)


def test_a_report_is_a_function_of_its_record(grid_record: Record) -> None:
    assert render_page(json.loads(json.dumps(grid_record))) == render_page(grid_record)


def test_names_from_outside_are_escaped(series_record: Record) -> None:
    series_record["preset"] = "<img src=x>"
    assert "<img" not in render_page(series_record)


@pytest.mark.parametrize(("low", "high"), [(1e17, 1e20), (3e18, 5e18), (1.1, 1.3), (0.004, 900.0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)


def test_time_of_a_resumed_training_counts_every_attempt() -> None:
    [cell] = plan_miniseries("series", depths=[2]).cells
    refs = {
        "tokens": {"train_rows": 640},
        "pretrain": {"bits_per_byte": 2.0, "train_s": 50.0},
        "evaluate_base": {"bits_per_byte": 2.1},
    }
    made = [Ref(step, "0" * 64, "0" * 64, "0" * 64, metrics, 20.0, False) for step, metrics in refs.items()]
    result = cell_result(cell, made)
    assert result.train_s == 50.0
    assert result.bits_per_byte == 2.1
    assert result.epochs == pytest.approx(cell.plan.pretrain.num_tokens / (640 * 256))
    assert from_record(json.loads(json.dumps(to_record(result)))) == result
