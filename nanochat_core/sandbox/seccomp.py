"""The system call filter: what Python programs need is allowed, everything else is refused.

A list of permissions. It was found by running the tests, the benchmarks' programs and one program per part of the
standard library under strace (LOG.md); what is not on it, and what kernels learn in years to come, does not exist in
here. Where a call does harmless things and others, its arguments decide. A filter sees registers, not what pointers
point at: calls that hide what they do behind one (clone3, openat2, sendmsg, io_uring) cannot be on the list.

`hold_code` comes before: mapping code and starting programs are asked of a listener, the launcher, which says yes while
the interpreter warms up and then closes the line; from then on there is no such call. A library that a program wrote,
by whatever module it is loaded, cannot be mapped, and no other program can be started.

Written as classic BPF for seccomp(2) (kernel: Documentation/userspace-api/seccomp_filter.rst); filters survive fork and
exec and cannot be taken off. Call numbers: asm/unistd_64.h and asm-generic/unistd.h.
"""

import contextlib
import ctypes
import errno
import fcntl
import platform
import signal
import struct

from nanochat_core.sandbox import linux

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000  # x86_64 only: the same calls under other numbers
SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER, FLAG_NEW_LISTENER = 1, 8
RET_KILL_PROCESS, RET_ERRNO, RET_USER_NOTIF, RET_ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
LOAD_WORD, AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP, RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
NUMBER_AT, ARCH_AT, ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each
# From here on (Linux 5.1) new calls have the same number everywhere. The C library tries them first and takes the
# older one when it hears that they do not exist; other errors it would believe.
FIRST_NEW_CALL = 424
WORD = 0xFFFFFFFF
# linux/seccomp.h: the requests to a listener, struct seccomp_notif's size, "do the call as if there were no filter".
NOTICE_RECEIVE, NOTICE_SEND, NOTICE_BYTES, NOTICE_CONTINUE = 0xC0502100, 0xC0182101, 80, 1

# name -> (x86_64, aarch64); None: that machine has no such call
FILES = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70),
    "preadv2": (327, 286), "pwritev2": (328, 287), "open": (2, None), "openat": (257, 56), "stat": (4, None),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "statfs": (137, 43), "fstatfs": (138, 44), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None), "readlinkat": (267, 78), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "truncate": (76, 45),
    "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223),
    "sendfile": (40, 71), "copy_file_range": (326, 285), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "close_range": (436, 436), "pipe": (22, None), "pipe2": (293, 59),
}  # fmt: skip
WAITING = {
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "eventfd2": (290, 19), "futex": (202, 98), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "pause": (34, None), "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "sched_yield": (24, 124),
    "restart_syscall": (219, 128), "wait4": (61, 260), "waitid": (247, 95),
}  # fmt: skip
MEMORY = {
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "msync": (26, 227), "madvise": (28, 233),
    "membarrier": (324, 283),
}  # fmt: skip
ITSELF = {
    "exit": (60, 93), "exit_group": (231, 94), "fork": (57, None), "vfork": (58, None), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "setsid": (112, 157), "getrlimit": (97, 163),
    "getrusage": (98, 165), "times": (100, 153), "sysinfo": (99, 179), "uname": (63, 160), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "getcpu": (309, 168), "getpriority": (140, 141), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "set_tid_address": (218, 96), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "pidfd_open": (434, 434),  # how the zygote waits for a program's end
}  # fmt: skip
# A socket comes from socketpair only. No setsockopt: buffers would grow.
SOCKETS = {
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209),
}  # fmt: skip
ALLOWED = FILES | WAITING | MEMORY | ITSELF | SOCKETS

