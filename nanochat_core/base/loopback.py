"""Requests to servers of ours on this machine: asked directly, whatever proxies the environment names.

Not by the name localhost either, which some containers do not know: the addresses are 127.0.0.1 throughout.
"""

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SILENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
"""What is raised where nobody answers, or not in HTTP."""

TABLES = Path("/proc/net")
LISTENING = "0A"
# As the kernel writes them: 127.0.0.1 and any, both in IPv4 and as IPv6 holds them.
LOCAL_ADDRESSES = ("0100007F", "00000000", f"{'0' * 16}FFFF00000100007F", "0" * 32)


def ask(request: str | urllib.request.Request, *, timeout_s: float) -> Any:
    """The open answer of a server of ours."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return direct.open(request, timeout=timeout_s)


def listener(port: int) -> int | None:
    """User id of who listens on `port` of 127.0.0.1; None where nobody does, or the system does not tell.

    A port is free for everybody until its server has it: whoever was quicker must not be taken for ours.
    """
    for table in (TABLES / "tcp", TABLES / "tcp6"):
        lines = table.read_text(encoding="ascii").splitlines()[1:] if table.is_file() else []
        for _, local, _, state, *rest in map(str.split, lines):
            address, _, number = local.partition(":")
            if state == LISTENING and int(number, 16) == port and address in LOCAL_ADDRESSES:
                return int(rest[3])
    return None
