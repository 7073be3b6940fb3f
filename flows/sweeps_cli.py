"""The verbs of sweeps: miniseries, scaling-laws, and sweeps (what was recorded). flows/cli.py registers them.

A sweep looks like a run: its plan and price first, then a live table with a row per cell; Ctrl-C saves a checkpoint
and the same command goes on. Prefect is imported late, as it takes a second that refusals and lists need not wait for.
"""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.recorded import leave_out_prefect
from flows.server import prefect_server
from flows.session import confirm_cost, run_flow
from nanochat_core import observe
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.stopping import stop_on_signals
from nanochat_core.base.units import dollars, duration
from nanochat_core.cli.app import Json, Preset, Sets
from nanochat_core.cli.display import Display, display
from nanochat_core.cli.output import Page, table
from nanochat_core.cli.plan_compare import parse_depths, parse_flops, show_comparison
from nanochat_core.presets import portable
from nanochat_core.sweep.cells import MIN_STEPS, Sweep, plan_miniseries, plan_scaling_laws
from nanochat_core.sweep.execute import titles
from nanochat_core.sweep.finish import FinishedSweep, finish_sweep, list_sweeps, render_again
from nanochat_core.sweep.price import CellPrice, check_cost, price_sweep

Depths = Annotated[str | None, typer.Option(help="Layers of each model, such as 12,16,20.")]
Parallel = Annotated[int, typer.Option(help="Trainings at once.", min=1)]
MaxCost = Annotated[float | None, typer.Option(help="Refuse a sweep whose plan is over this; stop once it is spent.")]
NoPrefect = Annotated[bool, typer.Option("--no-prefect", help="The same steps without Prefect.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a sweep that costs money.")]
Flow = Callable[[], Any]
"""Starts the Prefect flow; returns its state."""


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(miniseries)
    app.command("scaling-laws")(scaling_laws)
    app.command()(sweeps)


def miniseries(
    preset: Preset = "series",
    depths: Depths = None,
    sets: Sets = None,
    parallel: Parallel = 1,
    max_cost_usd: MaxCost = None,
    no_prefect: NoPrefect = False,
    yes: Yes = False,
) -> None:
    """One compute-optimal model per depth: loss and CORE over what they cost. A depth added later is all that runs.

    nanochat miniseries

    nanochat miniseries d12 --depths 12,16,20 --max-cost-usd 200
    """
    chosen = parse_depths(depths) if depths else None
    sets = [portable(text) for text in sets or []]
    sweep = plan_miniseries(preset, sets, depths=chosen, parallel=parallel)

    def start() -> Any:
        from flows.miniseries import miniseries as flow

        return flow(preset, chosen, sets, parallel, max_cost_usd, return_state=True)

    _run(sweep, start, parallel=parallel, max_cost_usd=max_cost_usd, no_prefect=no_prefect, yes=yes, settings={})


def scaling_laws(
    preset: Preset = "series",
    flops: Annotated[
        str | None, typer.Option(help="Training FLOPs of each row of the grid, such as 1e18,3e18.")
    ] = None,
    depths: Depths = None,
    sets: Sets = None,
    parallel: Parallel = 1,
    max_cost_usd: MaxCost = None,
    min_steps: Annotated[int, typer.Option(help="Cells with fewer steps are left out.", min=1)] = MIN_STEPS,
    noise_bpb: Annotated[
        float | None, typer.Option(help="Scatter of bits per byte from seed to seed; else judged by the residuals.")
    ] = None,
    no_prefect: NoPrefect = False,
    yes: Yes = False,
) -> None:
    """Depths x FLOP budgets: the best size and length at each budget, and how they grow with compute.

    nanochat scaling-laws --flops 1e12,2e12,4e12 --depths 1,2,3,4

    nanochat scaling-laws d12 --flops 1e18,3e18,1e19 --depths 8,10,12,14,16
    """
    chosen, budgets = parse_depths(depths) if depths else None, parse_flops(flops) if flops else None
    if noise_bpb is not None and noise_bpb <= 0:
        raise ConfigError(f"--noise-bpb {noise_bpb:g} is not above 0", hint="0.005 is a usual scatter between seeds")
    sets = [portable(text) for text in sets or []]
    sweep = plan_scaling_laws(preset, sets, budgets=budgets, depths=chosen, min_steps=min_steps, parallel=parallel)

    def start() -> Any:
        from flows.scaling_laws import scaling_laws as flow

        return flow(preset, budgets, chosen, sets, parallel, max_cost_usd, min_steps, noise_bpb, return_state=True)

    settings = {"noise_bpb": noise_bpb}
    _run(sweep, start, parallel=parallel, max_cost_usd=max_cost_usd, no_prefect=no_prefect, yes=yes, settings=settings)


