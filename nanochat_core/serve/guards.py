"""What every request passes before it is routed: host, token, size; and the headers that every answer gets.

Without a token only requests that name this very machine are served: a web page elsewhere could otherwise point its own
name at 127.0.0.1 and talk to the model through the visitor's browser (DNS rebinding). Tokens are compared in constant
time. Written as plain ASGI, so that streams and disconnects pass through untouched.

What means the same is one request from here on: a slash too many or at the end is no other path, a target that holds
the whole address is its path, and HEAD is a GET whose answer has no body.
"""

import hashlib
import hmac
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat_core.base.web_guard import host_name, safely
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.metrics import Metrics

OPEN_PATHS = ("/", "/health", "/data")
OPEN_FOLDER = "/static/"
HEALTH = "/health"
ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
POLICIES = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """The outermost layer of the server."""

    def __init__(
        self, app: ASGIApp, *, token: str | None, hosts: Collection[str], max_body_bytes: int, metrics: Metrics
    ) -> None:
        self.app, self.hosts, self.max_body_bytes, self.metrics = app, hosts, max_body_bytes, metrics
        self._digest = None if token is None else _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_head, asked = scope["method"] == "HEAD", scope
        scope = _plain(scope)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.http.labels(_route(scope), message["status"]).inc()
            elif is_head:  # the length that GET would have stays in the headers
                message = {**message, "body": b""}
            await send(message)

        send_safely = safely(send_counted, POLICIES)
        problem = self._problem(scope, _authority(asked))
        if problem is not None:
            await problem.response()(scope, receive, send_safely)
        else:
            await self.app(scope, self._counted(receive), send_safely)

    def _problem(self, scope: Scope, authority: str | None) -> ApiError | None:
        """Why this request is not let in. `authority`: the host in the request's target, where it names one."""
        headers, path = Headers(scope=scope), scope["path"]
        if self._digest is None and not self._is_ours(headers.get("host"), authority, path):
            return ApiError(403, "without a token this server answers to its own machine only", code="wrong_host")
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
        if self._digest is not None and not is_open:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._digest):
                return ApiError(401, "this server needs its token: Authorization: Bearer ...", code="invalid_api_key")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdecimal() and int(length) > self.max_body_bytes:
            return ApiError(413, self._too_large, code="body_too_large")
        return None

    def _is_ours(self, host: str | None, authority: str | None, path: str) -> bool:
        """Whether every name that the request gives this server is one of its own."""
        if not host and authority is None:
            return path == HEALTH  # a load balancer's check in HTTP/1.0; browsers always send Host
        named = [host_name(name) or "" for name in (host, authority) if name is not None]
        return all(name.removesuffix(".") in self.hosts for name in named)  # a full name ends with a dot

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.max_body_bytes} bytes"

    def _counted(self, receive: Receive) -> Receive:
        """For bodies that do not say their length."""
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self.max_body_bytes:
                    raise ApiError(413, self._too_large, code="body_too_large")
            return message

        return receive_counted


def client_of(request: HTTPConnection) -> tuple[str, str]:
    """Who asks, for taking turns: the address, and the key, which tells the clients behind one address apart."""
    given = request.headers.get("authorization", "")
    return request.client.host if request.client else "", _digest(given).hex() if given else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).digest()  # equal lengths to compare


def _plain(scope: Scope) -> Scope:
    """The request as the routes know it."""
    path = scope["path"]
    if absolute := ABSOLUTE.match(path):
        path = absolute[2]
    path = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    return {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}


def _authority(scope: Scope) -> str | None:
    """The host of a target in absolute form (GET http://host/path), as proxies send it."""
    absolute = ABSOLUTE.match(scope["path"])
    return absolute[1] if absolute else None


def _route(scope: Scope) -> str:
    """The pattern that matched, so that strangers' paths make no series of their own."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))
