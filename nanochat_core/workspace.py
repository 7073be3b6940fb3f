"""Where a machine keeps things: the home folder, the store, scratch space, reports.

`NANOCHAT_HOME` (default ~/.nanochat) holds scratch and reports; `NANOCHAT_STORE` is a folder or a URL (default: the
folder `store` in the home). Read from the environment in this one place.
"""

import contextlib
import os
import pwd
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.base.limits import limit_error, raise_open_files
from nanochat_core.base.source_memo import SourceMemo
from nanochat_core.store import format
from nanochat_core.store.store import Store

HOME_HINT = "export NANOCHAT_HOME=/a/folder/of/yours"


@dataclass(frozen=True)
class Workspace:
    """Folders of this machine and the store they work on."""

    home: Path
    store: Store
    sources: SourceMemo
    """What is known of this program's own files, for the fingerprints."""

    def work(self, step: str, fingerprint: str) -> Path:
        """Scratch folder of one step; the same for every attempt at the same fingerprint."""
        return _made(self.home / "work" / f"{step}-{fingerprint[:16]}")

    def run(self, run_id: str) -> Path:
        """Folder for people: the report of one run."""
        return _made(self.home / "runs" / run_id)


def home_from_environment() -> Path:
    home = _home_from_environment()
    try:
        str(home).encode()
    except UnicodeEncodeError as error:  # Arrow and torch write their files by names in UTF-8 alone
        shown = os.fsencode(home).decode("utf-8", "replace")
        raise ConfigError(f"the home folder {shown} has a name that is not UTF-8", hint=HOME_HINT) from error
    return home


def _home_from_environment() -> Path:
    if given := os.environ.get("NANOCHAT_HOME"):
        return absolute("NANOCHAT_HOME", given)
    if (home := user_home()) is None:
        raise ConfigError(
            f"there is no home folder: HOME is {os.environ.get('HOME') or 'not set'}",
            hint=HOME_HINT,
        )
    return home / ".nanochat"


def user_home() -> Path | None:
    """The home of whoever runs this; None where HOME says nothing that can be used, and the system does not know."""
    named = os.environ.get("HOME")
    if not named:
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a container's user is a bare number
            return None
    return Path(named) if os.path.isabs(named) else None


def absolute(name: str, given: str) -> Path:
    """The folder that the variable `name` gives, wherever this process stands."""
    try:
        return Path(given).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{name} = {given} leads nowhere: {error}", hint=f"give {name} as a whole path") from error


def is_writable(folder: Path) -> bool:
    """Whether we may make or change files in the folder, or make the folder where it is not there yet."""
    # os.path.exists and not Path.exists, which raises below a folder that we may not enter
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def store_url_from_environment() -> str:
    return os.environ.get("NANOCHAT_STORE") or str(home_from_environment() / "store")


def current() -> Workspace:
    """The workspace that the environment names."""
    return _open(home_from_environment(), store_url_from_environment())


@lru_cache(maxsize=4)
def _open(home: Path, store_url: str) -> Workspace:
    raise_open_files()  # workers and notebooks come this way too
    with contextlib.suppress(OSError):
        format.check((home / format.KEY).read_bytes(), where=str(home))
    store = Store.open(store_url, cache_folder=home / "cache")
    return Workspace(_made(home), store, SourceMemo(home / "sources.json"))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if limit := limit_error(error, doing="making a folder", where=str(folder)):
            raise limit from error
        raise HardwareError(
            f"{folder} cannot be made: {error.strerror}", hint="set NANOCHAT_HOME to a folder of yours"
        ) from error
    return folder
