"""Whether the installed files of a package are those that it came with.

A cache key has a package's release, not its files: one that was edited in place changes results and no key. A wheel's
RECORD lists size and sha256 of each file. All Python is read, a second for torch; of what is compiled, gigabytes, the
size is compared.
"""

import base64
import csv
import hashlib
from importlib import metadata
from pathlib import Path

DECIDING = ("torch", "numpy", "tiktoken", "gigatoken", "ffbpe", "rustbpe")  # in the keys by release


def altered(name: str) -> list[str]:
    """Files that are gone or are not those of the wheel, by name; none for what is not installed from one."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    # not metadata.files(), which leaves out what is not there
    rows = [row for row in csv.reader((found.read_text("RECORD") or "").splitlines()) if len(row) == 3]
    return [
        file for file, digest, size in rows if not _is_as_recorded(Path(str(found.locate_file(file))), digest, size)
    ]


def _is_as_recorded(path: Path, digest: str, size: str) -> bool:
    if not digest or not size or ".." in path.parts:
        return True  # RECORD itself, what was compiled here, programs that name this environment's Python
    mode, _, value = digest.partition("=")
    try:
        if path.stat().st_size != int(size):
            return False
        return path.suffix != ".py" or mode != "sha256" or _digest(path) == value
    except OSError:
        return False


def _digest(path: Path) -> str:
    """As RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
