"""What a disk, a quota or a batch system's limits say when they are met, told as what it is, wherever that happens.

A full disk arrives as an OSError, as sqlite's, torch's or Arrow's words, as a rank's last line, or as a file "that
cannot be read". `limit_error` finds it in an exception and in what caused it, `limit_in_text` in a log. Both give a
HardwareError (exit code 4) that names the limit and what raises it: nothing is lost, the same command goes on.
"""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from nanochat_core.base import files
from nanochat_core.base.errors import HardwareError, NanochatError

GOES_ON = "then run the same command again: it goes on from here"
MAX_OPEN_FILES = 65536  # programs close, and some reserve, as many as they may have
NEARLY_FULL_BYTES = 64 << 10
DISK, QUOTA, OPEN, OPEN_ANYWHERE, SIZE, MEMORY, PROCESSES, TEMPORARY, KILLED, RIGHTS = (
    "disk", "quota", "open files", "open files of all", "file size", "memory", "processes", "temporary folder",
    "killed", "rights",
)  # fmt: skip
NO_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
NUMBERS = {
    errno.ENOSPC: DISK, errno.EDQUOT: QUOTA, errno.EMFILE: OPEN, errno.ENFILE: OPEN_ANYWHERE,
    errno.EFBIG: SIZE, errno.ENOMEM: MEMORY,
}  # fmt: skip
# What libraries make of it, in lower case; the first that is found counts.
WORDS = (
    ("no space left on device", DISK), ("database or disk is full", DISK), ("disk full", DISK),
    ("pytorchstreamwriter failed writing", DISK), ("file write failed", DISK),
    ("disk quota exceeded", QUOTA),
    ("too many open files in system", OPEN_ANYWHERE), ("too many open files", OPEN),
    ("unable to open database file: too many", OPEN),
    ("file too large", SIZE), ("file size limit exceeded", SIZE),
    ("can't start new thread", PROCESSES), ("thread creation failed", PROCESSES), ("pthread_create failed", PROCESSES),
    ("failed to create new thread", PROCESSES), ("fork: retry", PROCESSES), ("failed to spawn thread", PROCESSES),
    ("no usable temporary directory", TEMPORARY), ("process pool was terminated abruptly", KILLED),
    ("failed to map segment from shared object", MEMORY), ("cannot allocate memory", MEMORY),
    ("std::bad_alloc", MEMORY), ("memoryerror", MEMORY), ("memory allocation of", MEMORY),
    ("can't allocate memory", MEMORY), ("malloc of size", MEMORY),
)  # fmt: skip


