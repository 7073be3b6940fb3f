"""What the storage says when it fails, in words that name the cure.

A folder's errors are here, an S3 server's in s3_failures.py. `UnreachableError` is apart from the rest because waiting
can heal it; a retry of the others is wasted time.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.store.s3_failures import UnreachableError as UnreachableError
from nanochat_core.store.s3_failures import one_line, s3_error

NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
NOT_A_FOLDER = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


@contextlib.contextmanager
def explained(kinds: tuple[type[BaseException], ...], *, url: str, doing: str) -> Iterator[None]:
    """Turn the storage's exceptions (`kinds`) into errors meant for people."""
    try:
        yield
    except NanochatError:
        raise
    except kinds as error:
        is_remote = "://" in url
        raise (_remote_error if is_remote else local_error)(error, url, doing) from error


def local_error(error: BaseException, url: str, doing: str) -> NanochatError:
    """For a folder store, and for this machine's side of a remote one (cache, files to publish)."""
    number = getattr(error, "errno", None)
    where = getattr(error, "filename", None) or url
    if number in NO_PERMISSION:
        return _no_permission(Path(os.fsdecode(where)), doing, url)
    if limit := limit_error(error, doing=doing, where=where):
        return limit
    if number in NOT_A_FOLDER:
        return MissingError(
            f"{where} cannot be used as a path while {doing}: {os.strerror(number or 0)}",
            hint="set NANOCHAT_STORE to a folder, or to an empty path where one can be made",
        )
    return MissingError(f"failed {doing} in {url}: {one_line(error)}", hint="check the disk, then run again")


def _no_permission(where: Path, doing: str, url: str) -> NanochatError:
    """Whose it is, and how a folder becomes a group's."""
    existing = next((path for path in (where, *where.parents) if os.path.lexists(path)), where)
    try:
        owner = (
            f" (it is {existing.owner()}'s, of the group {existing.group()}, mode {existing.stat().st_mode & 0o7777:o})"
        )
    except (OSError, KeyError):  # a user of another machine
        owner = ""
    if os.geteuid() == 0 and not os.access(existing, os.W_OK):
        hint = "run as its owner: a file server may take root for nobody (root_squash)"
    else:
        hint = (
            f"make the folder writable, or set NANOCHAT_STORE to another one; for a store that a group shares, its "
            f"owner runs: chmod -R g+rwX {url} && find {url} -type d -exec chmod g+s {{}} +"
        )
    return MissingError(f"no permission while {doing}: {where}{owner}", hint=hint)


def _remote_error(error: BaseException, url: str, doing: str) -> NanochatError:
    if getattr(error, "filename", None) and isinstance(error, OSError):
        return local_error(error, url, doing)  # s3fs does not set filename: this is the local end of a transfer
    if url.startswith("s3://"):
        return s3_error(error, url, doing)
    if isinstance(error, PermissionError | FileNotFoundError):
        return MissingError(f"{url} cannot be used ({one_line(error)})", hint="correct NANOCHAT_STORE")
    hint = "check the network and NANOCHAT_STORE; what is finished is kept"
    return limit_error(error, doing=doing) or UnreachableError(
        f"{url} did not answer while {doing}: {one_line(error)}", hint=hint
    )
