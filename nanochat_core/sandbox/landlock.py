"""Landlock: from here on, this process and its descendants open only the files named.

The one way to hide files that needs neither root nor namespaces: Linux 5.13 and later, also in most containers. It
governs opening, making, removing and renaming, from 6.2 on also cutting off. Not stat: that a file exists can still be
seen; and not modes, owners, times and attributes, which seccomp must refuse. Newer kernels also refuse TCP ports (6.7)
and signals and abstract sockets to processes outside (6.12).
Source: kernel Documentation/userspace-api/landlock.rst; the numbers are linux/landlock.h.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from nanochat_core.sandbox import linux

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
# Bits that each version of the interface added: 13 at first, then REFER, TRUNCATE, IOCTL_DEV.
NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
NUM_FILE_RIGHTS_NOW = 16
TRUNCATE = 1 << 14
KEEPS_LENGTHS = 3  # the first version with TRUNCATE
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # the rights that make sense for a file


def version() -> int:
    """The kernel's version of the interface; 0 where there is none."""
    found = linux.libc().syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    return max(int(found), 0)


def restrict(*, readable: Iterable[Path], writable: Iterable[Path], is_all: bool) -> None:
    """Allow reading and running what lies under `readable`, and everything but devices under `writable`.

    `is_all`: nothing else keeps the files. Then a kernel whose Landlock cannot refuse to cut files off is an OSError.
    """
    known = version()
    if is_all and known < KEEPS_LENGTHS:
        have = f"this kernel's Landlock is version {known}" if known else "this kernel has no Landlock"
        raise OSError(
            f"{have}, and only from version {KEEPS_LENGTHS} on (Linux 6.2) does it keep a program from cutting off "
            "files outside; root with CAP_SYS_ADMIN, or user namespaces, do without it"
        )
    rights = (1 << NUM_FILE_RIGHTS.get(known, NUM_FILE_RIGHTS_NOW)) - 1
    network = 0b11 if known >= 4 else 0
    scoped = 0b11 if known >= 6 else 0
    fields = struct.pack("=QQQ", rights, network, scoped)[: 24 if known >= 6 else 16 if known >= 4 else 8]
    ruleset = linux.syscall(CREATE_RULESET, fields, ctypes.c_size_t(len(fields)), 0, what="landlock_create_ruleset")
    for path in readable:
        _allow(ruleset, path, rights & (EXECUTE | READ_FILE | READ_DIR))
    for path in writable:
        _allow(ruleset, path, rights & ~(EXECUTE | MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.syscall(RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.exists():
        return
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(opened).st_mode):
        rights &= ON_FILES
    rule = struct.pack("=Qi", rights, opened)  # packed in the kernel's header too
    linux.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0, what=f"landlock_add_rule {path}")
    os.close(opened)
