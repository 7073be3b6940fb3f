"""Running cells: in order or at once, within the money, stopped with the command."""

import re
import threading
import time

import pytest

from nanochat_core import observe
from nanochat_core.base.errors import ConfigError
from nanochat_core.pipeline.step import Ref
from nanochat_core.sweep.cells import Cell, plan_miniseries
from nanochat_core.sweep.execute import run_cells
from nanochat_core.sweep.price import Meter, check_cost, price_plan, usd_per_hour


def ref(step: str, *, seconds: float = 1.0, is_cached: bool = False) -> Ref:
    return Ref(step, "0" * 64, "0" * 64, "0" * 64, {}, seconds, is_cached)


class Recorder(observe.Silence):
    """Keeps what a display would be told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def step_started(self, step: str, title: str) -> None:
        self.events.append(("started", step))

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        self.events.append(("cached" if is_cached else "made", step, headline))


def test_cells_run_in_order_and_speak_as_one_row_each() -> None:
    recorder, seen = Recorder(), []
    observe.use(recorder)

    def run(cell: Cell) -> list[Ref]:
        for step in ("pretrain", "evaluate_base"):
            observe.current().step_started(step, "")
            observe.current().step_finished(step, is_cached=cell.depth == 2, seconds=1.0, headline=step)
        return [ref("pretrain"), ref("evaluate_base")]

    done = run_cells(plan_miniseries("series"), run, on_step=lambda cell, step: seen.append((cell, step)))
    assert list(done.refs) == ["d2", "d3", "d4"]
    assert recorder.events[:4] == [
        ("started", "d2"), ("cached", "d2", "evaluate_base"), ("started", "d3"), ("made", "d3", "evaluate_base"),
    ]  # fmt: skip
    assert seen[:2] == [("d2", "pretrain"), ("d2", "evaluate_base")]
    assert observe.current() is recorder, "a cell's watcher does not outlive it"


def test_parallel_runs_as_many_as_asked_and_keeps_the_order() -> None:
    running, most, lock = set[str](), [0], threading.Lock()

    def run(cell: Cell) -> list[Ref]:
        with lock:
            running.add(cell.name)
            most[0] = max(most[0], len(running))
        time.sleep(0.3 if cell.depth == 2 else 0.1)
        with lock:
            running.discard(cell.name)
        return [ref("pretrain")]

    done = run_cells(plan_miniseries("series", depths=[2, 3, 4, 5], parallel=2), run, parallel=2)
    assert list(done.refs) == ["d2", "d3", "d4", "d5"]
    assert most == [2]


def test_an_error_in_one_cell_stops_the_others_at_their_next_event() -> None:
    stopped = threading.Event()

    def run(cell: Cell) -> list[Ref]:
        if cell.depth == 2:
            raise ConfigError("cannot")
        try:
            while True:
                observe.current().step_progress("pretrain", 1, 2, "")
                time.sleep(0.01)
        except KeyboardInterrupt:
            stopped.set()
            raise

    with pytest.raises(ConfigError, match="cannot"):
        run_cells(plan_miniseries("series", depths=[2, 3], parallel=2), run, parallel=2)
    assert stopped.is_set()


@pytest.mark.parametrize("parallel", [1, 2])
def test_no_cell_starts_once_the_money_is_spent(parallel: int) -> None:
    sweep = plan_miniseries("d12", depths=[12, 14, 16, 18])
    hour_usd = usd_per_hour(sweep.cells[0].plan)
    done = run_cells(
        sweep, lambda cell: [ref("pretrain", seconds=3600)], parallel=parallel, max_cost_usd=1.5 * hour_usd
    )
    assert list(done.refs)[:2] == ["d12", "d14"]
    assert len(done.refs) <= 1 + parallel
    assert done.spent_usd == pytest.approx(len(done.refs) * hour_usd)
    assert [cell.name for cell in done.left_out] == [c.name for c in sweep.cells if c.name not in done.refs]
    assert f"${1.5 * hour_usd:,.2f}" in done.left_out[0].reason


def test_cached_steps_cost_nothing() -> None:
    plan = plan_miniseries("d12", depths=[12]).cells[0].plan
    meter = Meter(1.0)
    meter.add(plan, [ref("pretrain", seconds=1e6, is_cached=True)])
    assert (meter.spent_usd, meter.is_over) == (0.0, False)
    meter.add(plan, [ref("pretrain", seconds=3600)])
    assert meter.spent_usd == pytest.approx(8 * 3.0)
    assert meter.is_over


def test_a_sweep_over_the_limit_is_refused_with_the_plans_figure() -> None:
    sweep = plan_miniseries("gpt2", depths=[20, 24])
    prices = [price_plan(cell.name, cell.plan, ["pretrain"]) for cell in sweep.cells]
    total = sum(price.usd for price in prices)
    check_cost(prices, total + 0.01)
    check_cost(prices, None)
    with pytest.raises(ConfigError, match=re.escape(f"${total:,.2f}")) as refused:
        check_cost(prices, total - 0.01)
    assert refused.value.exit_code == 2
    assert "d24" in str(refused.value.hint)
    cached = [price_plan(cell.name, cell.plan) for cell in sweep.cells]
    check_cost(cached, 0.0)
