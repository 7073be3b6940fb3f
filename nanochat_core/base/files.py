"""Files on file systems that lack something: clusters, network shares, FUSE, sticks.

Lustre without flock, exFAT and SMB without links or modes, FUSE that syncs no folders: none of it is a reason to stop.
What is only a safeguard (a sync of a folder, a mode) is left out there; what is needed (a whole file in one step,
files under other names) is done in a slower way. Real faults of a disk pass through.
"""

import contextlib
import errno
import filecmp
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

NOT_OFFERED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
NO_LINKS = NOT_OFFERED | {errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK}
NO_SYMLINKS = NOT_OFFERED | {errno.EPERM}
NO_SYNC = NOT_OFFERED | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EROFS}
NO_MODES = NOT_OFFERED | {errno.EPERM, errno.EACCES, errno.EROFS}


def sync(path: Path) -> None:
    """Have the bytes of a file on the disk."""
    with path.open("rb") as file, tolerated(NOT_OFFERED):
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have a rename on the disk, which lives in the folder; where folders cannot be synced it gets there later."""
    with tolerated(NO_SYNC):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_mode(path: Path, mode: int) -> None:
    """Change the rights of a file or folder, where there are any and they are ours to change."""
    with tolerated(NO_MODES):
        os.chmod(path, mode)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file; a copy where there are no hard links, or not from there."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def move(source: Path, target: Path) -> None:
    """Rename; across devices (overlays refuse to rename folders of a lower layer) a copy that is renamed."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        copy: Callable[..., object] = shutil.copytree if source.is_dir() else shutil.copyfile
        try:
            copy(source, beside)
            os.replace(beside, target)
        finally:
            remove(beside)
        remove(source)


def remove(path: Path) -> None:
    """Take a file or a folder away, as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one: readers see the one or the other."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        remove(part)  # what a full disk left of it


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or files of the same bytes."""
    try:
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def free_bytes(folder: Path) -> int | None:
    """Free space; None where the file system does not tell (some of FUSE say 0 of 0)."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def shared_rights(folder: Path) -> int:
    """What a folder grants its group, when that may write there: what is made below is then the group's as well.

    0 for a folder of one person. Like git's core.sharedRepository=group: a umask of 077 is for what is private. A
    folder that is not made yet is the group's where the one that it comes into hands its group down (not so /tmp).
    """
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        above = shared_rights(folder.parent) if folder.parent != folder else 0
        return above if above & stat.S_ISGID else 0
    except OSError:
        return 0
    return mode & (stat.S_ISGID | stat.S_IRWXG) if mode & stat.S_IWGRP else 0


def share(path: Path, rights: int) -> None:
    """Grant a file or folder of ours the `shared_rights` of the folder that it was made for."""
    if not rights:
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if not path.is_dir():
        rights &= stat.S_IRGRP | (stat.S_IWGRP if mode & stat.S_IWUSR else 0)
    if mode | rights != mode:
        set_mode(path, mode | rights)


def make_folder(folder: Path, *, within: Path, rights: int | None = None) -> None:
    """Make a folder and those above it, each with what `within` grants its group."""
    if folder.is_dir():
        return
    if rights is None:
        rights = shared_rights(within)
    if folder.parent != folder:
        make_folder(folder.parent, within=within, rights=rights)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        share(folder, rights)


def adopt_rights(folder: Path) -> None:
    """Let all that this process makes from now on be the group's, where the folder is."""
    if rights := shared_rights(folder) & stat.S_IRWXG:
        os.umask(os.umask(0o077) & ~rights)


@contextlib.contextmanager
def tolerated(numbers: set[int]) -> Iterator[None]:
    """Pass over an OSError of one of these kinds."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
