"""The layout of a store or a home: its number, and what a release does that finds a later one.

Nothing says a number as long as it is 1. A release that changes the layout raises `FORMAT` and writes the file
`KEY` into what it makes or migrates; this one, and every later one, then refuses it in a line instead of taking
what it does not know for damage.
"""

import contextlib
import json
from typing import Any

from nanochat_core.base.errors import ConfigError
from nanochat_core.store.failures import UnreachableError
from nanochat_core.store.filesystem import Files

FORMAT = 1
KEY = "format.json"


def checked(files: Files) -> Files:
    """The files of a store whose layout we know."""
    with contextlib.suppress(UnreachableError):  # a busy server is told of by what one wants of it
        check(files.read(KEY), where=files.location.url)
    return files


def check(content: bytes | None, *, where: str) -> None:
    """ConfigError where `content`, the file `KEY` of a store or a home, says a later format than ours."""
    if content is None:
        return
    try:
        found: Any = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{KEY} in {where} cannot be read: {error}", hint="put back what the release wrote"
        ) from error
    if type(found) is not int or found > FORMAT:
        raise ConfigError(
            f"{where} was written by a newer release (format {found}, this one reads up to {FORMAT})",
            hint="update nanochat, or name another folder: NANOCHAT_STORE for the store, NANOCHAT_HOME for the home",
        )