def raise_open_files() -> None:
    """Let this process and its children have as many open files as the machine's hard limit grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit_error(
    error: BaseException, *, doing: str = "", where: str | None = None, near: Path | None = None
) -> HardwareError | None:
    """The limit that an exception tells of, also through what caused it; None when it is something else.

    `near` is named where the exception names no file: a write to an open file says nothing of its name.
    """
    if isinstance(error, HardwareError):
        return None
    if isinstance(error, OSError) and error.errno in NO_RIGHTS and isinstance(error.filename, str | bytes):
        return told(RIGHTS, doing=doing, where=os.fsdecode(error.filename))
    for each in chain(error):
        if kind := _kind(each):
            name = getattr(each, "filename", None)
            path = os.fsdecode(name) if isinstance(name, str | bytes) else None
            return told(kind, doing=doing, where=where or path or (f"near {near}" if near else None))
    return None


def limit_in_text(text: str, *, returncode: int = 0, where: str | None = None) -> HardwareError | None:
    """The limit that the end of a log, or the signal that ended its process, tells of."""
    kind = SIZE if returncode == -signal.SIGXFSZ else _kind_of_words(text)
    return told(kind, where=where) if kind else None


def limit_of_disks(*folders: Path) -> HardwareError | None:
    """A full disk, by looking: a process that could not write could not say so either."""
    for folder in (*folders, Path("/dev/shm")):
        free = files.free_bytes(folder)
        if free is not None and free < NEARLY_FULL_BYTES:
            return told(DISK, where=str(folder))
    return None


def told(kind: str, *, doing: str = "", where: str | None = None) -> HardwareError:
    """The error of one kind of limit."""
    at = f" while {doing}" if doing else ""
    on = f": {where}" if where else ""
    if kind == DISK:
        hint = f"free some space (TMPDIR and NANOCHAT_HOME may be on other disks), {GOES_ON}"
        return HardwareError(f"the disk is full{at}{on}", hint=hint)
    if kind == QUOTA:
        return HardwareError(f"your disk quota is used up{at}{on}", hint=f"remove files, or ask for more, {GOES_ON}")
    if kind == OPEN:
        seen, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        hint = f"raise `ulimit -n` (hard limit {_number(hard)}; 4096 is enough), {GOES_ON}"
        return HardwareError(f"too many open files{at}: `ulimit -n` is {_number(seen)}{on}", hint=hint)
    if kind == OPEN_ANYWHERE:
        return HardwareError(f"too many open files on this machine{at}{on}", hint=f"raise fs.file-max, {GOES_ON}")
    if kind == SIZE:
        seen = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        named = f"`ulimit -f` is {_number(seen // 1024)} KiB" if seen != resource.RLIM_INFINITY else "the file system's"
        hint = f"`ulimit -f unlimited`, or another file system, {GOES_ON}"
        return HardwareError(f"a file would be larger than is allowed{at}: {named}{on}", hint=hint)
    if kind == PROCESSES:
        most = _number(resource.getrlimit(resource.RLIMIT_NPROC)[0])
        hint = f"raise `ulimit -u` or the batch system's limit of tasks, {GOES_ON}"
        return HardwareError(f"no more processes or threads may be started{at}: `ulimit -u` is {most}", hint=hint)
    if kind == RIGHTS:
        hint = (
            "change its rights; NANOCHAT_HOME is for one person: set it to a folder of yours (a store may be a group's)"
        )
        return HardwareError(f"no permission{at}{on}", hint=hint)
    if kind == TEMPORARY:
        return HardwareError("there is no folder for temporary files", hint="set TMPDIR to one that can be written")
    if kind == KILLED:
        hint = f"lower runtime.num_workers, or ask for more memory, {GOES_ON}"
        return HardwareError("a worker process was ended by the system, most often for lack of memory", hint=hint)
    return _no_memory(at)


def _no_memory(at: str) -> HardwareError:
    seen = resource.getrlimit(resource.RLIMIT_AS)[0]
    if seen == resource.RLIM_INFINITY:
        return HardwareError(f"this machine has no memory left{at}", hint=f"end other programs, {GOES_ON}")
    named = f"`ulimit -v` allows {_number(seen // 1024)} KiB of address space"
    return HardwareError(f"no memory is left{at}: {named}", hint=f"`ulimit -v unlimited`, {GOES_ON}")


def _number(limit: int) -> str:
    return "unlimited" if limit in (resource.RLIM_INFINITY, resource.RLIM_INFINITY // 1024) else str(limit)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, and what it was met with; for our own errors only what they name as the cause."""
    seen: list[BaseException] = []
    pending = [error]
    while pending:
        each = pending.pop(0)
        if any(each is one for one in seen):
            continue
        seen.append(each)
        yield each
        pending += getattr(each, "exceptions", ())
        pending += (failure[0] for failure in (getattr(each, "failures", None) or {}).values())  # DCP's, by rank
        is_ours = isinstance(each, NanochatError) or each.__suppress_context__
        pending += filter(None, [each.__cause__, None if is_ours else each.__context__])


def _kind(error: BaseException) -> str | None:
    if isinstance(error, NanochatError):
        return None  # its words may quote others'; its cause tells
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return NUMBERS[error.errno]
    if isinstance(error, BlockingIOError):  # a fork's; a pipe's says something else
        return PROCESSES if error.strerror == os.strerror(errno.EAGAIN) else None
    if isinstance(error, ConnectionError | TimeoutError):
        return None
    return _kind_of_words(str(error))


def _kind_of_words(text: str) -> str | None:
    text = text.lower()
    return next((kind for words, kind in WORDS if words in text), None)
