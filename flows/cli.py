"""The console script `nanochat`: the core's verbs, and `run`, which needs Prefect."""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import deploy, nightly_cli, stack_cli, sweeps_cli, uninstall_cli
from flows.configured import settings
from flows.recorded import leave_out_prefect
from flows.server import EmbeddedServer, prefect_server
from flows.session import confirm_cost, leave, run_flow
from nanochat_core import observe
from nanochat_core.base import environment, redaction
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.limits import raise_open_files
from nanochat_core.base.stopping import stop_on_signals, stop_quietly
from nanochat_core.base.units import count, duration
from nanochat_core.cli import bench, output, serve
from nanochat_core.cli.app import Depth, Drift, From, Preset, Sets, VerifyInputs, app, check_step, chosen, derived_plan
from nanochat_core.cli.display import Display, display
from nanochat_core.cli.output import Page
from nanochat_core.cli.plan_view import preview_steps, show_plan
from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.pipeline.table import STEPS, wanted
from nanochat_core.plan import RunPlan, estimate
from nanochat_core.steps.evaluate import bpb
from nanochat_core.surroundings import settle


@app.command()
def run(
    preset: Preset = "tiny",
    depth: Depth = None,
    sets: Sets = None,
    model: From = None,
    until: Annotated[str | None, typer.Option(help="Stop after this step.")] = None,
    fresh: Annotated[list[str] | None, typer.Option(help="Make this step again although it is cached.")] = None,
    accept_drift: Drift = None,
    verify_inputs: VerifyInputs = False,
    max_cost_usd: Annotated[
        float | None, typer.Option(help="Refuse a plan that is over this; stop with a checkpoint once it is spent.")
    ] = None,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="The same steps without Prefect.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a run that costs money.")] = False,
) -> None:
    """Run the pipeline: corpus to chat model. What is cached is not done again.

    nanochat run tiny

    nanochat run tiny --set sft.epochs=2 --until evaluate_chat

    nanochat run tiny --from tiny-base --until rl
    """
    stop_on_signals()
    sets = chosen(sets, depth, model)
    if max_cost_usd is not None:
        sets = [*sets, f"runtime.max_cost_usd={max_cost_usd}"]
    plan = derived_plan(preset, sets, fresh=fresh, accept_drift=accept_drift, verify_inputs=verify_inputs)
    check_step(until, plan)
    from flows.parameters import check_cost

    check_cost(plan, plan.config.runtime.max_cost_usd)
    if no_prefect:
        leave_out_prefect()
        _announce(plan, until, yes=yes)
        finished = _run_bare(plan, until)
    else:
        with prefect_server() as server:
            settings()  # while the server starts, as all that follows: Prefect's import alone takes most of a second
            _announce(plan, until, yes=yes)
            finished = _run_flow(server, preset, sets, plan, until)
    _conclude(finished, plan)


def _announce(plan: RunPlan, until: str | None, *, yes: bool) -> None:
    console = Page(stderr=True)
    show_plan(console, plan, preview_steps(plan, until))
    console.print()
    confirm_cost("run", estimate(plan).usd, yes=yes)


def _run_bare(plan: RunPlan, until: str | None) -> FinishedRun:
    from flows.speedrun import run_until
    from nanochat_core.pipeline.execute import make

    started_at = time.time()
    with display(_titles(plan, until)) as watching:
        observe.use(watching)
        return finish_run(plan, run_until(make, plan, until), started_at=started_at)


def _run_flow(
    server: EmbeddedServer | None, preset: str, sets: list[str] | None, plan: RunPlan, until: str | None
) -> FinishedRun:
    from flows.speedrun import run_until, speedrun  # while the server starts
    from nanochat_core.pipeline.execute import make

    titles, started_at = _titles(plan, until), time.time()

    def start() -> Any:
        fresh, drift = list(plan.fresh), list(plan.kept)
        return speedrun(
            preset,
            overrides=list(sets or []),
            until=until,
            fresh=fresh,
            accept_drift=drift,
            verify_inputs=plan.verify_inputs,
            return_state=True,
        )

    def num_tasks(_finished: FinishedRun) -> int:
        return len(titles)

    def without(watching: Display) -> FinishedRun:
        made = [name for name, state in watching.states.items() if state.status == "made"]
        again = replace(plan, fresh=tuple(name for name in plan.fresh if name not in made))
        refs = [replace(ref, is_cached=ref.is_cached and ref.step not in made) for ref in run_until(make, again, until)]
        return finish_run(plan, refs, started_at=started_at)

    return run_flow(server, start, titles, num_tasks=num_tasks, without=without)