MMAP, EXECVE, KILL = (9, 222), (59, 221), (62, 129)
PROT_WRITE, PROT_EXEC, MAP_ANONYMOUS, MAP_HUGETLB = 2, 4, 0x20, 0x40000
# What fork and pthread_create ask for: CLONE_VM, FS, FILES, SIGHAND, VFORK, THREAD, SYSVSEM, SETTLS, PARENT_SETTID,
# CHILD_CLEARTID, DETACHED and CHILD_SETTID. Not CLONE_PARENT, which makes a child of the zygote, and no CLONE_NEW...
CLONE_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x4000 | 0x10000 | 0x40000 | 0x80000 | 0x100000 | 0x200000 | 0x1400000
CLONE_SIGNAL = 0xFF  # the signal that the parent gets at the end
AF_UNIX, SOCK_STREAM, SOCK_FLAGS = 1, 1, 0x80800  # CLOEXEC and NONBLOCK
O_ASYNC = 0x2000  # a signal whenever a descriptor is ready
# Duplicates and flags. Not: owner and signal, leases, watches of folders, sizes of pipes.
FCNTL = (0, 1, 2, 3, 1030)
F_SETFL = 4
LOCKS = (5, 6, 7, 36, 37, 38)  # of records, for SQLite
# FIONCLEX, FIOCLEX, FICLONE; with an address TCGETS, TCGETS2, TIOCGWINSZ, FIONBIO. Not: attributes, owner and signal.
IOCTL, IOCTL_AT = (0x5450, 0x5451, 0x40049409), (0x5401, 0x802C542A, 0x5413, 0x5421)
PRCTL = (15, 16)  # the name of a thread
ARCH_SET_FS = 0x1002  # where a thread's own variables are
RLIMIT_CORE, NUM_LIMITS = 4, 16
OWNER = 0o700

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
# Which half of which argument, the bits that count, what they may be; nothing: anything but zero.
Test = tuple[int, int, tuple[int, ...]]
Rule = tuple[tuple[int | None, int | None], list[Test]]  # the call's numbers, the tests that all must hold


def _low(argument: int, *values: int, bits: int = WORD) -> Test:
    return 2 * argument, bits, values


def _zero(argument: int) -> list[Test]:
    """All 64 bits: a pointer, or flags that may lie above the lower half."""
    return [(2 * argument, WORD, (0,)), (2 * argument + 1, WORD, (0,))]


_FAR_UP: Test = (2 * 2 + 1, WORD, ())  # argument 2 lies above 4 GiB
# A call may have several: one that holds is enough.
RULES: list[Rule] = [
    (MMAP, [_low(2, 0, bits=PROT_EXEC), _low(3, 0, bits=MAP_HUGETLB)]),
    (MMAP, [_low(2, PROT_EXEC, bits=PROT_EXEC | PROT_WRITE), _low(3, 0, bits=MAP_ANONYMOUS)]),  # files: see hold_code
    ((10, 226), [_low(2, 0, bits=PROT_EXEC)]),  # mprotect
    (EXECVE, []),  # the interpreter itself: see hold_code
    (
        (56, 220),  # clone
        [
            _low(0, 0, bits=WORD & ~(CLONE_FLAGS | CLONE_SIGNAL)),
            _low(0, 0, signal.SIGCHLD, bits=CLONE_SIGNAL),
            (1, WORD, (0,)),
        ],
    ),
    ((72, 25), [_low(1, *FCNTL)]),
    ((72, 25), [_low(1, F_SETFL), _low(2, 0, bits=O_ASYNC)]),
    # What the kernel reads or writes at an address: the C library's is on the stack, far up. Python's fcntl and ioctl
    # take integers too, of 32 bits, and where the heap lies low a program could so change any memory of its own.
    ((72, 25), [_low(1, *LOCKS), _FAR_UP]),
    ((16, 29), [_low(1, *IOCTL)]),
    ((16, 29), [_low(1, *IOCTL_AT), _FAR_UP]),
    ((157, 167), [_low(0, *PRCTL)]),
    ((158, None), [_low(0, ARCH_SET_FS)]),
    ((53, 199), [_low(0, AF_UNIX), _low(1, SOCK_STREAM, bits=WORD & ~SOCK_FLAGS)]),  # socketpair
    ((44, 206), _zero(4)),  # sendto, nowhere in particular
    # A folder stays open to its owner, so that it can be emptied without a change of mode. mkdir, mkdirat, umask.
    ((83, None), [_low(1, OWNER, bits=OWNER)]),
    ((258, 34), [_low(2, OWNER, bits=OWNER)]),
    ((95, 166), [_low(0, 0, bits=OWNER)]),
    # prlimit64 of oneself: read any, set all but the size of core dumps (see launcher.py).
    ((302, 261), [_low(0, 0), *_zero(2)]),
    ((302, 261), [_low(0, 0), _low(1, *(set(range(NUM_LIMITS)) - {RLIMIT_CORE}))]),
]
# kill(-1, SIGKILL): where process 1 of a PID namespace ends what a program left, and a program all but itself.
KILL_ALL: Rule = (KILL, [_low(0, WORD), _low(1, signal.SIGKILL)])


