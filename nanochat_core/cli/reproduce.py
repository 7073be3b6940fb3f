"""`nanochat reproduce`: make a recorded run again from its commit, lock and settings, and compare every digest."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.text import one_line
from nanochat_core.cli.output import Json, Page, answer, said, table
from nanochat_core.pipeline.ingredients import Evidence
from nanochat_core.pipeline.reproduce import Compared, plan_of, reproduce
from nanochat_core.record.runs import resolve_run


def reproduce_run(
    run: Annotated[str, typer.Argument(help="Id of a run, a unique prefix of it, or latest.")],
    folder: Annotated[
        Path | None, typer.Option(help="New folder for checkout, environment and store; default: a temporary one.")
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="Use this environment (its versions are checked) instead of building one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the record's code runs.")] = False,
    as_json: Json = False,
) -> None:
    """Make a run again: same commit, patch, packages and settings, in an empty store. Every digest must be equal.

    Shows the record's patch and what will be run, and asks first: a record is a program that runs as you.

    Trainings have as many processes as they had. Where that cannot be, on another kind of device or in another compute
    type, bits may differ: that is said, and bits per byte must then be equal to 0.01% (fp32) or 1%.

    nanochat reproduce tiny-20261122-130703-e126

    nanochat reproduce tiny-20261122-130703-e126 --folder again/ --json
    """
    store = workspace.current().store
    where = folder or Path(tempfile.mkdtemp(prefix="nanochat-reproduce-"))

    def agree(gathered: Evidence) -> None:
        _show_record(gathered, plan_of(gathered, where, python))
        if not yes:
            _ask()

    compared = reproduce(store, resolve_run(store, run), where, python=python, note=_note, agree=agree)
    answer({"folder": str(where), "steps": compared}, lambda: _show(compared, where), as_json=as_json)
    if not all(one.is_good for one in compared):
        raise typer.Exit(1)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_record(gathered: Evidence, doing: list[str]) -> None:
    if patch := gathered["source"].get("git_patch"):
        _note(f"{patch.rstrip()}\n\nthe above is the patch of {gathered['run_id']}")
    _note("\n  ".join(map(one_line, doing)))


def _ask() -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            "nothing was run: a record's patch and settings run as you, and here is no terminal to ask at",
            hint="read the patch and what would be run above, then give --yes",
        )
    typer.confirm("Run this?", abort=True, err=True)


def _show(compared: list[Compared], where: Path) -> None:
    shown = table("step", "recorded", "made again", "")
    for one in compared:
        shown.add_row(said(one.step), said(one.recorded[:12]), (one.reproduced or "not made")[:12], _word(one))
    console = Page()
    console.print(shown)
    console.print(str(where), style="dim", markup=False, soft_wrap=True)


def _word(one: Compared) -> str:
    if one.is_equal:
        return "[green]equal"
    if not one.reason or one.reproduced is None:
        return "[red]DIFFERENT"
    if one.apart is None:
        return f"not compared, bits may differ ({said(one.reason)})"
    near = "[green]near" if one.is_good else "[red]TOO FAR"
    return f"{near}[/]: {one.apart:.4%} apart, {one.tolerance:.2%} allowed ({said(one.reason)})"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("reproduce")(reproduce_run)
