"""Whether the installed files of a package are those that it came with.

A cache key has a package's release, not its files: one that was edited in place changes results and no key. A wheel's
RECORD lists size and sha256 of each file. All Python is read, a second for torch; of what is compiled, gigabytes, the
size is compared.
"""

import base64
import hashlib
from importlib import metadata
from pathlib import Path

DECIDING = ("torch", "numpy", "tiktoken", "rustbpe")  # in the keys by release


def altered(name: str) -> list[str]:
    """Files that are gone or are not those of the wheel, by name; none for what is not installed from one."""
    try:
        listed = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return []
    return [str(file) for file in listed if not _is_as_recorded(file)]


def _is_as_recorded(file: metadata.PackagePath) -> bool:
    if file.hash is None or file.size is None or ".." in file.parts:
        return True  # RECORD itself, what was compiled here, programs that name this environment's Python
    path = Path(str(file.locate()))
    try:
        if path.stat().st_size != file.size:
            return False
        return path.suffix != ".py" or file.hash.mode != "sha256" or _digest(path) == file.hash.value
    except OSError:
        return False


def _digest(path: Path) -> str:
    """As RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
