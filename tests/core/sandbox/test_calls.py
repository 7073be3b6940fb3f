"""The list of system calls: both machines' numbers, what the rules let through, what the kernel says to the rest."""

import ctypes
import errno
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat_core.sandbox import seccomp

HEADERS = {
    "x86_64": "#include <asm/unistd_64.h>\n",
    "aarch64": "#define __ARCH_WANT_RENAMEAT\n#define __ARCH_WANT_SET_GET_RLIMIT\n#define __ARCH_WANT_NEW_STAT\n"
    "#define __BITS_PER_LONG 64\n#include <asm-generic/unistd.h>\n",
}
ALLOW, EPERM, ENOSYS = seccomp.RET_ALLOW, seccomp.RET_ERRNO | errno.EPERM, seccomp.RET_ERRNO | errno.ENOSYS
FORK, THREAD = 0x1200011, 0x3D0F00
SYSCALL = {  # x86_64 and aarch64: what the tests below call themselves
    "clone": (56, 220), "kill": (62, 129), "mmap": (9, 222), "fcntl": (72, 25), "ioctl": (16, 29), "mkdirat": (258, 34),
    "umask": (95, 166), "prlimit64": (302, 261), "sendto": (44, 206), "socketpair": (53, 199), "prctl": (157, 167),
    "mprotect": (10, 226), "fchmod": (91, 52), "fchmodat": (268, 53), "fchown": (93, 55), "fchownat": (260, 54),
    "utimensat": (280, 88), "setxattr": (188, 5), "fsetxattr": (190, 7), "removexattr": (197, 14), "ptrace": (101, 117),
    "memfd_create": (319, 279), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "timer_create": (222, 107),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "setsockopt": (54, 208), "socket": (41, 198), "signalfd4": (289, 74),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264), "shmget": (29, 194),
    "open_by_handle_at": (304, 265), "add_key": (248, 217), "mq_open": (240, 180), "msgget": (68, 186),
    "userfaultfd": (323, 282), "bpf": (321, 280), "unshare": (272, 97), "mknodat": (259, 33), "vmsplice": (278, 75),
    "execveat": (322, 281), "seccomp": (317, 277), "setpriority": (141, 140), "process_vm_writev": (311, 271),
    "mlock": (149, 228), "flock": (73, 32), "setuid": (105, 146), "capset": (126, 91), "getxattr": (191, 8),
}  # fmt: skip
NEW = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "clone3": 435, "openat2": 437,
    "pidfd_getfd": 438, "memfd_secret": 447, "futex_waitv": 449, "fchmodat2": 452, "setxattrat": 463,
    "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469, "not made yet": 600,
}  # fmt: skip


