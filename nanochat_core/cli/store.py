"""`nanochat store copy`: what runs and names reach, brought to another folder or bucket."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.cli.output import Json, answer

if TYPE_CHECKING:
    from nanochat_core.store.copy import Cargo, Carried
    from nanochat_core.store.manifest import Artifact
    from nanochat_core.store.store import Store

NOT_WHOLE = 1
store_app = typer.Typer(
    help="The store as a whole.\n\nnanochat store copy latest --to s3://bucket/prefix",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add `store` to the command line."""
    app.add_typer(store_app, name="store")


@store_app.callback()
def group() -> None:
    """One verb alone would otherwise take the group's place."""


@store_app.command("copy")
def copy(
    what: Annotated[
        list[str] | None, typer.Argument(help="Runs (an id, the beginning of one, latest) and names (NAME@VERSION).")
    ] = None,
    to: Annotated[str, typer.Option("--to", help="A folder, or s3://bucket/prefix.")] = "",
    whole: Annotated[bool, typer.Option("--all", help="Every artifact, name, pin and run.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", help="Copy from this one. [default: NANOCHAT_STORE, or the home's]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring runs and names, with all that they were made from, to another store.

    nanochat store copy latest --to s3://bucket/prefix

    nanochat store copy tiny-chat --store s3://bucket/prefix --to ~/.nanochat/store
    """
    from nanochat_core import workspace
    from nanochat_core.store.copy import carry, everything
    from nanochat_core.store.store import Store

    if bool(what) == whole:
        raise ConfigError("say what to copy: runs and names, or --all", hint="nanochat runs list, nanochat refs list")
    if not to:
        raise ConfigError("say where to: --to names a folder or s3://bucket/prefix")
    space, started = workspace.current(), time.monotonic()
    source = Store.open(store, cache_folder=space.home / "cache") if store else space.store
    target = Store.open(to, cache_folder=space.home / "cache")
    cargo = everything(source) if whole else _cargo(source, what or [])
    done = carry(source, target, cargo, on_artifact=_say)
    seconds = time.monotonic() - started
    answer(_fields(done, source, target, seconds), lambda: _show(done, target, seconds), as_json=as_json)
    if not done.is_whole:
        raise typer.Exit(NOT_WHOLE)


def _cargo(store: "Store", names: list[str]) -> "Cargo":
    """What was typed: a name of an artifact where there is one, else a run."""
    from nanochat_core.record.runs import resolve_run
    from nanochat_core.store.copy import reached
    from nanochat_core.store.names import absent, labels

    runs, refs, known = [], [], {ref.name for ref in store.refs()}
    for text in names:
        name, _, version = text.partition("@")
        if name in known:
            artifact = store.ref(name, version or None)
            meant = [ref for ref in store.refs() if ref.name == name and ref.fingerprint == artifact.fingerprint]
            refs += [(ref.name, ref.version) for ref in meant if ref.version.startswith(version)]
        else:
            try:
                runs.append(resolve_run(store, text))
            except MissingError:
                names = [*store.runs(), *labels(store.refs())]
                raise absent(text, names, url=store.url, kinds=["run", "ref"]) from None
    return reached(store, runs=runs, refs=refs)


def _say(artifact: "Artifact", what: str) -> None:
    from nanochat_core.base.units import size

    line = (
        f"{artifact.step:<14} {artifact.fingerprint[:12]}  {len(artifact.files):>3} files {size(artifact.num_bytes):>9}"
    )
    print(f"{line}  {what}", file=sys.stderr, flush=True)


def _fields(done: "Carried", source: "Store", target: "Store", seconds: float) -> dict[str, Any]:
    found = {"went": done.went, "was_there": done.there, "has_other_content": done.other}
    artifacts = {name: [f"{each.step}/{each.fingerprint}" for each in some] for name, some in found.items()}
    labels = {"labels": done.labels, "labels_there": done.labels_there, "labels_left": done.labels_left}
    numbers = {"num_files": done.num_files, "num_bytes": done.num_bytes, "seconds": seconds}
    return {"from": source.url, "to": target.url, **numbers, **artifacts, **labels, "is_whole": done.is_whole}


def _show(done: "Carried", target: "Store", seconds: float) -> None:
    from nanochat_core.base.units import duration, size

    speed = f", {size(int(done.num_bytes / seconds))}/s" if done.num_bytes and seconds else ""
    files = f"{done.num_files:,} files, {size(done.num_bytes)} in {duration(seconds)}{speed}"
    print(f"went: {len(done.went)} artifacts, {files}; was there: {len(done.there)} artifacts")
    print(f"names, pins and runs: {len(done.labels)} went, {len(done.labels_there)} were there")
    for artifact in done.other:
        print(f"left as it is there, with other content: {artifact.step} {artifact.fingerprint[:12]}")
    for key in done.labels_left:
        print(f"left out, for it means something else there: {key}")
    print(f"{target.url} has all of it" if done.is_whole else f"{target.url} does not have all of it")
