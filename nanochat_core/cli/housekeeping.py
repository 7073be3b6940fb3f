"""The verbs that look after the store: `runs gc`, and `refs` list, promote, pin, unpin.

`gc` prints one line for each thing it deletes, or with --dry-run would delete: the same lines.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_core.cli.output import Json, answer

if TYPE_CHECKING:
    from nanochat_core.store.gc import Report
    from nanochat_core.store.names import Pin, Ref

refs_app = typer.Typer(
    help="Names of artifacts, and what is never deleted.\n\nnanochat refs list\n\n"
    "nanochat refs promote tiny-chat baseline",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add `refs` to the command line."""
    app.add_typer(refs_app, name="refs")


def register_gc(runs: typer.Typer) -> None:
    """Add `gc` to the verbs of `runs`."""
    runs.command("gc")(gc)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    keep_runs: Annotated[
        int | None, typer.Option(min=0, help="Keep so many of the newest runs. [default: runtime.keep_runs, 50]")
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(min=0, help="Keep what is younger than this. [default: runtime.keep_days, 30]")
    ] = None,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Never touch what is younger: it may belong to something under way.")
    ] = 24.0,
    preset: Annotated[
        str, typer.Option(help="Whose settings say what is kept: runtime.keep_runs, keep_days.")
    ] = "tiny",
    sets: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.field=value.")] = None,
    as_json: Json = False,
) -> None:
    """Delete artifacts that no ref, pin, kept run or running step reaches, and what dead processes left behind.

    nanochat runs gc --dry-run

    nanochat runs gc --keep-runs 5 --keep-days 0
    """
    from nanochat_core import workspace
    from nanochat_core.store.gc import clean
    from nanochat_core.store.reach import Policy

    space = workspace.current()
    policy = Policy(**retention(keep_runs, keep_days, preset=preset, sets=sets or ()), grace_s=grace_hours * 3600)
    report = clean(space.store, space.home, policy, dry_run=dry_run)
    answer(report.to_json(), lambda: print(*lines(report), sep="\n"), as_json=as_json)


def retention(
    keep_runs: int | None, keep_days: float | None, *, preset: str = "tiny", sets: Sequence[str] = ()
) -> dict[str, Any]:
    """What was asked for, else what a preset's settings say."""
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config

    default = plan_run(load_config(preset, sets)).config.runtime
    return {
        "keep_runs": default.keep_runs if keep_runs is None else keep_runs,
        "keep_days": default.keep_days if keep_days is None else keep_days,
    }


def lines(report: "Report") -> list[str]:
    """One for each item, and the sum; those of a dry run differ from the real ones in the last line only."""
    from nanochat_core.base.units import size

    found = [f"{item.kind:<9}{size(item.num_bytes):>10}  {item.key}  ({item.why})" for item in report.items]
    verb = "would be deleted" if report.is_dry_run else "deleted"
    kept = f"{report.num_artifacts_kept} artifacts and {report.num_blobs_kept} blobs stay"
    return [*found, f"{len(report.items)} things {verb}, {size(report.num_bytes)}; {kept}"]


@refs_app.command("list")
def list_refs(as_json: Json = False) -> None:
    """Every name, what it means, and whether it is pinned.

    nanochat refs list

    nanochat refs list --json
    """
    from nanochat_core import workspace

    store = workspace.current().store
    refs, pins = store.refs(), store.pins()
    pinned = {pin.target for pin in pins}
    rows = [{**asdict(ref), "is_pinned": f"{ref.name}@{ref.version}" in pinned} for ref in refs]
    answer({"refs": rows, "pins": pins}, lambda: _show_refs(refs, pins), as_json=as_json)


def _show_refs(refs: "Sequence[Ref]", pins: "Sequence[Pin]") -> None:
    from nanochat_core.cli.output import Page, table

    pinned = {pin.target for pin in pins}
    shown = table("ref", "step", "fingerprint", "set", "", spare=("fingerprint", "set"))
    for ref in refs:
        target = f"{ref.name}@{ref.version}"
        note = "pinned" if target in pinned else "expires with its run" if ref.expires else ""
        shown.add_row(target, ref.step, ref.fingerprint[:12], ref.set_at[:16].replace("T", " "), note)
    for pin in pins:
        if pin.is_run or pin.target not in {f"{ref.name}@{ref.version}" for ref in refs}:
            shown.add_row(
                pin.target, f"{len(pin.artifacts)} artifacts", "", pin.pinned_at[:16].replace("T", " "), "pinned"
            )
    Page().print(shown)


@refs_app.command()
def promote(
    ref: Annotated[str, typer.Argument(help="What to promote: NAME or NAME@VERSION.")],
    name: Annotated[str, typer.Argument(help="The name that means it from now on, such as baseline.")],
    version: Annotated[str | None, typer.Option(help="Default: the beginning of its fingerprint.")] = None,
) -> None:
    """Give an artifact another name; the newest version of a name is what the name means.

    nanochat refs promote tiny-chat baseline

    nanochat refs promote tiny-chat@3f1c0a22be91 release --version 1.0
    """
    from nanochat_core import workspace

    store = workspace.current().store
    old, _, old_version = ref.partition("@")
    artifact = store.ref(old, old_version or None)
    made = store.set_ref(name, version or artifact.fingerprint[:12], artifact)
    print(f"{made.name}@{made.version} is {artifact.step} {artifact.fingerprint[:12]}")


@refs_app.command()
def pin(target: Annotated[str, typer.Argument(help="A run's id, or a ref: NAME or NAME@VERSION.")]) -> None:
    """Never delete what a run made or a ref means now, whatever becomes of their names.

    nanochat refs pin tiny-chat

    nanochat refs pin tiny-20261122-101500-3f1c
    """
    from nanochat_core import workspace

    made = workspace.current().store.pin(target)
    print(f"pinned {made.target}: {len(made.artifacts)} artifact{'s' if len(made.artifacts) != 1 else ''}")


@refs_app.command()
def unpin(
    target: Annotated[str, typer.Argument(help="What was pinned; NAME alone means all of its versions.")],
) -> None:
    """Let gc have what was pinned, when nothing else holds it.

    nanochat refs unpin tiny-chat

    nanochat refs unpin tiny-20261122-101500-3f1c
    """
    from nanochat_core import workspace

    for gone in workspace.current().store.unpin(target):
        print(f"{gone.target} is not pinned any more")
