"""What runs learn from, for the page at /data: read only, and only where the server was started with it.

Text that a model was trained on may be private, and whoever may ask the model need not be let see it: so it is asked
for (`--data`). The paths below /data/ want the token as all others do, the page itself holds nothing. Pages of other
sites cannot read an answer, and cannot make the server look for one: their requests say where they come from.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.look.run_data import RunData
from nanochat_core.look.unfinished import UNFINISHED, attempts, open_unfinished
from nanochat_core.record.runs import list_runs, resolve_run
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.guards import client_of
from nanochat_core.serve.lane import SMALL_BYTES, Lane
from nanochat_core.store.store import Store

if TYPE_CHECKING:
    from nanochat_core.look.view import DataView

PAGE = Path(__file__).parent / "static/data.html"
NO_DATA = "this server shows no data: nanochat serve --data does"
VIEWS_KEPT = 4
OUR_SITE = ("same-origin", "none")
MOST = 2**53  # what a page counts with
Run = Annotated[str, Query(max_length=200)]
Number = Annotated[int, Query(ge=0, le=MOST)]
Text = Annotated[str, Query(max_length=1000)]


class DataSource:
    """The runs of a store, one question at a time."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.home = store, home
        self._views: OrderedDict[str, DataView] = OrderedDict()
        self._lock = threading.Lock()

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        names = ("run_id", "started_at", "preset", "depth", "last_step")
        found = [{name: getattr(run, name) for name in names} for run in list_runs(self.store)]
        going = [attempt.parent.name.rpartition("-")[0] for attempt in attempts(self.home)[-1:]]
        return [*found, *({"run_id": UNFINISHED, "last_step": training} for training in going)]

    def ask(self, run: str, question: Callable[["DataView"], Any]) -> Any:
        """The answer for a run; ApiError where there is none."""
        with self._lock:
            if run == UNFINISHED:  # its log grows
                return _answered(lambda: question(_look_at(open_unfinished(self.store, self.home))))
            try:
                run_id = resolve_run(self.store, run)
            except NanochatError as error:  # it names the store, which is nobody's business
                raise ApiError(404, "there is no such run here", param="run") from error
            return _answered(lambda: question(self._view(run_id)))

    def _view(self, run_id: str) -> "DataView":
        view = self._views.pop(run_id, None) or _look_at(RunData.open(self.store, run_id))
        self._views[run_id] = view
        if len(self._views) > VIEWS_KEPT:
            self._views.popitem(last=False)
        return view


def _look_at(data: RunData) -> "DataView":
    from nanochat_core.look.view import DataView  # with Arrow: 80 MB that a server without this page does not need

    return DataView(data)


def _answered(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except NanochatError as error:
        status = 404 if isinstance(error, MissingError) else 400
        raise ApiError(status, error.message + (f" ({error.hint})" if error.hint else "")) from error


def add_data(app: FastAPI, source: DataSource | None, lane: Lane) -> None:
    """The page and what it asks."""

    @app.get("/data", include_in_schema=False)
    async def page() -> Response:
        """The page."""
        if source is None:
            raise ApiError(404, NO_DATA)
        return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})

    async def told(request: Request, look: Callable[[DataSource], Any]) -> Response:
        if source is None:
            raise ApiError(404, NO_DATA)
        if request.headers.get("sec-fetch-site", "none") not in OUR_SITE:
            raise ApiError(403, "this is for the server's own page", code="wrong_site")
        # in the lane of what takes long: a search or a measurement must not keep answers waiting
        found = await lane.do(lambda: json.dumps(look(source)), num_bytes=SMALL_BYTES + 1, client=client_of(request)[0])
        return Response(found, media_type="application/json", headers={"Cache-Control": "no-store"})

    _add_lists(app, told)
    _add_lineage(app, told)


Told = Callable[..., Any]


def _add_lists(app: FastAPI, told: Told) -> None:
    @app.get("/data/runs", include_in_schema=False)
    async def runs(request: Request) -> Response:
        return await told(request, lambda source: source.runs())

    @app.get("/data/overview", include_in_schema=False)
    async def overview(request: Request, run: Run = "latest") -> Response:
        return await told(request, lambda source: source.ask(run, lambda view: view.overview()))

    @app.get("/data/documents", include_in_schema=False)
    async def documents(
        request: Request, run: Run = "latest", split: str = "train", start: Number = 0, most: Number = 10,
        search: Text = "", file: Text = "",
    ) -> Response:  # fmt: skip
        asked: dict[str, Any] = {"start": start, "most": most, "search": search, "file": file}
        return await told(request, lambda source: source.ask(run, lambda view: view.documents(split, **asked)))

    @app.get("/data/document", include_in_schema=False)
    async def document(request: Request, number: Number, run: Run = "latest", split: str = "train") -> Response:
        return await told(request, lambda source: source.ask(run, lambda view: view.document(split, number)))

    @app.get("/data/conversations", include_in_schema=False)
    async def conversations(
        request: Request, run: Run = "latest", split: str = "train", start: Number = 0, most: Number = 10,
        search: Text = "",
    ) -> Response:  # fmt: skip
        asked: dict[str, Any] = {"start": start, "most": most, "search": search}
        return await told(request, lambda source: source.ask(run, lambda view: view.conversations(split, **asked)))

    @app.get("/data/removed", include_in_schema=False)
    async def removed(
        request: Request, run: Run = "latest", start: Number = 0, most: Number = 10, search: Text = "",
        rule: Text = "", near: bool = False,
    ) -> Response:  # fmt: skip
        asked: dict[str, Any] = {"start": start, "most": most, "search": search, "rule": rule, "near": near}
        return await told(request, lambda source: source.ask(run, lambda view: view.removed(**asked)))


def _add_lineage(app: FastAPI, told: Told) -> None:
    @app.get("/data/row", include_in_schema=False)
    async def row(
        request: Request, row: Number = 0, of: str = "text", run: Run = "latest", split: str = "train"
    ) -> Response:
        return await told(request, lambda source: source.ask(run, lambda view: view.row(of, split, row)))

    @app.get("/data/curve", include_in_schema=False)
    async def curve(request: Request, run: Run = "latest", training: str = "pretrain") -> Response:
        return await told(request, lambda source: source.ask(run, lambda view: view.curve(training)))

    @app.get("/data/step", include_in_schema=False)
    async def step(request: Request, step: Number, run: Run = "latest", training: str = "pretrain") -> Response:
        return await told(request, lambda source: source.ask(run, lambda view: view.step(training, step)))
