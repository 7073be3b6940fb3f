"""Mends an environment whose clone was moved or copied: `python moved.py VENV OLD NEW`.

The scripts of an environment and the project's place in it are absolute. Put into another folder they name files that
are not there, or, in a copy, still run the code of the first. Where a script's first line cannot hold the new path (a
space, too long) the environment is removed, to be made anew.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FIRST_LINE = 127  # of older Linux kernels
PYTHON = "/.venv/bin/python3.11"


def mend(venv: Path, old: str, new: str) -> None:
    """Put the new folder in the place of the old one."""
    if " " in new or len(f"#!{new}{PYTHON}") > MAX_FIRST_LINE:
        shutil.rmtree(venv)
        return
    for path in [*_files(venv), venv / ".runtime"]:
        content = path.read_bytes()
        mended = re.sub(re.escape(old.encode()) + rb"(?=[/\s'\"]|$)", lambda _: new.encode(), content)
        if mended != content:
            part = path.with_name(f"{path.name}.part")  # never in place: a copy may share its files with the first
            part.write_bytes(mended)
            # a new time, so that nothing compiled from the old one is used; make goes by that of .runtime
            (shutil.copystat if path.name == ".runtime" else shutil.copymode)(path, part)
            os.replace(part, path)


def _files(venv: Path) -> Iterator[Path]:
    """Scripts, the environment's description, and where the project lies."""
    candidates = [venv / "pyvenv.cfg", *(venv / "bin").iterdir(), *venv.glob("lib/*/site-packages/__editable__*")]
    return (path for path in candidates if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    mend(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
