"""What our servers, the model's and Prefect's, do at every request: read the Host header, keep other pages out.

Plain ASGI, so that streams, websockets and disconnects pass untouched.
"""

import re
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.IGNORECASE)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def host_name(host: str) -> str | None:
    """The name in a Host header, in small letters and without port and brackets; None of what is no host."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else None


def safely(send: Send, more: Mapping[str, str]) -> Send:
    """`send` with the headers by which no other page may frame or read an answer, and `more`; the app's own stay."""

    async def send_safely(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in {**SAFE_HEADERS, **more}.items():
                headers.setdefault(name, value)
        await send(message)

    return send_safely
