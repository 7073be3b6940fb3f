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

from nanochat_core.serve.errors import ApiError


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
            read.parsed = parse(await read.body())
            return await answer(read)

        return read_and_answer


def check_headers(headers: Headers) -> None:
    """ApiError where the body is said to be something else than plain JSON."""
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
        return json.loads(raw, parse_float=_number)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise ApiError(400, f"the body is not valid JSON: {where}") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is no part of a character") from None
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        raise ApiError(400, "the body is not valid JSON: a number or a list in it has no end") from None


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
