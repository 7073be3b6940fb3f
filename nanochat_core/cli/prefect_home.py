"""Prefect's folder, looked into without Prefect: whether the installed one can use its database and its profiles.

Prefect itself ends in a traceback of thirty lines, or takes another profile than the one that was named. The database
is told from a newer version's by its revision, which the installed Prefect either has a migration for or does not know.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import sqlite3
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nanochat_core.base.errors import ConfigError, CorruptError, HardwareError
from nanochat_core.workspace import absolute, is_writable, user_home

DATABASE = "prefect.db"
CONNECTION_URLS = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
BUILT_IN = ("ephemeral", "local", "cloud", "test")  # profiles that Prefect brings along
LOCK_WAIT_S = 5.0
CHECKED_BYTES = 64 << 20  # of a larger database not every page is read


def prefect_home() -> Path:
    """Where Prefect keeps its database and profiles."""
    if given := os.environ.get("PREFECT_HOME"):
        return absolute("PREFECT_HOME", given)
    if (home := user_home()) is None:
        raise ConfigError("there is no home folder for Prefect", hint="export PREFECT_HOME=/a/folder/of/yours")
    return home / ".prefect"


def check(home: Path) -> None:
    """Raise what keeps the installed Prefect from working in the folder."""
    if not is_writable(home):
        raise HardwareError(f"PREFECT_HOME = {home} cannot be written", hint="set PREFECT_HOME to a folder of yours")
    check_profile(home)
    if not any(os.environ.get(name) for name in CONNECTION_URLS) and (home / DATABASE).exists():
        check_database(home / DATABASE)


def read_only_uri(database: Path) -> str:
    """SQLite's name for a file, whatever characters its folders have."""
    return f"{database.absolute().as_uri()}?mode=ro"


def connection_url(database: Path) -> str:
    """The file for SQLAlchemy, which takes a ? in a plain path for the begin of options."""
    path = str(database)
    return f"sqlite+aiosqlite:///{path}" if "?" not in path else f"sqlite+aiosqlite:///file:{quote(path)}?uri=true"


def check_database(database: Path) -> None:
    """Raise what is wrong with a database of Prefect, and how to go on."""
    aside = f"mv {database} {database}.old puts it aside, and the next run makes a new one; the store stays"
    try:
        revision = _revision(database)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise HardwareError(f"{database} is locked by another process", hint="wait for it, or stop it") from error
        raise HardwareError(f"{database} cannot be read: {error}", hint=aside) from error
    except sqlite3.Error as error:
        raise CorruptError(f"{database} is damaged: {error}", hint=aside) from error
    if revision is not None and not _is_known(revision):
        installed = importlib.metadata.version("prefect")
        raise ConfigError(
            f"{database} has revision {revision}: it is of a newer version of Prefect than the {installed} here",
            hint=f"install that version again, or {aside}",
        )
    if not (os.access(database, os.W_OK) and is_writable(database.parent)):
        raise HardwareError(f"{database} cannot be written", hint="set PREFECT_HOME to a folder of yours")


def _revision(database: Path) -> str | None:
    """What the database says it is; None where nothing has been made in it yet."""
    size = database.stat().st_size
    with contextlib.closing(sqlite3.connect(read_only_uri(database), uri=True, timeout=LOCK_WAIT_S)) as connection:
        [said] = connection.execute("pragma quick_check(1)").fetchone() if size <= CHECKED_BYTES else ["ok"]
        if said != "ok":
            raise sqlite3.DatabaseError(str(said).splitlines()[-1])
        tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        if tables and "alembic_version" not in tables:
            raise sqlite3.DatabaseError("it is no database of Prefect")
        row = connection.execute("select version_num from alembic_version").fetchone() if tables else None
    return str(row[0]) if row else None


def _is_known(revision: str) -> bool:
    """Whether the installed Prefect has a migration of that name; its files begin with date, time and revision."""
    spec = importlib.util.find_spec("prefect")
    found = list(spec.submodule_search_locations or ()) if spec else []
    migrations = [Path(folder) / "server/database/_migrations/versions/sqlite" for folder in found]
    files = [file.name for folder in migrations for file in folder.glob("*.py")]
    return not files or any(f"_{revision}_" in name for name in files)


def check_profile(home: Path) -> None:
    """Raise where the profiles cannot be read, or lack the one that is asked for: Prefect would take another."""
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    held = _profiles(file)
    known = [*BUILT_IN, *held.get("profiles", {})]
    asked = {"PREFECT_PROFILE": os.environ.get("PREFECT_PROFILE"), f"active in {file}": held.get("active")}
    name, profile = next(((name, value) for name, value in asked.items() if value), ("", None))
    if profile is not None and profile not in known:
        cure = "unset PREFECT_PROFILE" if name == "PREFECT_PROFILE" else "prefect profile use ephemeral"
        raise ConfigError(
            f"{name} = {profile}: there is no such profile", hint=f"{cure}; there are: {', '.join(known)}"
        )


def _profiles(file: Path) -> dict[str, Any]:
    if not os.path.exists(file):
        return {}
    try:
        held = tomllib.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(each, dict) for each in held.get("profiles", {}).values()):
            raise ValueError("profiles are tables, [profiles.name]")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", hint=f"mend it, or mv {file} {file}.broken") from error
    return held