def answer(machine: str, number: int, *arguments: int, rules: list[seccomp.Rule] = seccomp.RULES) -> int:
    """What the filter says: classic BPF, interpreted."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    words = [number, seccomp.AUDIT_ARCH[machine], 0, 0]
    words += [half for value in padded for half in (value & seccomp.WORD, value >> 32 & seccomp.WORD)]
    code, at, loaded = seccomp._allow_list(rules, machine), 0, 0
    while True:
        kind, true, false, operand = code[at]
        at += 1
        if kind == seccomp.RETURN:
            return operand
        if kind == seccomp.LOAD_WORD:
            loaded = words[operand // 4]
        elif kind == seccomp.AND:
            loaded &= operand
        elif kind == seccomp.JUMP:
            at += operand
        else:
            at += true if (loaded == operand if kind == seccomp.JUMP_EQUAL else loaded >= operand) else false


@pytest.mark.parametrize(("column", "machine"), enumerate(seccomp.AUDIT_ARCH))
def test_the_numbers_are_those_of_the_kernels_headers(column: int, machine: str) -> None:
    done = subprocess.run(["cc", "-E", "-dM", "-"], input=HEADERS[machine], capture_output=True, text=True)
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+) +(\d+)", done.stdout))
    known.setdefault("newfstatat", known.get("fstatat"))  # its name where both sizes of numbers share a list
    if "mmap" not in known:
        pytest.skip("no compiler, or no kernel headers of this machine")
    ours = {name: pair[column] for name, pair in (seccomp.ALLOWED | SYSCALL).items()}
    assert {name: int(known[name]) if name in known else None for name in ours} == ours


@pytest.mark.parametrize(("column", "machine"), enumerate(seccomp.AUDIT_ARCH))
def test_what_is_not_on_the_list_is_refused_and_what_is_new_does_not_exist(column: int, machine: str) -> None:
    allowed = {pair[column] for pair in seccomp.ALLOWED.values()}
    ruled = {pair[column] for pair, _ in [*seccomp.RULES, seccomp.KILL_ALL]}
    for number in range(700):
        expected = ALLOW if number in allowed else EPERM if number < seccomp.FIRST_NEW_CALL else ENOSYS
        if number not in ruled:
            assert answer(machine, number) == expected, number
    of_machine = [pair[column] for name, pair in SYSCALL.items() if pair[column] not in ruled]
    assert {answer(machine, number) for number in of_machine} == {EPERM}
    assert {answer(machine, number) for number in NEW.values()} == {ENOSYS}


@pytest.mark.parametrize(("column", "machine"), enumerate(seccomp.AUDIT_ARCH))
def test_arguments_decide_where_a_call_does_good_and_harm(column: int, machine: str) -> None:
    def said(name: str, *arguments: int) -> int:
        return answer(machine, SYSCALL[name][column], *arguments)

    kept = [
        ("clone", FORK), ("clone", THREAD), ("mmap", 0, 4096, 3, 0x22), ("mmap", 0, 4096, 5, 2, 4),
        ("fcntl", 1, 4, 0x800), ("fcntl", 1, 1030), ("ioctl", 1, 0x5401, 0x7F0000000000), ("ioctl", 1, 0x5451),
        ("fcntl", 1, 6, 0x7F0000000000), ("mkdirat", 0, 0, 0o777), ("umask", 0o077),
        ("prlimit64", 0, 7, 0, 1), ("prlimit64", 0, 4, 0, 1), ("prlimit64", 0, 7, 1),
        ("sendto", 3, 1, 1), ("socketpair", 1, 0x80801),
        ("mprotect", 0, 4096, 3), ("prctl", 15),
    ]  # fmt: skip
    assert [said(*one) for one in kept] == [ALLOW] * len(kept)
    refused = [
        ("clone", 0x1200011 | 0x8000), ("clone", 0x1200009), ("clone", 0x10000011), ("clone", 17 | 1 << 33),
        ("mmap", 0, 4096, 4, 0x22), ("mmap", 0, 4096, 6, 2, 4), ("mmap", 0, 4096, 3, 0x40022), ("mprotect", 0, 4096, 4),
        ("fcntl", 1, 5, 0xA5DAA8), ("fcntl", 1, 6, 0xFFFFFFFF), ("ioctl", 1, 0x541B, 0xA5DAA8),
        ("ioctl", 1, 0x5421, 0xA5DAA8), ("fcntl", 1, 8, 1), ("fcntl", 1, 10, 9), ("fcntl", 1, 15),
        ("fcntl", 1, 4, 0x2000), ("fcntl", 1, 1024),
        ("fcntl", 1, 1026), ("fcntl", 1, 1031), ("fcntl", 1, 1033), ("ioctl", 1, 0x40086602), ("ioctl", 1, 0x401C5820),
        ("ioctl", 1, 0x5412), ("ioctl", 1, 0x8901), ("ioctl", 1, 0x5452), ("mkdirat", 0, 0, 0o077), ("umask", 0o777),
        ("prlimit64", 1, 7, 0, 1), ("prlimit64", 1, 7, 1), ("prlimit64", 0, 4, 1), ("sendto", 3, 1, 1, 0, 0x10),
        ("sendto", 3, 1, 1, 0, 1 << 40), ("socketpair", 1, 2), ("socketpair", 1, 5), ("socketpair", 16, 1),
        ("prctl", 1, 9), ("prctl", 4), ("prctl", 22), ("prctl", 36), ("prctl", 38), ("kill", -1, 9), ("kill", 1, 0),
    ]  # fmt: skip
    assert [said(*one) for one in refused] == [EPERM] * len(refused)
    kill = SYSCALL["kill"][column]
    with_kill = [*seccomp.RULES, seccomp.KILL_ALL]
    assert [answer(machine, kill, *to, rules=with_kill) for to in ((-1, 9), (-1, 15), (1, 9), (0, 9))] == [
        ALLOW, EPERM, EPERM, EPERM
    ]  # fmt: skip


def test_calls_by_other_numbers_or_of_another_machine_are_refused() -> None:
    assert answer("x86_64", seccomp.X32_BIT) == EPERM
    code = seccomp._allow_list(seccomp.RULES, "x86_64")
    assert code[:3] == [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, seccomp.RET_KILL_PROCESS)]


def under_the_filter(work: Callable[[Callable[..., int]], object]) -> object:
    """What `work` returns in a child with the filter, where it may make any call; -errno is what a failed one gives."""
    column = list(seccomp.AUDIT_ARCH).index(os.uname().machine)
    result, end = os.pipe()
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        numbers = {name: pair[column] for name, pair in SYSCALL.items()} | NEW

        def call(name: str, *arguments: object) -> int:
            done = libc.syscall(ctypes.c_long(numbers[name]), *arguments)
            return -ctypes.get_errno() if done < 0 else done

        seccomp.refuse(may_kill_all=False)
        os.write(end, json.dumps(work(call)).encode())
        os._exit(0)
    os.close(end)
    with os.fdopen(result, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(said)


def test_a_file_that_the_program_owns_keeps_mode_owner_times_and_attributes(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("words")
    os.utime(victim, (1, 1))
    before = victim.stat()
    name, fd = str(victim).encode(), os.open(victim, os.O_RDWR)
    attributes, times = ctypes.create_string_buffer(64), ctypes.create_string_buffer(32)

    def attack(call: Callable[..., int]) -> list[int]:
        return [
            call("fchmod", fd, 0o777), call("fchmodat", -100, name, 0o777), call("fchmodat2", -100, name, 0o777, 0),
            call("fchown", fd, 4242, 4242), call("fchownat", -100, name, 4242, 4242, 0),
            call("utimensat", -100, name, times, 0), call("utimensat", fd, None, None, 0),
            call("setxattr", name, b"user.x", b"y", 1, 0), call("fsetxattr", fd, b"user.x", b"y", 1, 0),
            call("setxattrat", -100, name, 0, b"user.x", attributes, 16),
            call("file_setattr", -100, name, attributes, 32, 0),
            call("ioctl", fd, 0x40086602, attributes), call("ioctl", fd, 0x401C5820, attributes),
            call("openat2", -100, name, attributes, 24), call("name_to_handle_at", -100, name, attributes, times, 0),
            call("open_by_handle_at", -100, attributes, 0), call("io_uring_setup", 4, attributes),
        ]  # fmt: skip

    said = under_the_filter(attack)
    os.close(fd)
    assert set(said) <= {-errno.EPERM, -errno.ENOSYS}, said
    after = victim.stat()
    assert [getattr(after, "st_" + one) for one in ("mode", "uid", "gid", "mtime_ns", "ctime_ns", "size")] == [
        getattr(before, "st_" + one) for one in ("mode", "uid", "gid", "mtime_ns", "ctime_ns", "size")
    ]
    assert os.listxattr(victim) == []


def test_no_call_sends_a_signal_to_anybody() -> None:
    heard = []
    previous = {
        number: signal.signal(number, lambda *what: heard.append(what)) for number in (signal.SIGUSR1, signal.SIGIO)
    }
    pid, info = os.getpid(), ctypes.create_string_buffer(128)
    read, write = os.pipe()
    watched = os.pidfd_open(pid)

    def attack(call: Callable[..., int]) -> list[int]:
        said = [
            call("kill", pid, 10), call("kill", 0, 10), call("tgkill", pid, pid, 10),
            call("rt_sigqueueinfo", pid, 10, info),
            call("pidfd_send_signal", watched, 10, None, 0), call("fcntl", read, 8, pid), call("fcntl", read, 10, 10),
            call("fcntl", read, 15, info), call("fcntl", read, 4, 0x2000), call("ioctl", read, 0x5452, info),
            call("ioctl", read, 0x8901, info), call("timer_create", 0, info, info), call("prctl", 1, 10),
            call("clone", 0x8000 | 10, 0, 0, 0, 0), call("setpriority", 0, pid, 19), call("ptrace", 16, pid, 0, 0),
        ]  # fmt: skip
        os.write(write, b"x")
        return said

    said = under_the_filter(attack)
    for fd in (read, write, watched):
        os.close(fd)
    for number, handler in previous.items():
        signal.signal(number, handler)
    assert set(said) <= {-errno.EPERM, -errno.ENOSYS}, said
    assert heard == []


def test_no_call_makes_memory_that_no_limit_counts_or_speaks_to_a_socket_outside() -> None:
    line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(f"\0nanochat-test-{os.getpid()}")
    address = b"\1\0" + listener.getsockname()
    header, pair = ctypes.create_string_buffer(56), ctypes.create_string_buffer(8)
    end = line.fileno()

    def attack(call: Callable[..., int]) -> list[int]:
        return [
            call("memfd_create", b"m", 0), call("memfd_secret", 0), call("fcntl", end, 1031, 1 << 20),
            call("setsockopt", end, 1, 7, pair, 4), call("shmget", 0, 1 << 20, 0o1600), call("msgget", 0, 0o1600),
            call("mq_open", b"q", 0o100, 0o600, None), call("add_key", b"user", b"k", b"v", 1, -3),
            call("mlock", header, 8),
            call("mmap", 0, 1 << 21, 3, 0x40022, -1, 0), call("socket", 1, 2, 0), call("socketpair", 1, 2, 0, pair),
            call("sendto", end, b"x", 1, 0, address, len(address)), call("sendmsg", end, header, 0),
            call("sendmmsg", end, header, 1, 0), call("inotify_init1", 0), call("fanotify_init", 0, 0),
        ]  # fmt: skip

    said = under_the_filter(attack)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(1)
    for one in (line, theirs, listener):
        one.close()
    assert set(said) <= {-errno.EPERM, -errno.ENOSYS}, said


NATIVE = {
    "sqlite": "import sqlite3\nd = sqlite3.connect(':memory:')\nd.enable_load_extension(True)",
    "imports a library of its own": (
        "import importlib.machinery as m, importlib.util as u, os, sys\nopen('own.so', 'wb').write(b'\\x7fELF')\n"
        "u.module_from_spec(u.spec_from_file_location('own', os.path.abspath('own.so'),"
        " loader=m.ExtensionFileLoader('own', os.path.abspath('own.so'))))"
    ),
    "maps a file as code": (
        "import mmap\nf = open('code', 'w+b'); f.write(bytes(4096)); f.flush()\n"
        "mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)"
    ),
    "maps a library as code": (  # the kernel's word: no audit hook asks about it
        "import mmap, sys\nf = open(sys.executable, 'rb')\n"
        "mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)"
    ),
    "maps memory as code": "import mmap\nmmap.mmap(-1, 4096, prot=7)",
    "the toolkit that loads libraries": "import tkinter",
    "starts an interpreter": "import os, sys\nos.execve(sys.executable, ['python'], {'LD_PRELOAD': './own.so'})",
    "starts one by subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])",
    "starts one by posix_spawn": "import os, sys\nos.posix_spawn(sys.executable, ['python', '-c', 'pass'], {})",
}

# a Python may be built without loading extensions of SQLite: then there is no such method
REFUSED = r"PermissionError|ImportError|OSError: \[Errno 38\]|AttributeError: .*'enable_load_extension'"


@pytest.mark.parametrize("program", NATIVE.values(), ids=NATIVE)
def test_no_native_code_is_loaded_and_no_program_started(run, program: str) -> None:
    outcome = run(program)
    assert outcome.status == "failed", outcome
    assert re.match(REFUSED, outcome.error), outcome.error


@pytest.mark.parametrize("call", ["ioctl(r, 0x541B, address)", "fcntl(file, 5, address)"], ids=["count", "lock"])
def test_no_integer_is_taken_for_an_address_to_write_to(run, call: str) -> None:
    """Where the heap lies low, as in Debian's Python, a program could change any memory of its own: the audit hook."""
    program = (
        "import fcntl, os\nr, w = os.pipe(); os.write(w, b'x' * 7)\nvictim = bytes(1000)\n"
        "file = os.open('f', os.O_RDWR | os.O_CREAT)\naddress = id(victim) + 40\n"
        f"try: fcntl.{call}; print('done')\nexcept (PermissionError, OverflowError): print('refused')\n"
        "assert victim == bytes(1000)"
    )
    outcome = run(program)
    assert (outcome.status, outcome.stdout) == ("passed", "refused\n"), outcome
