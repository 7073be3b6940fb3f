"""The Linux calls that Python's standard library lacks, by ctypes: no compiled extension, no extra package.

Numbers are from the kernel's headers (linux/sched.h, mount.h, prctl.h, capability.h); x86_64 and aarch64 only, as the
system call filter must know the machine's call numbers. Used before the program's interpreter starts, never in it.
"""

import ctypes
import os
import platform
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
# What a bind mount in a user namespace must keep of the mount that it shows (man 7 mount_namespaces).
MS_KEPT = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME
ST_RELATIME = 4096
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def libc() -> ctypes.CDLL:
    """The C library that this interpreter already uses."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """A system call's result; its errno becomes an OSError that says what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """A system call that the C library has no function for."""
    return checked(libc().syscall(ctypes.c_long(number), *arguments), what)


def prctl(option: int, *values: int) -> None:
    """prctl(2), with the arguments that are not given as zeros."""
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    checked(libc().prctl(option, *padded), f"prctl({option})")


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW... flags."""
    checked(libc().unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    done = libc().mount(*encoded, ctypes.c_ulong(flags), options.encode() or None)
    checked(done, f"mount {source or kind} on {target}")


def bind_read_only(source: Path, target: str) -> None:
    """Show `source` at `target`, not writable, no set-user-ID programs, no devices."""
    mount(str(source), target, None, MS_BIND | MS_REC)
    seen = os.statvfs(target).f_flag
    kept = seen & MS_KEPT | (MS_RELATIME if seen & ST_RELATIME else 0)
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def pivot_root(root: str) -> None:
    """Make the mount at `root` this process's whole file system; the old one cannot be reached any more."""
    os.chdir(root)
    # Both arguments the same: the old root is stacked under the new one and comes off with one umount (man 2).
    syscall(PIVOT_ROOT[platform.machine()], b".", b".", what="pivot_root")
    checked(libc().umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up all rights beyond the user's own, also those that a start of another program would bring back."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    checked(libc().capset(header, (ctypes.c_uint32 * 6)()), "capset")
