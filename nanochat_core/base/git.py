"""git, asked about one checkout and no other.

A shell inside a hook, a rebase or an editor has GIT_DIR, GIT_INDEX_FILE and their like set: git would then answer for
that repository, whatever folder it is given. A checkout that belongs to another user is read all the same, as its code
is what runs here; what its settings would start or change in a patch is turned off.
"""

import os
import subprocess
from pathlib import Path

from nanochat_core.base.errors import MissingError

KEPT = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_SSH", "GIT_SSL", "GIT_ASKPASS", "GIT_TERMINAL_PROMPT")
SETTINGS = (
    "core.fsmonitor=false",
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
    "color.ui=false",
    "safe.directory=*",
)


def git(
    *arguments: str, checkout: Path | None = None, given: bytes | None = None, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run git, in a checkout or outside of any; MissingError where there is no git program."""
    options = [part for setting in SETTINGS for part in ("-c", setting)]
    where = ["-C", str(checkout)] if checkout is not None else []
    try:
        return subprocess.run(
            ["git", *options, *where, *arguments],
            input=given or b"",
            capture_output=True,
            env=environment(),
            timeout=timeout_s,
        )
    except FileNotFoundError as error:
        raise MissingError("the program git is not installed", hint="install git") from error


def environment() -> dict[str, str]:
    """The variables of this process without those that lead git to another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(KEPT)}
