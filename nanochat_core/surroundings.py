"""What a machine of somebody else has in our way, put right before a verb starts: current folder, home, proxies.

Each of these ends in a traceback of some library otherwise: MKL ends the process in a current folder that was removed,
httpx refuses to be made because of a proxy that it would not use, matplotlib and Prefect write into a home that is not
ours to write. So the environment of this process and of its children is mended once, here, and what was left out is
said. Nothing that is of use is changed.
"""

import ipaddress
import os
import pwd
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from nanochat_core.base.errors import ConfigError
from nanochat_core.workspace import absolute, home_from_environment, is_writable, user_home

# what libraries keep in a home: the variable that moves it, and where it is by default
KEPT_IN_HOME = (
    ("PREFECT_HOME", ".prefect"),
    ("XDG_CACHE_HOME", ".cache"),
    ("MPLCONFIGDIR", ".config/matplotlib"),
    ("TRITON_HOME", ".triton"),
)
# what people keep there and only is read: it stays in use when the folder around it moves
READ_IN_HOME = (("PREFECT_PROFILES_PATH", ".prefect/profiles.toml"), ("HF_TOKEN_PATH", ".cache/huggingface/token"))
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
URL = re.compile(r"[a-z0-9]+:/")
HOST = re.compile(r"[\w.*-]*(:\d{1,5})?", re.ASCII)

_left_out: list[str] = []


def settle() -> list[str]:
    """Mend the environment; returns what the user should hear of."""
    notes = _leave_lost_folder()
    for name in ("NANOCHAT_HOME", "PREFECT_HOME", "NANOCHAT_STORE"):
        given = os.environ.get(name)
        if given and not URL.match(given):  # children stand in other folders
            os.environ[name] = str(_rooted(name, given, is_lost=bool(notes)))
    _replace_home()
    _left_out[:] = _settle_proxies()
    return [*notes, *_left_out]


def left_out() -> list[str]:
    """What `settle` found that no client can read, for the doctor."""
    return list(_left_out)


def _leave_lost_folder() -> list[str]:
    """Stand somewhere else when the current folder is gone or closed: in an empty one whose name says it."""
    try:
        os.stat(os.getcwd())
        if os.access(".", os.X_OK):
            return []
    except OSError:
        pass
    empty = Path(tempfile.gettempdir()) / f"current-folder-is-gone-{os.geteuid()}"
    try:
        empty.mkdir(mode=0o500, exist_ok=True)
        os.chdir(empty)
    except OSError:
        os.chdir("/")
    return ["the current folder is gone or closed to you: relative paths lead nowhere; cd to another one"]


def _rooted(name: str, given: str, *, is_lost: bool) -> Path:
    if is_lost and not given.startswith(("/", "~")):
        raise ConfigError(
            f"{name} = {given} is below the current folder, which is gone",
            hint=f"cd to another one, or give {name} whole",
        )
    return absolute(name, given)


def _replace_home() -> None:
    """Where the home is of no use, let libraries keep their things below NANOCHAT_HOME."""
    _name_user()
    home = user_home()
    try:
        ours = home_from_environment() / "home"
    except ConfigError:
        return  # nowhere better; the verb that needs a home says what to set
    if not is_writable(ours):
        return
    for name, place in READ_IN_HOME:
        if home is not None and os.access(home / place, os.R_OK):
            os.environ.setdefault(name, str(home / place))
    for name, place in KEPT_IN_HOME:
        if home is None or not is_writable(home / place):
            os.environ.setdefault(name, str(ours / place))
    if home is None or not os.path.isdir(home):
        ours.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(ours)


def _name_user() -> None:
    """A number without an entry in /etc/passwd gets a name: getpass.getuser() raises without, in torch for one."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")


def _settle_proxies() -> list[str]:
    """Leave out what no client can read, and let no proxy stand between us and this machine."""
    names = [name for name in os.environ if name.lower() in PROXIES and os.environ[name].strip()]
    notes = []
    for name in names:
        if not _is_proxy(os.environ[name]):
            shown = os.environ.pop(name).rpartition("@")[2]  # what stands before it may be a password
            notes.append(f"{name} = {shown} is no proxy that clients can read, and is left out: http://host:port")
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    read = [(entry, _bypassed(entry)) for entry in entries]
    if lost := [entry for entry, name in read if name is None]:
        notes.append(f"NO_PROXY has {', '.join(lost)}, which no client can read and ends Prefect's; it is left out")
    if names or entries:
        known = [name for _, name in read if name is not None]
        merged = "*" if "*" in known else ",".join(dict.fromkeys([*known, *LOOPBACK]))
        os.environ |= {"no_proxy": merged, "NO_PROXY": merged}  # clients read the one or the other
    return notes


def _is_proxy(value: str) -> bool:
    """Whether every HTTP client here reads it: httpx raises for what it does not know, whatever it is asked for."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return parts.scheme.lower() in PROXY_SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
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