def _titles(plan: RunPlan, until: str | None) -> dict[str, str]:
    """The steps of this run and what each will do."""
    steps = wanted(plan)
    names = list(steps)
    return {name: steps[name].title(plan) for name in (names[: names.index(until) + 1] if until else names)}


def _conclude(finished: FinishedRun, plan: RunPlan) -> None:
    """The answer: what came out, where it is, what to type next."""
    made = sum(not ref.is_cached for ref in finished.refs)
    console = Page()
    console.print(
        f"\n[bold]done[/bold] in {duration(finished.seconds)}: {made} made, {len(finished.refs) - made} cached"
    )
    _held_out(console, finished, plan)
    for name in ("evaluate_core", "benchmark_chat", "rl", "benchmark_rl"):
        if ref := finished.ref(name):
            console.print(f"  {STEPS[name].headline(ref.metrics)}")
    if ref := finished.ref("evaluate_rl") or finished.ref("evaluate_chat"):
        for name, score in ref.metrics.get("benchmarks", {}).items():
            console.print(f"  {name:<14} {score['accuracy']:.0%} of {score['num_asked']} held-out questions")
        _sample(console, ref.metrics)
    if finished.report:
        console.print(f"\n  report   {_link(finished.report)}", soft_wrap=True)
        console.print(f"  next     [bold]{_command()} chat[/bold], or [bold]{_command()} serve[/bold] for a page")


def _held_out(console: Console, finished: FinishedRun, plan: RunPlan) -> None:
    """Bits per byte of each model, and why they are other figures than those of the trainings."""
    looked_at, in_training = plan.config.evaluate.bpb_tokens, plan.config.pretrain.validation_tokens
    seen = f"up to {count(looked_at)} tokens of it; up to {count(in_training)} during training"
    tuned = "high, for it learnt to answer and no longer to go on with a text"
    notes = {"evaluate_base": seen, "evaluate_chat": tuned, "evaluate_rl": "likewise"}
    for name, note in notes.items():
        if ref := finished.ref(name):
            console.print(f"  {name.removeprefix('evaluate_'):<6} {bpb(ref.metrics)} [dim]({note})")


def _sample(console: Console, metrics: dict[str, Any]) -> None:
    sample = metrics.get("sample")
    if sample:
        console.print(f"\n  > {sample['prompt']}\n  {sample['answer']}", markup=False, highlight=False)


def _command() -> str:
    """What to type here: the bare name where the shell finds this installation, else its path."""
    found, ours = shutil.which("nanochat"), Path(sys.executable).with_name("nanochat")
    if found and Path(found).resolve() == ours.resolve():
        return "nanochat"
    if ours == Path.cwd() / ".venv/bin/nanochat" and Path("nanochat").is_file():  # in a clone
        return "./nanochat"
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def _link(path: Path) -> str:
    return path.as_uri()


sweeps_cli.register(app)
serve.register(app)
deploy.register(app)
bench.register(app)
nightly_cli.register(app)
stack_cli.register(app)
uninstall_cli.register(app)


def main() -> None:
    output.name_files_in_utf8()
    output.prepare()
    redaction.install()
    raise_open_files()
    stop_quietly()
    try:
        for line in [*environment.adopt(), *settle()]:
            print(f"note: {redaction.redact(line)}", file=sys.stderr)
        stack_cli.adopt_stack()
        app(prog_name="nanochat")
    except NanochatError as error:  # outside of every verb: the help text, or the stack of this home
        code: Any = output.tell(error)
    except SystemExit as end:
        code = end.code
    leave(output.finish() or code)


if __name__ == "__main__":
    main()
