"""The verbs about what runs came to: bundle, verify, leaderboard, and `runs` list, show, compare.

They read the store (`verify` not even that) and print tables, or JSON alone with --json.
"""

from pathlib import Path
from typing import Annotated

import typer

from nanochat_core.cli.output import Json, answer

Run = Annotated[str, typer.Argument(help="A run: its id, the beginning of one, or latest.")]
REFUSED = 1

runs_app = typer.Typer(
    help="The runs that the store remembers.\n\nnanochat runs list\n\nnanochat runs compare latest tiny-2026",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to the command line."""
    app.command()(bundle)
    app.command()(verify)
    app.command()(leaderboard)
    app.add_typer(runs_app, name="runs")


def bundle(
    runs: Annotated[list[str], typer.Argument(help="Runs of one configuration, each with another seed.")],
    out: Annotated[Path | None, typer.Option(help="A new folder, or a .zip; default: bundle-RUN.")] = None,
    description: Annotated[str, typer.Option(help="One line for people.")] = "",
    target_bpb: Annotated[
        float | None, typer.Option(help="Also test that the mean validation bits per byte are below this.")
    ] = None,
    with_weights: Annotated[bool, typer.Option("--with-weights", help="Add the model's weights.")] = False,
    as_json: Json = False,
) -> None:
    """Write a record that strangers can check: claims, and the evidence for them.

    nanochat bundle latest

    nanochat bundle gpt2-20261122-101500-3f1c gpt2-20261123-090000-77ab --out record.zip
    """
    from nanochat_core import workspace
    from nanochat_core.cli.records_view import show_claims
    from nanochat_core.record.bundle import make_bundle
    from nanochat_core.record.runs import resolve_run

    store = workspace.current().store
    ids = [resolve_run(store, run) for run in runs]
    made = make_bundle(
        store,
        ids,
        out or Path(f"bundle-{ids[0]}"),
        description=description,
        target_bits_per_byte=target_bpb,
        with_weights=with_weights,
    )

    def show() -> None:
        show_claims(made.claims)
        print(f"\n{made.path}: anyone can check it with `nanochat verify {made.path}`")

    answer({"path": str(made.path), "num_bytes": made.num_bytes, "claims": made.claims}, show, as_json=as_json)


def verify(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder or .zip that `nanochat bundle` wrote.")],
    as_json: Json = False,
) -> None:
    """Compute every claim of a bundle again from its evidence. No GPU, store or network is needed.

    nanochat verify record.zip

    nanochat verify bundle-gpt2-20261122-101500-3f1c --json
    """
    from dataclasses import asdict

    from nanochat_core.cli.records_view import show_verdict
    from nanochat_core.record.verify import verify as check

    verdict = check(path)
    problems = [{**asdict(problem), "message": str(problem)} for problem in verdict.problems]
    fields = {"path": verdict.path, "is_sound": verdict.is_sound, "problems": problems, "notes": verdict.notes}
    fields["rules"] = verdict.rules
    claims = verdict.claims if verdict.is_sound else None
    answer({**fields, "claims": claims}, lambda: show_verdict(verdict), as_json=as_json)
    if not verdict.is_sound:
        raise typer.Exit(REFUSED)


def leaderboard(
    bundles: Annotated[list[Path] | None, typer.Option("--bundle", help="Also this bundle. May be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Time to GPT-2: the store's runs and bundles by training time, beside the published records.

    nanochat leaderboard

    nanochat leaderboard --bundle record.zip --json
    """
    from nanochat_core import workspace
    from nanochat_core.cli.records_view import show_leaderboard
    from nanochat_core.record.leaderboard import leaderboard as rows_of

    rows = rows_of(workspace.current().store, bundles or ())
    answer(rows, lambda: show_leaderboard(rows), as_json=as_json)


@runs_app.command("list")
def list_runs(as_json: Json = False) -> None:
    """All runs, newest first, with what they came to.

    nanochat runs list

    nanochat runs list --json
    """
    from nanochat_core import workspace
    from nanochat_core.cli.records_view import show_runs
    from nanochat_core.record.runs import list_runs as summaries

    found = summaries(workspace.current().store)
    answer(found, lambda: show_runs(found), as_json=as_json)


@runs_app.command("show")
def show_run(run: Run = "latest", as_json: Json = False) -> None:
    """One run: its steps, numbers, clock and machine.

    nanochat runs show

    nanochat runs show tiny-20261122-143033-71e8 --json
    """
    from nanochat_core import workspace
    from nanochat_core.cli.records_view import show_one_run
    from nanochat_core.record.runs import resolve_run
    from nanochat_core.record.runs import show_run as facts_of

    store = workspace.current().store
    facts = facts_of(store, resolve_run(store, run))
    answer(facts, lambda: show_one_run(facts), as_json=as_json)


@runs_app.command("compare")
def compare(a: Run, b: Run, as_json: Json = False) -> None:
    """Two runs side by side: settings, results with their errors, and compute at equal bits per byte.

    nanochat runs compare tiny-20261122-143033 latest

    nanochat runs compare tiny-20261122-143033 tiny-20261122-143045 --json
    """
    from nanochat_core import workspace
    from nanochat_core.cli.records_view import show_comparison
    from nanochat_core.record.compare import compare_runs
    from nanochat_core.record.runs import resolve_run

    store = workspace.current().store
    comparison = compare_runs(store, resolve_run(store, a), resolve_run(store, b))
    answer(comparison.record(), lambda: show_comparison(comparison), as_json=as_json)
