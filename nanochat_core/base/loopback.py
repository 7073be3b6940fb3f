"""Requests to servers of ours on this machine: asked directly, whatever proxies the environment names.

Not by the name localhost either, which some containers do not know: the addresses are 127.0.0.1 throughout.
"""

import http.client
import urllib.error
import urllib.request
from typing import Any

SILENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
"""What is raised where nobody answers, or not in HTTP."""


def ask(request: str | urllib.request.Request, *, timeout_s: float) -> Any:
    """The open answer of a server of ours."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return direct.open(request, timeout=timeout_s)
