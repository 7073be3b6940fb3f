"""Failures in OpenAI's shape: {"error": {"message", "type", "param", "code"}} and the status that goes with them.

Clients show `message`, and their retry logic reads the status and Retry-After. No message repeats what the user wrote.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nanochat_core.base.errors import NanochatError

INVALID, AUTH, MISSING, OVERLOADED, BROKEN = (
    "invalid_request_error", "authentication_error", "not_found_error", "overloaded_error", "server_error",
)  # fmt: skip
NO_SUCH_PATH = (
    "there is no such path here. What is answered: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, "
    "/detokenize, /tokenizer_info, /health, /metrics. A client's base URL ends in /v1; other parts of OpenAI's API "
    "(responses, embeddings, audio, images, files) are not served"
)
CLIENT_CLOSED = 499  # nginx's status for a client that went away; nobody reads the answer
KIND_OF_STATUS = {401: AUTH, 403: AUTH, 404: MISSING, 429: OVERLOADED, 503: OVERLOADED}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """What every failed request is answered with."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal on its way to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        kind = KIND_OF_STATUS.get(self.status, BROKEN if self.status >= 500 else INVALID)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def refused(error: NanochatError, *, param: str | None = None) -> ApiError:
    """What the core says about a bad request, as a 400."""
    return ApiError(400, error.message + (f" ({error.hint})" if error.hint else ""), param=param)


def install(app: FastAPI) -> None:
    """Every failure of `app` gets the one shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems: Sequence[Mapping[str, Any]] = error.errors()
    first = problems[0]
    # pydantic's text names what was expected; the value that was sent may be somebody's prompt and is not repeated
    message, param = str(first["msg"]), _param(first["loc"])
    return ApiError(400, f"{param}: {message}" if param else message, param=param).response()


def _param(location: Sequence[str | int]) -> str | None:
    """As OpenAI writes it: messages[1].content."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part not in ("body", "query")]
    return "".join(parts).removeprefix(".") or None


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    words = {404: NO_SUCH_PATH, 405: f"this path answers {headers.get('Allow')} only"}
    message = words.get(error.status_code, str(error.detail))
    response = ApiError(error.status_code, message).response()
    response.headers.update(headers)
    return response


async def _on_bug(_: Request, __: Exception) -> JSONResponse:
    return ApiError(500, "the server failed; its log says why").response()
