"""The console script `nanochat`: the core's verbs, and `run`, which needs Prefect."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import sweeps_cli
from flows.server import EmbeddedServer, prefect_server
from nanochat_core import observe
from nanochat_core.base.units import duration
from nanochat_core.cli.app import Preset, Sets, app, check_step, derived_plan
from nanochat_core.cli.display import display
from nanochat_core.cli.plan_view import preview_steps, show_plan
from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.pipeline.steps import STEPS, wanted
from nanochat_core.plan import RunPlan, estimate

ASK_ABOVE_USD = 1.0  # a run that costs more is started after a yes


@app.command()
def run(
    preset: Preset = "tiny",
    sets: Sets = None,
    until: Annotated[str | None, typer.Option(help="Stop after this step.")] = None,
    fresh: Annotated[list[str] | None, typer.Option(help="Make this step again although it is cached.")] = None,
    accept_drift: Annotated[list[str] | None, typer.Option(help="Reuse this step although its code changed.")] = None,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="The same steps without Prefect.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a run that costs money.")] = False,
) -> None:
    """Run the pipeline: corpus to chat model. What is cached is not done again.

    nanochat run tiny

    nanochat run tiny --set sft.epochs=2 --until evaluate_chat
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop like Ctrl-C: with a checkpoint
    plan = derived_plan(preset, sets, fresh=fresh, accept_drift=accept_drift)
    check_step(until, plan)
    if no_prefect:
        _announce(plan, until, yes=yes)
        finished = _run_bare(plan, until)
    else:
        with prefect_server() as server:
            _announce(plan, until, yes=yes)
            finished = _run_flow(server, preset, sets, plan, until)
    _conclude(finished)


def _announce(plan: RunPlan, until: str | None, *, yes: bool) -> None:
    console = Console(stderr=True)
    show_plan(console, plan, preview_steps(plan, until))
    console.print()
    cost = estimate(plan).usd
    if cost > ASK_ABOVE_USD and not yes and sys.stdin.isatty():
        typer.confirm(f"Start a run of about ${cost:,.0f}?", abort=True, err=True)


def _run_bare(plan: RunPlan, until: str | None) -> FinishedRun:
    from flows.speedrun import run_until
    from nanochat_core.pipeline import steps

    started_at = time.time()
    with display(_titles(plan, until)) as watching:
        observe.use(watching)
        return finish_run(plan, run_until(steps, plan, until), started_at=started_at)


def _run_flow(
    server: EmbeddedServer | None, preset: str, sets: list[str] | None, plan: RunPlan, until: str | None
) -> FinishedRun:
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.speedrun import speedrun
    from tasks.policy import show_core_logs

    show_core_logs()
    settings: dict[Any, Any] = {}
    if server is not None:
        server.wait_until_ready()
        settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = (
            None  # nobody else reads it here, and it costs a second at the end
        )
    try:
        with temporary_settings(settings), display(_titles(plan, until)) as watching:
            observe.use(watching)
            fresh, drift = list(plan.fresh), list(plan.accept_drift)
            state = speedrun(preset, list(sets or []), until, fresh, drift, return_state=True)
    finally:
        APILogWorker.drain_all(timeout=5)  # while there is a server to take the last lines, also after a Ctrl-C
    if server is not None and state.is_completed() and state.state_details.flow_run_id is not None:
        server.wait_until_recorded(str(state.state_details.flow_run_id), len(_titles(plan, until)))
    finished: FinishedRun = state.result()
    return finished


def _titles(plan: RunPlan, until: str | None) -> dict[str, str]:
    """The steps of this run and what each will do."""
    steps = wanted(plan)
    names = list(steps)
    return {name: steps[name].title(plan) for name in (names[: names.index(until) + 1] if until else names)}


def _conclude(finished: FinishedRun) -> None:
    """The answer: what came out, where it is, what to type next."""
    made = sum(not ref.is_cached for ref in finished.refs)
    console = Console()
    console.print(
        f"\n[bold]done[/bold] in {duration(finished.seconds)}: {made} made, {len(finished.refs) - made} cached"
    )
    for name in ("evaluate_base", "evaluate_chat"):
        if ref := finished.ref(name):
            console.print(f"  {name.removeprefix('evaluate_'):<6} {ref.metrics['bits_per_byte']:.4f} bits per byte")
    for name in ("evaluate_core", "benchmark_chat"):
        if ref := finished.ref(name):
            console.print(f"  {STEPS[name].headline(ref.metrics)}")
    if ref := finished.ref("evaluate_chat"):
        for name, score in ref.metrics.get("benchmarks", {}).items():
            console.print(f"  {name:<14} {score['accuracy']:.0%} of {score['num_asked']} held-out questions")
        _sample(console, ref.metrics)
    if finished.report:
        console.print(f"\n  report   {_link(finished.report)}", soft_wrap=True)
        console.print(f"  next     [bold]{_command()} chat[/bold]")


def _sample(console: Console, metrics: dict[str, Any]) -> None:
    sample = metrics.get("sample")
    if sample:
        console.print(f"\n  > {sample['prompt']}\n  {sample['answer']}", markup=False, highlight=False)


def _command() -> str:
    """What to type here: the bare name where the shell finds this installation, else its path."""
    found, ours = shutil.which("nanochat"), Path(sys.executable).with_name("nanochat")
    if found and Path(found).resolve() == ours.resolve():
        return "nanochat"
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def _link(path: Path) -> str:
    return path.as_uri()


sweeps_cli.register(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
