"""What a machine of somebody else has in our way, put right before a verb starts: current folder, home, proxies.

Each of these ends in a traceback of some library otherwise: MKL ends the process in a current folder that was removed,
httpx refuses to be made because of a proxy that it would not use, matplotlib and Prefect write into a home that is not
ours to write. So the environment of this process and of its children is mended once, here, and what was left out is
said. Nothing that is of use is changed.
"""

import os
import pwd
import re
import tempfile
from pathlib import Path

from nanochat_core.base import proxies
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
URL = re.compile(r"[a-z0-9]+:/")


def settle() -> list[str]:
    """Mend the environment; returns what the user should hear of."""
    notes = _leave_lost_folder()
    for name in ("NANOCHAT_HOME", "PREFECT_HOME", "NANOCHAT_STORE"):
        given = os.environ.get(name)
        if given and not URL.match(given):  # children stand in other folders
            os.environ[name] = str(_rooted(name, given, is_lost=bool(notes)))
    _replace_home()
    return [*notes, *proxies.settle()]


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
