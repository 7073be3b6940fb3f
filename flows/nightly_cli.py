"""The verbs of the nightly gate: nightly, and its promote, history, bisect and notify. flows/cli.py registers them.

`nanochat nightly` is one night; exit code 5 says that it found a regression. Prefect is imported late, as it takes a
second that refusals and lists need not wait for.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.recorded import leave_out_prefect
from flows.server import prefect_server
from flows.session import confirm_cost, run_flow
from nanochat_core import observe
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.stopping import stop_on_signals
from nanochat_core.base.units import duration
from nanochat_core.cli.app import Depth, Json, Sets, chosen
from nanochat_core.cli.display import Display, display
from nanochat_core.cli.output import Page, table
from nanochat_core.plan import RunPlan, estimate, plan_run
from nanochat_core.presets import load_config, preset_names

if TYPE_CHECKING:
    from nanochat_core.gate.bisect import Found
    from nanochat_core.gate.finish import FinishedNight

Preset = Annotated[str, typer.Option(help=f"{', '.join(preset_names())}, or a .toml file.")]
nightly_app = typer.Typer(
    help="Train again and tell a regression from noise.\n\nnanochat nightly --preset tiny\n\n"
    "nanochat nightly bisect --good v1.2 --bad main",
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.add_typer(nightly_app, name="nightly")


@nightly_app.callback(invoke_without_command=True)
def nightly(
    context: typer.Context,
    preset: Preset = "d12",
    depth: Depth = None,
    sets: Sets = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings at least; more fill a baseline sooner.")] = 1,
    full: Annotated[
        bool, typer.Option("--full", help="Train in full, whatever a short training beforehand would say.")
    ] = False,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="The same steps without Prefect.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a night that costs money.")] = False,
) -> None:
    """One night: train anew on cached data, compare with the baseline; exit code 5 on a regression.

    nanochat nightly --preset tiny --seeds 3

    nanochat nightly promote
    """
    if context.invoked_subcommand is not None:
        return
    stop_on_signals()
    overrides = chosen(sets, depth)
    plan = plan_run(load_config(preset, overrides))
    confirm_cost("night", estimate(plan).usd * seeds, yes=yes)
    if no_prefect:
        leave_out_prefect()
        with display(_titles(plan)) as watching:
            observe.use(watching)
            finished = _judge(plan, preset, overrides, seeds, full)
    else:
        with prefect_server() as server:

            def start() -> Any:
                from flows.nightly import nightly as flow

                return flow(preset, overrides, seeds, full=full, return_state=True)

            def without(_watching: Display) -> "FinishedNight":
                return _judge(plan, preset, overrides, seeds, full)

            finished = run_flow(server, start, _titles(plan), num_tasks=_num_tasks, without=without)
    _conclude(finished)


def _judge(plan: RunPlan, preset: str, overrides: list[str], seeds: int, is_full: bool) -> "FinishedNight":
    from flows.nightly import train_and_judge
    from nanochat_core.gate.finish import raise_if_red
    from nanochat_core.pipeline.execute import make

    finished = train_and_judge(plan, preset, overrides, make, seeds=seeds, is_full=is_full)
    raise_if_red(finished)
    return finished


def _titles(plan: RunPlan) -> dict[str, str]:
    from nanochat_core.pipeline.table import wanted
    from nanochat_core.sweep.cells import last_step

    steps = wanted(plan)
    names = list(steps)
    return {name: steps[name].title(plan) for name in names[: names.index(last_step(plan)) + 1]}


def _num_tasks(finished: "FinishedNight") -> int:
    return finished.num_steps


def _conclude(finished: "FinishedNight") -> None:
    record, verdict = finished.record, finished.record["verdict"]
    console = Page()
    console.print(
        f"\n[bold]{verdict['outcome']}[/bold] in {duration(record['seconds'])}: {verdict['summary']}", soft_wrap=True
    )
    for run in record["runs"]:
        console.print(f"  seed {run['seed']:<12} {run['metrics']['bits_per_byte']:.5f} bits per byte", highlight=False)
    for note in verdict["notes"]:
        console.print(f"  note     {note}", highlight=False, soft_wrap=True)
    console.print(f"\n  night    {finished.run_id}", highlight=False)
    if finished.plot is not None:
        console.print(f"  history  {finished.plot.as_uri()}", soft_wrap=True)


@nightly_app.command()
def promote(
    night: Annotated[str | None, typer.Option(help="The newest night to use; also a red one that is accepted.")] = None,
    last: Annotated[
        int | None, typer.Option(min=2, help="So many of the newest comparable runs. [default: 24]")
    ] = None,
    same_recipe: Annotated[
        bool, typer.Option("--same-recipe", help="Runs of that night's code and plan only.")
    ] = False,
    alarms: Annotated[
        float, typer.Option("--alarms-a-year", min=0.1, max=20.0, help="False alarms that nights may cost.")
    ] = 2.0,
) -> None:
    """Make the newest comparable runs that were no regression the baseline, `nightly-baseline`.

    nanochat nightly promote

    nanochat nightly promote --same-recipe --last 12
    """
    from nanochat_core import workspace
    from nanochat_core.gate import baseline
    from nanochat_core.gate.level import estimate_level
    from nanochat_core.gate.night import nights
    from nanochat_core.gate.verdict import looks_of

    store = workspace.current().store
    number = baseline.NUM_RUNS if last is None else last
    name, runs = baseline.promote(
        store, nights(store), night=night, last=number, is_same_recipe=same_recipe, budget=alarms
    )
    level = estimate_level(looks_of(runs))
    assert level is not None, "a baseline has two runs or more"
    print(
        f"{name}: {len(runs)} runs, {level.location:.5f} bits per byte, "
        f"sd {level.scale:.2g} ({level.scale / level.location:.1e} of it)"
    )


@nightly_app.command()
def history(as_json: Json = False) -> None:
    """The nights so far, oldest first.

    nanochat nightly history

    nanochat nightly history --json
    """
    from nanochat_core import workspace
    from nanochat_core.gate.night import nights

    found = nights(workspace.current().store)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    columns = "night", "commit", "verdict", "decided by", "bits per byte", "effect"
    shown = table(*columns, wraps=("bits per byte", "decided by"), spare=("commit", "decided by"))
    for night in found:
        values = " ".join(f"{run['metrics']['bits_per_byte']:.5f}" for run in night["runs"])
        effect = (night["verdict"] or {}).get("effect_sd")
        commit = (night["source"].get("git_commit") or "")[:12]
        by = (night["verdict"] or {}).get("decided_by", "")
        shown.add_row(
            night["run_id"], commit, night["state"], by, values, "" if effect is None else f"{effect:+.1f} sd"
        )
    Page().print(shown if found else "no night is recorded in this store")


@nightly_app.command()
def bisect(
    good: Annotated[str, typer.Option(help="A commit that is fine.")],
    bad: Annotated[str, typer.Option(help="A later one that is not.")],
    preset: Preset = "d12",
    depth: Depth = None,
    sets: Sets = None,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of the good commit without a baseline.")] = 3,
    trainings: Annotated[int, typer.Option(min=2, help="Stop after so many and say what is left.")] = 30,
    repository: Annotated[Path, typer.Option(help="The checkout; its working tree is not touched.")] = Path(),
    as_json: Json = False,
) -> None:
    """Find the commit that made it worse; each one is trained in a worktree, and what was trained once is reused.

    nanochat nightly bisect --good 5e1f0aa --bad main --preset tiny

    nanochat nightly bisect --good v1.2 --bad HEAD
    """
    from nanochat_core.gate.bisect import bisect as search
    from nanochat_core.gate.night import Asked

    asked = Asked(preset=preset, overrides=tuple(chosen(sets, depth)))
    console = Page(stderr=True)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    stop_on_signals()
    found = search(
        repository.absolute(), good, bad, asked=asked, tell=tell, baseline_seeds=seeds, max_trainings=trainings
    )
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    for tried in found.log:
        values = " ".join(f"{value:.5f}" for value in tried.values) or tried.outcome
        print(f"{tried.commit[:12]}  {tried.bad or 0.0:4.0%} worse  {values}  {tried.subject}")
    print(_answer(found))


def _answer(found: "Found") -> str:
    if not found.culprits:
        return f"no change made it worse ({found.probability:.0%}): the red night was chance, or the machine's"
    if found.is_decided:
        told = " or ".join(found.culprits)
        return f"first bad commit: {told} ({found.probability:.0%}, {found.num_trained} trainings)"
    more = f" or {len(found.culprits) - 3} more" if len(found.culprits) > 3 else ""
    told = " or ".join(commit[:12] for commit in found.culprits[:3]) + more + (" or none" if found.may_be_none else "")
    return f"not decided after {found.num_trained} trainings; {found.probability:.0%} that it is {told}"


@nightly_app.command()
def notify(
    url: Annotated[str, typer.Argument(help="Where to POST: {subject, body} as JSON, the verdict in the body.")],
) -> None:
    """Let your Prefect server send every red verdict to a webhook; again changes the address.

    nanochat nightly notify https://chat.example/hooks/nightly

    PREFECT_API_URL=http://127.0.0.1:4200/api nanochat nightly notify http://127.0.0.1:9000/
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no web address", hint="such as https://chat.example/hooks/nightly")
    from flows.nightly_notify import register_webhook

    print(f"automation nanochat-regression {register_webhook(url)}")
