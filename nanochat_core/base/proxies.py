"""Proxies in the environment, put right: none stands between us and this machine, and none ends a client.

httpx refuses to be made because of an entry that it cannot read, even where it would not use it, and with it Prefect's
client in every process: commands, workers, and what workers start. So this also runs when an interpreter of this
installation starts, where the environment names a proxy at all: `python -m nanochat_core.base.proxies` puts the line
for that beside the packages. Nothing but the standard library is imported here.
"""

import ipaddress
import os
import re
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SCHEMES = ("http", "https", "socks5", "socks5h")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HOST = re.compile(r"[\w.*-]*(:\d{1,5})?", re.ASCII)
HOOK = "nanochat_proxies.pth"
# one line that site.py runs; silent where the package is gone, and a dictionary's look where nobody has a proxy
START = (
    "import os, importlib.util as util; any(name.lower().endswith('_proxy') for name in os.environ) "
    "and util.find_spec('nanochat_core') and __import__('nanochat_core.base.proxies', fromlist=['settle']).settle()\n"
)

left_out: list[str] = []
"""What no client can read, in words, as found by this process."""


def settle() -> list[str]:
    """Leave out what no client can read, and let no proxy stand between us and this machine; says what it left out.

    Doing it again finds nothing and says the same.
    """
    names = [name for name in os.environ if name.lower() in PROXIES and os.environ[name].strip()]
    for name in names:
        if not _is_proxy(os.environ[name]):
            shown = os.environ.pop(name).rpartition("@")[2]  # what stands before it may be a password
            left_out.append(f"{name} = {shown} is no proxy that clients can read, and is left out: http://host:port")
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    read = [(entry, _bypassed(entry)) for entry in entries]
    if lost := [entry for entry, name in read if name is None]:
        left_out.append(f"NO_PROXY has {', '.join(lost)}, which no client can read and ends Prefect's; it is left out")
    if names or entries:
        known = [name for _, name in read if name is not None]
        merged = "*" if "*" in known else ",".join(dict.fromkeys([*known, *LOOPBACK]))
        os.environ |= {"no_proxy": merged, "NO_PROXY": merged}  # clients read the one or the other
    return left_out


def _is_proxy(value: str) -> bool:
    """Whether every HTTP client here reads it: httpx raises for what it does not know, whatever it is asked for."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return parts.scheme.lower() in SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _bypassed(entry: str) -> str | None:
    """An entry of NO_PROXY as all clients read it; None: httpx raises for it (IPv6 networks, other letters)."""
    bare = entry.strip("[]")
    try:
        ipaddress.ip_network(bare, strict=False)
        return bare if ":" not in bare or "/" not in bare else None
    except ValueError:
        host = entry.partition("://")[2] if entry.startswith(("http://", "https://", "all://")) else entry
        return entry if HOST.fullmatch(host) else None


def install() -> Path:
    """Let every start of this installation's Python do the same; returns the file that says so."""
    path = Path(sysconfig.get_path("purelib")) / HOOK
    path.write_text(START, encoding="utf-8")
    return path


if __name__ == "__main__":
    install()
