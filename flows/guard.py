"""What every request to a Prefect server of ours passes first: `uvicorn --factory flows.guard:create_app`.

Prefect asks for a password where one is set, and for nothing else: it answers to any Host, so that a web page whose
name is pointed at 127.0.0.1 (DNS rebinding) is at home there, and to any origin. Here only the server's own names are
answered, and no page but its own. Plain ASGI around Prefect's app; two words of Prefect's own are in flows/adapted.py.
"""

import os
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.worker_release import HEADER, refusal
from nanochat_core.base.proxies import LOOPBACK
from nanochat_core.base.web_guard import host_name, safely

SCHEMES = {"http": 80, "https": 443}
API = "/api"
# The API's description, open to all: seconds of the event loop for each question, and pages that run scripts from
# elsewhere beside the password, which the browser keeps for this origin.
DESCRIPTIONS = ("/openapi.json", "/docs", "/redoc")
POLICIES = {"Content-Security-Policy": "frame-ancestors 'none'", "Referrer-Policy": "same-origin"}
Origin = tuple[str, str, int]


class Guard:
    """The outermost layer. `page`: the API's address for browsers; `others`: what else clients call it by."""

    def __init__(self, app: ASGIApp, *, page: str, others: tuple[str, ...] = ()) -> None:
        self.app = app
        self.origin = origin_of(page)
        if self.origin is None:
            raise ValueError(f"{page!r} is no address of a server: http://host:port/api")
        names = [origin_of(address) for address in others]
        self.hosts = {*LOOPBACK, self.origin[1], *(name[1] for name in names if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if problem := self._problem(scope, headers):
            await _refuse(problem, scope, receive, send)
        elif scope["path"].startswith(DESCRIPTIONS):
            await _refuse("Prefect's API is described at https://docs.prefect.io", scope, receive, send, status=404)
        elif problem := refusal(scope["path"], headers.get(HEADER)):
            await JSONResponse({"detail": problem}, 409)(scope, receive, send)  # its client shows what is JSON
        elif self._is_page_elsewhere(scope, headers):
            query = scope["query_string"].decode("latin-1")
            path = scope.get("raw_path", scope["path"].encode()).decode("latin-1") + (f"?{query}" if query else "")
            await RedirectResponse(f"{_text(self.origin)}{path}")(scope, receive, send)
        else:
            await self.app(scope, receive, safely(send, POLICIES))

    def _problem(self, scope: Scope, headers: Headers) -> str | None:
        """Why this request is not let in."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self.hosts or not scope["path"].startswith("/"):
            return "this server answers under its own names only"
        if any(origin_of(origin) != self.origin for origin in headers.getlist("origin")):
            return "this server answers no other page than its own"
        is_theirs = scope["type"] == "http" and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if is_theirs and not (is_link and _is_get(scope)):
            return "another page may link to this one, and do nothing else with it"
        return None

    def _is_page_elsewhere(self, scope: Scope, headers: Headers) -> bool:
        """A page under another of our names would have an origin of its own, which the API answers as little."""
        is_api = scope["path"] == API or scope["path"].startswith(f"{API}/")
        asked = origin_of(f"{self.origin[0]}://{headers['host']}") if self.origin else None
        return scope["type"] == "http" and _is_get(scope) and not is_api and asked != self.origin


def create_app() -> ASGIApp:
    """Prefect's server, for the names that the environment gives it."""
    from flows import adapted

    adapted.collect_garbage_elsewhere()  # and not while Prefect is imported: a fifth of the time that takes
    from prefect.server.api.server import create_app

    adapted.show_newest_artifacts_first()
    adapted.suggest_settings()
    return Guard(create_app(), page=os.environ["PREFECT_UI_API_URL"], others=(os.environ.get("PREFECT_API_URL", ""),))


def origin_of(address: str) -> Origin | None:
    """Scheme, host and port as browsers compare them; None of what has none, such as the origin "null"."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.username is not None:
            return None
        return parts.scheme, parts.hostname, parts.port or SCHEMES[parts.scheme]
    except ValueError:
        return None


def _text(origin: Origin | None) -> str:
    """As browsers write it: without the port that the scheme has anyway."""
    scheme, host, port = origin or ("", "", 0)
    named = f"[{host}]" if ":" in host else host
    return f"{scheme}://{named}" + ("" if SCHEMES.get(scheme) == port else f":{port}")


def _is_get(scope: Scope) -> bool:
    return scope.get("method") in ("GET", "HEAD")


async def _refuse(problem: str, scope: Scope, receive: Receive, send: Send, *, status: int = 403) -> None:
    if scope["type"] == "websocket":  # before it is accepted: the client sees a 403
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
    else:
        await PlainTextResponse(f"{problem}\n", status)(scope, receive, safely(send, POLICIES))