def refuse(*, may_kill_all: bool) -> None:
    """Install the list in this process for good. `may_kill_all`: where a PID namespace says who "all" are."""
    _install(_allow_list(RULES + [KILL_ALL] * may_kill_all, platform.machine()), flags=0)


def hold_code() -> int:
    """Ask a listener before code is mapped or a program started, from now on and for good; returns its descriptor.

    Raises OSError where another listener, such as a container's, has come before: a process can have one.
    """
    column = list(AUDIT_ARCH).index(platform.machine())
    return _install(
        [
            (LOAD_WORD, 0, 0, NUMBER_AT),
            (JUMP_EQUAL, 4, 0, EXECVE[column]),
            (JUMP_EQUAL, 0, 4, MMAP[column]),
            (LOAD_WORD, 0, 0, ARGUMENT_AT + 8 * 2),
            (AND, 0, 0, PROT_EXEC),
            (JUMP_EQUAL, 1, 0, 0),
            (RETURN, 0, 0, RET_USER_NOTIF),
            (RETURN, 0, 0, RET_ALLOW),
        ],
        flags=FLAG_NEW_LISTENER,
    )


def let_pass(listener: int) -> None:
    """Say yes to the one call that waits at a listener."""
    asked = bytearray(NOTICE_BYTES)  # struct seccomp_notif, which begins with the call's number in the queue
    with contextlib.suppress(OSError):  # whoever asked has ended
        fcntl.ioctl(listener, NOTICE_RECEIVE, asked)
        fcntl.ioctl(listener, NOTICE_SEND, struct.pack("=8sqiI", asked[:8], 0, 0, NOTICE_CONTINUE))


def is_known_machine() -> bool:
    """Whether the call numbers of this processor are in the table."""
    return platform.machine() in AUDIT_ARCH


def _install(instructions: list[Instruction], *, flags: int) -> int:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    program = struct.pack("@HP", len(instructions), ctypes.addressof(code))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    return linux.syscall(SECCOMP[platform.machine()], SET_MODE_FILTER, flags, program, what="seccomp")


def _allow_list(rules: list[Rule], machine: str) -> list[Instruction]:
    column = list(AUDIT_ARCH).index(machine)
    denied, allowed = (RETURN, 0, 0, RET_ERRNO | errno.EPERM), (RETURN, 0, 0, RET_ALLOW)
    out: list[Instruction] = [
        (LOAD_WORD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, RET_KILL_PROCESS),
        (LOAD_WORD, 0, 0, NUMBER_AT),
    ]
    if machine == "x86_64":
        out += [(JUMP_AT_LEAST, 0, 1, X32_BIT), denied]
    numbers = [number for pair in ALLOWED.values() if (number := pair[column]) is not None]
    # The kernel remembers which calls are allowed whatever their arguments, and does not run the filter for them.
    out += [(JUMP_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    out += [(JUMP, 0, 0, 1), allowed]
    for pair, tests in rules:
        if (number := pair[column]) is not None:
            out += _rule(number, tests)
    missing = (RETURN, 0, 0, RET_ERRNO | errno.ENOSYS)
    return [*out, (LOAD_WORD, 0, 0, NUMBER_AT), (JUMP_AT_LEAST, 1, 0, FIRST_NEW_CALL), denied, missing]


def _rule(number: int, tests: list[Test]) -> list[Instruction]:
    """Allow the call when every test holds; else go on after the last instruction."""
    body: list[Instruction] = [(RETURN, 0, 0, RET_ALLOW)]
    for half, bits, values in reversed(tests):
        fits = [(JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)] or [(JUMP_EQUAL, 0, 1, 0)]
        body = [
            (LOAD_WORD, 0, 0, ARGUMENT_AT + 4 * half),
            (AND, 0, 0, bits),
            *fits,
            (JUMP, 0, 0, len(body)),
            *body,
        ]
    return [(LOAD_WORD, 0, 0, NUMBER_AT), (JUMP_EQUAL, 0, len(body), number), *body]
