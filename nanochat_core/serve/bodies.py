"""How the body of a request is read: JSON under a JSON content type, in whatever dress machines send it.

A whole number with a point is that number: Lua, R and Java write 16 as 16.0, and JSON itself knows no difference. A
byte order mark and UTF-16 are read. Another content type is refused although the bytes may be JSON: a web page
elsewhere can send text/plain, a form or no type at all without asking first, application/json it cannot.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from nanochat_core.base.foreign import excess
from nanochat_core.serve.errors import CLIENT_CLOSED, ApiError
from nanochat_core.serve.guards import client_of
from nanochat_core.serve.lane import SMALL_BYTES, Lane

MAX_VALUES = 1 << 19  # 64 prompts of 8,192 ids
MAX_CONTAINERS = 1 << 16  # lists and objects: an empty one takes sixty bytes where it was sent as two
MAX_DEPTH = 64


class JsonRequest(Request):
    """A request whose body has been read."""

    parsed: Any = None

    async def json(self) -> Any:
        return self.parsed


class JsonRoute(APIRoute):
    """A path whose body, where it has one, is read by the rules above."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def read_and_answer(request: Request) -> Response:
            check_headers(request.headers)
            read = JsonRequest(request.scope, request.receive)
            try:
                raw = await read.body()
            except ClientDisconnect:
                raise ApiError(CLIENT_CLOSED, "the client went away") from None
            read.parsed = await _parsed(raw, request)
            return await answer(read)

        return read_and_answer


async def _parsed(raw: bytes, request: Request) -> Any:
    if len(raw) <= SMALL_BYTES:
        return parse(raw)
    lane: Lane = request.app.state.lane
    return await lane.read(lambda: parse(raw), num_bytes=len(raw), client=client_of(request)[0])


def check_headers(headers: Headers) -> None:
    """ApiError where the body is said to be something else than plain JSON."""
    for name in ("Content-Type", "Content-Encoding"):
        if len(headers.getlist(name)) > 1:
            raise ApiError(400, f"the request has several headers {name}: send one")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        said = "no Content-Type" if not kind else "another Content-Type"
        raise ApiError(
            400, f"the request has {said}: send the header Content-Type: application/json",
            code="unsupported_content_type",
        )  # fmt: skip
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(
            415, "the body is compressed (Content-Encoding): send it as it is", code="unsupported_content_encoding"
        )


def parse(raw: bytes) -> Any:
    """The value of a JSON text; ApiError says where it breaks off, never what stands there."""
    if not raw:
        raise ApiError(400, "the body is empty: a JSON object is expected")
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
        check_size(text)
        return json.loads(text, parse_float=_number)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise ApiError(400, f"the body is not valid JSON: {where}") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is no part of a character") from None
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        raise ApiError(400, "the body is not valid JSON: a number or a list in it has no end") from None


def check_size(text: str) -> None:
    """ApiError for a JSON text of more values, or deeper ones, than any request has: said before they are made."""
    if (much := excess(text, values=MAX_VALUES, containers=MAX_CONTAINERS, depth=MAX_DEPTH)) is not None:
        raise ApiError(400, f"the body has more than {much[0]} {much[1]}")


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
