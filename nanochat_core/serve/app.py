"""The application: which path does what.

`create_app` is given loaded or loading models and knows nothing of the store or the command line, so tests serve models
that they make. The OpenAPI description at /openapi.json is generated from the same types that check and write bodies.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST

from nanochat_core.base.proxies import LOOPBACK
from nanochat_core.serve import errors, prompts
from nanochat_core.serve.bodies import JsonRoute
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.chat import answer_chat
from nanochat_core.serve.completions import answer_completion
from nanochat_core.serve.data import DataSource, add_data
from nanochat_core.serve.errors import ApiError, ErrorReply
from nanochat_core.serve.guards import Guard, client_of
from nanochat_core.serve.pool import ModelPool
from nanochat_core.serve.replies import (
    ChatCompletion,
    Completion,
    Detokenized,
    HealthReply,
    ModelEntry,
    ModelFacts,
    ModelList,
    Reply,
    TokenizerInfo,
    Tokens,
)
from nanochat_core.serve.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from nanochat_core.tokenizer import tokenizer as tk

REVALIDATE = {"Cache-Control": "no-cache"}
STATIC = Path(__file__).parent / "static"
OWNER = "nanochat"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in (
        (400, "The request cannot be answered."), (401, "The token is missing or wrong."),
        (403, "The request names another host."), (404, "There is no such model."), (413, "The body is too large."),
        (415, "The body is compressed."),
        (429, "Too many requests are waiting; Retry-After says when to try again."),
        (500, "The engine failed."), (503, "The model is loading, or has failed."),
    )
}  # fmt: skip


def create_app(
    models: ModelPool, *, token: str | None, hosts: Collection[str] = LOOPBACK, data: DataSource | None = None
) -> FastAPI:
    """The server of these models. `token`: what clients must send; without one only `hosts` may be asked for. `data`:
    the runs whose data the page at /data shows.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        models.start()
        yield
        await asyncio.to_thread(models.close)

    # no interactive documentation: its pages load scripts from elsewhere
    app = FastAPI(title="nanochat", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, responses=REFUSALS)
    app.router.route_class, app.state.lane = JsonRoute, models.lane
    errors.install(app)
    _add_answers(app, models)
    _add_models(app, models)
    _add_tokenizer(app, models)
    _add_page(app)
    add_data(app, data, models.lane)
    app.add_middleware(
        Guard, token=token, hosts=hosts, max_body_bytes=models.limits.max_body_bytes, metrics=models.metrics
    )
    return app


def _add_answers(app: FastAPI, models: ModelPool) -> None:
    stream = {"text/event-stream": {"schema": {"type": "string", "description": "Chunks, then [DONE]."}}}

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: {"content": stream}})
    async def chat(body: ChatBody, request: Request) -> Response:
        """The assistant's next message."""
        return await answer_chat(models, body, request)

    @app.post("/v1/completions", response_model=Completion, responses={200: {"content": stream}})
    async def completion(body: CompletionBody, request: Request) -> Response:
        """Plain continuations of one or many prompts."""
        return await answer_completion(models, body, request)


def _add_models(app: FastAPI, models: ModelPool) -> None:
    @app.get("/v1/models", response_model=ModelList)
    async def list_models() -> Response:
        """Every model of this server, with its headline numbers."""
        return _json(ModelList(object="list", data=[_entry(model.card) for model in models.models.values()]))

    @app.get("/v1/models/{name:path}", response_model=ModelEntry)
    async def one_model(name: str) -> Response:
        """One model."""
        return _json(_entry(models.find(name).card))

    @app.get("/health", response_model=HealthReply)
    async def health() -> Response:
        """Whether every model answers; 503 with the reason while one is loading or after it failed."""
        found = models.health()
        reply = HealthReply(
            status="ok" if found.reason is None else "unavailable", reason=found.reason, models=found.models
        )
        if found.reason is None:
            return _json(reply)
        problem = ApiError(503, found.reason, code="not_ready", retry_after_s=5)
        return JSONResponse({**reply.model_dump(), **problem.body}, status_code=503, headers=problem.headers)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(models.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_tokenizer(app: FastAPI, models: ModelPool) -> None:
    @app.get("/tokenizer_info", response_model=TokenizerInfo)
    async def tokenizer_info(model: str | None = Query(default=None)) -> Response:
        """The special tokens by name, and the conversation form as a Jinja template."""
        card, scheduler = models.ready(model)
        end = tk.BOS if card.kind == "base" else tk.ASSISTANT_END  # what such a model says when it is done
        return _json(
            TokenizerInfo(
                bos_token=tk.BOS, eos_token=end, pad_token=tk.BOS, chat_template=prompts.CHAT_TEMPLATE,
                vocab_size=scheduler.engine.tokenizer.vocab_size,
            )
        )  # fmt: skip

    @app.post("/tokenize", response_model=Tokens)
    async def tokenize(body: TokenizeBody, request: Request) -> Response:
        """Ids of a text; names of special tokens in it are those tokens."""
        card, scheduler = models.ready(body.model)
        tokenizer = scheduler.engine.tokenizer

        def read() -> str:
            ids = tokenizer.encode_with_special(body.prompt)
            if body.add_special_tokens is not False:
                ids = [tokenizer.bos, *ids]
            # millions of numbers that were made here need no check
            return Tokens.model_construct(tokens=ids, count=len(ids), max_model_len=card.context_tokens).body()

        return _written(await models.lane.read(read, num_bytes=len(body.prompt), client=client_of(request)[0]))

    @app.post("/detokenize", response_model=Detokenized)
    async def detokenize(body: DetokenizeBody, request: Request) -> Response:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        tokenizer = models.ready(body.model)[1].engine.tokenizer

        def read() -> str:
            return Detokenized(
                prompt=tokenizer.decode(prompts.check_ids(tokenizer, body.tokens, param="tokens"))
            ).body()

        return _written(await models.lane.read(read, num_bytes=len(body.tokens), client=client_of(request)[0]))


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The chat page."""
        if not (STATIC / "index.html").is_file():
            raise ApiError(404, "this installation has no page; the API is at /v1")
        return FileResponse(STATIC / "index.html", headers=REVALIDATE)

    app.mount("/static", _PageFiles(directory=STATIC, check_dir=False))


class _PageFiles(StaticFiles):
    """Browsers ask each time whether a file changed: after an upgrade old and new modules would not fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATE)
        return response


def _entry(card: ModelCard) -> ModelEntry:
    facts = ModelFacts.model_validate(card.to_json())
    return ModelEntry(id=card.id, object="model", created=card.created, owned_by=OWNER, nanochat=facts)


def _json(reply: Reply) -> Response:
    return _written(reply.body())


def _written(body: str) -> Response:
    return Response(body, media_type="application/json")
