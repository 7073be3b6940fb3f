"""`nanochat data show`: what a run learns from, in a terminal. The page of `nanochat serve --data` shows the same."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nanochat_core.cli.output import Json, answer

if TYPE_CHECKING:
    from nanochat_core.look.view import DataView

What = Literal["overview", "documents", "document", "rows", "conversations", "removed", "step", "spike"]
Split = Literal["train", "validation"]
Training = Literal["pretrain", "sft"]

data_app = typer.Typer(
    help="What a run learns from.\n\nnanochat data show\n\nnanochat data show spike",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to the command line."""
    app.add_typer(data_app, name="data")


@data_app.callback()
def _verbs() -> None:
    """Keeps `show` a verb of its own while it is the only one."""


@data_app.command()
def show(
    what: Annotated[
        What,
        typer.Argument(
            help="What to look at: overview, documents, document, rows, conversations, removed, step, spike."
        ),
    ] = "overview",
    number: Annotated[
        int | None, typer.Argument(help="The document, row or step; where a list begins.", show_default=False)
    ] = None,
    run: Annotated[str, typer.Option(help="A run: its id, the beginning of one, latest, or unfinished.")] = "latest",
    split: Annotated[Split, typer.Option(help="train or validation.")] = "train",
    search: Annotated[str, typer.Option(help="Only what holds this text, whatever its capitals.")] = "",
    file: Annotated[str, typer.Option(help="Only documents of files whose name holds this.")] = "",
    training: Annotated[Training, typer.Option(help="Whose step: pretrain or sft; rows follow it.")] = "pretrain",
    rule: Annotated[str, typer.Option(help="Of what was removed: by this rule only.")] = "",
    near: Annotated[bool, typer.Option("--near", help="What stayed, though a rule nearly removed it.")] = False,
    count: Annotated[int, typer.Option(help="How many of a list.")] = 10,
    as_json: Json = False,
) -> None:
    """Documents, rows as the model sees them, conversations, what was removed; from a step to the lines of files.

    nanochat data show documents --search "lorem ipsum"

    nanochat data show step 130
    """
    from nanochat_core import workspace
    from nanochat_core.cli import data_view
    from nanochat_core.look.run_data import RunData
    from nanochat_core.look.unfinished import UNFINISHED, open_unfinished
    from nanochat_core.look.view import ROWS_OF, DataView

    space = workspace.current()
    chosen = open_unfinished(space.store, space.home) if run == UNFINISHED else RunData.open(space.store, run)
    view = DataView(chosen)
    at = number or 0
    listing: dict[str, Any] = {"start": at, "most": count, "search": search}
    asked: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]] = {
        "overview": (view.overview, data_view.show_overview),
        "documents": (lambda: view.documents(split, file=file, **listing), data_view.show_documents),
        "document": (lambda: view.document(split, at), data_view.show_document),
        "rows": (lambda: view.row(ROWS_OF[training], split, at), data_view.show_row),
        "conversations": (lambda: view.conversations(split, **listing), data_view.show_conversations),
        "removed": (lambda: view.removed(rule=rule, near=near, **listing), data_view.show_removed),
        "step": (lambda: view.step(training, number or _last_step(view, training)), data_view.show_step),
        "spike": (lambda: view.spikes(training), data_view.show_spikes),
    }
    find, draw = asked[what]
    found = find()
    answer(found, lambda: draw(found), as_json=as_json)


def _last_step(view: "DataView", training: str) -> int:
    return max((step for step, _ in view.curves.get(training, [])), default=1)