def sweeps(
    run_id: Annotated[str | None, typer.Argument(help="Draw this one's report again.")] = None,
    as_json: Json = False,
) -> None:
    """The recorded sweeps, or the report of one drawn again from its record.

    nanochat sweeps

    nanochat sweeps miniseries-series-20260101-120000-ab12
    """
    from nanochat_core import workspace

    if run_id is not None:
        print(render_again(run_id).as_uri())
        return
    records = list_sweeps(workspace.current().store)
    if as_json:
        print(json.dumps(records, indent=1))
        return
    shown = table("sweep", "started", "cells", "took")
    for record in records:
        started = str(record["started_at"])[:16].replace("T", " ")
        shown.add_row(record["run_id"], started, str(len(record["cells"])), duration(record["seconds"]))
    Page().print(shown if records else "no sweep is recorded in this store")


def _run(
    sweep: Sweep,
    start: Flow,
    *,
    parallel: int,
    max_cost_usd: float | None,
    no_prefect: bool,
    yes: bool,
    settings: dict[str, Any],
) -> None:
    """Show the plan, refuse what is too dear, run, and say what came out."""
    stop_on_signals()
    prices = price_sweep(sweep)
    _announce(sweep, prices, yes=yes, max_cost_usd=max_cost_usd)
    if no_prefect:
        leave_out_prefect()
        finished = _run_bare(sweep, parallel=parallel, max_cost_usd=max_cost_usd, settings=settings)
    else:
        with prefect_server() as server:

            def without(_watching: Display) -> FinishedSweep:
                return _sweep(sweep, parallel=parallel, max_cost_usd=max_cost_usd, settings=settings)

            finished = run_flow(server, start, titles(sweep), num_tasks=_num_tasks, without=without)
    _conclude(finished)


def _announce(sweep: Sweep, prices: list[CellPrice], *, yes: bool, max_cost_usd: float | None) -> None:
    console = Page(stderr=True)
    show_comparison(console, sweep, prices)
    console.print()
    check_cost(prices, max_cost_usd)
    confirm_cost("sweep", sum(price.usd_to_pay for price in prices), yes=yes)


def _run_bare(sweep: Sweep, *, parallel: int, max_cost_usd: float | None, settings: dict[str, Any]) -> FinishedSweep:
    with display(titles(sweep)) as watching:
        observe.use(watching)
        return _sweep(sweep, parallel=parallel, max_cost_usd=max_cost_usd, settings=settings)


def _sweep(sweep: Sweep, *, parallel: int, max_cost_usd: float | None, settings: dict[str, Any]) -> FinishedSweep:
    from flows.miniseries import run_sweep
    from nanochat_core.pipeline.execute import make

    started_at = time.time()
    done = run_sweep(sweep, make, parallel=parallel, max_cost_usd=max_cost_usd)
    return finish_sweep(sweep, done, started_at=started_at, settings=settings)


def _num_tasks(finished: FinishedSweep) -> int:
    return sum(len(result.fingerprints) for result in finished.results)


def _conclude(finished: FinishedSweep) -> None:
    """The answer: what came out and where it is; exit code 1 when the money ran out first."""
    record, console = finished.record, Page()
    made = sum(len(result.made) for result in finished.results)
    steps = _num_tasks(finished)
    spent = f", {dollars(record['spent_usd'])} spent" if record["usd_per_hour"] else ""
    console.print(f"\n[bold]done[/bold] in {duration(record['seconds'])}: {made} made, {steps - made} cached{spent}")
    for result in finished.results:
        core = f"  CORE {result.core:.4f}" if result.core is not None else ""
        console.print(f"  {result.name:<12} {result.bits_per_byte:.4f} bits per byte{core}", highlight=False)
    for cell in record["left_out"]:
        console.print(f"  {cell['name']:<12} {cell['reason']}", highlight=False)
    console.print(f"\n  report   {finished.report.as_uri()}", soft_wrap=True)
    if not finished.is_complete:
        raise typer.Exit(1)
