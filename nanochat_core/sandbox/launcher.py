"""The process between the caller and one warm interpreter: it shuts the interpreter in, watches it, and cleans up.

    caller (Sandbox) -> launcher (outside, this file) -> zygote (inside, pid 1 of its namespace) -> program

It is a process of its own because unshare, pivot_root and the filters cannot be undone, because the caller has threads
and perhaps CUDA, and because somebody must outlive a caller that is killed. It waits for whichever comes first: a word
from the caller, the caller's death (a pidfd, which forked copies of the caller's pipes cannot hold back), or the
zygote's end; then it kills all that is left. The zygote dies with the launcher (PR_SET_PDEATHSIG).
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat_core.base import files
from nanochat_core.sandbox import landlock, linux, seccomp, view, zygote

CLOSURE_FILES = ("zygote.py",)  # read as a text, and run inside
NAMESPACES, LANDLOCK, UNSAFE = "namespaces", "landlock", "unsafe"
MODES = (NAMESPACES, LANDLOCK)  # in the order of preference
LISTENER = b"l"  # a word on the line between launcher and zygote, which has the others
BLOCK_BYTES = 512  # of st_blocks, whatever the file system's are
MAX_FILES = view.MAX_INODES
ROOM_FOR_NAMES = 1 << 20  # beyond file_mib: what a file system needs for folders and lists of blocks
# Users without a name, one per worker, so that root's programs own nothing and their processes are counted apart.
# The range is the one that systemd keeps for such use (DynamicUser=).
FIRST_USER, NUM_USERS = 61184, 4336
# A nearly full score: when memory runs out, the kernel takes generated programs first, not the trainer.
OOM_SCORE_ADJ = "900"
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"}

# What HumanEval's and most generated programs import; anything else of the standard library loads when asked for.
WARM = (
    "abc", "array", "ast", "base64", "bisect", "cmath", "collections", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math",
    "numbers", "operator", "pprint", "queue", "random", "re", "statistics", "string", "struct", "sys", "textwrap",
    "threading", "time", "typing", "unicodedata", "warnings", "zlib",
)  # fmt: skip
# Compiled modules that nobody misses in there (terminals, sound, networks, old databases); each costs forks some time.
UNUSED = ("_curses", "_dbm", "_gdbm", "readline", "nis", "ossaudiodev", "spwd", "audioop", "_ssl", "_crypt")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the caller asks for; a JSON object on the command line."""

    mode: str
    control_fd: int  # the zygote's line to the caller
    parent: int
    home: str  # an empty folder for this worker
    limits: dict[str, Any]


def main() -> None:
    """Run until the caller or the zygote ends."""
    order = Order(**json.loads(sys.argv[1]))
    parent = os.pidfd_open(order.parent)
    if os.getppid() != order.parent:
        return
    home = Path(order.home)
    files.set_mode(home, 0o711)  # programs may run as another user
    try:
        _launch(order, parent, home)
    finally:
        zygote.wipe(str(home / "work"))  # what a program that was stopped half-way left, unreadable folders too
        shutil.rmtree(home, ignore_errors=True)


def _launch(order: Order, parent: int, home: Path) -> None:
    (home / "probe").write_text("a program must not be able to read this")
    root = home / "work"
    root.mkdir(mode=0o700)
    ours, theirs = socket.socketpair()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    try:
        if order.mode == NAMESPACES:
            _new_pid_namespace()
        user = _program_user()
        child = os.fork()
        if child == 0:
            ours.close()
            _become_zygote(order, theirs, root, user)
    except OSError as error:
        _refuse(order, error)
        return
    theirs.close()
    os.close(order.control_fd)  # else the caller would never see the zygote's end
    _watch(child, parent, ours, partial(_has_room, root, child, (order.limits["file_mib"] << 20) + ROOM_FOR_NAMES))


def _refuse(order: Order, error: Exception) -> None:
    os.write(order.control_fd, json.dumps({"refused": f"{order.mode}: {error}"}).encode() + b"\n")


def _new_pid_namespace() -> None:
    """The next child is process 1 of its namespace: when it ends, or is killed, so is everything in there."""
    if os.geteuid() == 0:
        linux.unshare(linux.CLONE_NEWPID)
        return
    user, group = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _become_zygote(order: Order, line: socket.socket, root: Path, user: tuple[int, int]) -> None:
    """In the child: leave everything behind, then exec the interpreter. Never returns."""
    try:
        os.setsid()
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # it is the caller's line to the launcher
        with contextlib.suppress(OSError):  # a courtesy to the other processes; some containers forbid it
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
        with contextlib.suppress(ValueError, OSError):  # no more than the caller may have
            # Not 0: where a crash is piped to a program of the host's, only 1 keeps it from being started (man 5 core).
            resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
        source = Path(__file__).with_name("zygote.py").read_text(encoding="utf-8")
        slack = _num_processes_of_user() if order.mode != NAMESPACES and os.geteuid() else 0
        enter = {NAMESPACES: _enter_namespaces, LANDLOCK: _enter_landlock, UNSAFE: _enter_unsafe}[order.mode]
        facts = enter(order, root, *user)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        for fd in (order.control_fd, line.fileno()):
            os.set_inheritable(fd, True)
        config = {
            "control": order.control_fd,
            "launcher": line.fileno(),
            "kills_itself": order.mode == NAMESPACES,
            "folder": view.FOLDER if order.mode == NAMESPACES else str(root),
            "probe": None if order.mode == UNSAFE else str(root.with_name("probe")),
            "limits": order.limits,
            "warm": WARM,
            "unused": UNUSED,
            "process_slack": slack + 1,  # the zygote itself
            "facts": facts,
        }
        command = [str(view.interpreter()), "-s", "-S", "-P", "-B", "-c", source, json.dumps(config)]
        if order.mode != UNSAFE:
            _close_in(line, may_kill_all=order.mode == NAMESPACES)
        os.execve(command[0], command, ENVIRONMENT)
    except Exception as error:  # whatever it was, this process must not go on as a second launcher
        _refuse(order, error)
    finally:
        os._exit(1)


def _close_in(line: socket.socket, *, may_kill_all: bool) -> None:
    """The last steps before the exec: no rights but the user's, no code but what the launcher lets pass, few calls."""
    linux.drop_capabilities()
    listener = seccomp.hold_code()
    socket.send_fds(line, [LISTENER], [listener])  # while sendmsg is still allowed
    os.close(listener)
    seccomp.refuse(may_kill_all=may_kill_all)


def _enter_namespaces(order: Order, root: Path, user: int, group: int) -> dict[str, str]:
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNET)
    view.build(root, folder_mib=order.limits["file_mib"], user=user, group=group)
    linux.pivot_root(str(root))
    _change_user(user, group)
    files = "mount namespace"
    if landlock.version():
        trees, _ = view.readable()
        landlock.restrict(readable=trees, writable=[Path(view.FOLDER), *map(Path, view.DEVICES)], is_all=False)
        files += f", landlock v{landlock.version()}"
    return {"network": "network namespace, seccomp", "files": files, "kill": "PID namespace", "user": _whose(user)}


def _enter_landlock(order: Order, root: Path, user: int, group: int) -> dict[str, str]:
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # orphans come to the zygote, whose descendants the launcher kills
    os.chown(root, user, group)
    _change_user(user, group)
    for path, cure in ((view.interpreter(), "a Python outside of it"), (Path(os.__file__), "a Python outside of it"),
                       (root / ".", "TMPDIR elsewhere")):  # fmt: skip
        if not os.access(path, os.R_OK):
            raise OSError(f"user {user}, as whom programs run, cannot reach {path} in a closed folder: use {cure}")
    trees, _ = view.readable()
    landlock.restrict(readable=trees, writable=[root, *map(Path, view.DEVICES)], is_all=True)
    files, kill = f"landlock v{landlock.version()}, seccomp", "child subreaper, signals refused by seccomp"
    return {"network": "seccomp", "files": files, "kill": kill, "user": _whose(user)}


def _enter_unsafe(order: Order, root: Path, user: int, group: int) -> dict[str, str]:
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    return {"network": "none", "files": "none", "kill": "child subreaper", "user": f"the caller's ({os.geteuid()})"}


def _program_user() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    number = FIRST_USER + os.getpid() % NUM_USERS
    return number, number


def _change_user(user: int, group: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)


def _whose(user: int) -> str:
    return f"a user of its own ({user})" if 0 <= user - FIRST_USER < NUM_USERS else f"the caller's ({user})"


def _num_processes_of_user() -> int:
    """Processes and threads of this user: outside a user namespace the limit of processes counts them all."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.geteuid():
                count += len(os.listdir(folder / "task"))
        except OSError:
            continue  # it has just ended
    return count


def _watch(child: int, parent: int, line: socket.socket, has_room: Callable[[], bool]) -> None:
    """Serve the zygote's requests until somebody ends: code to map while it warms up, what a program left to kill."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    for fd in (sys.stdin.fileno(), parent, ended, line.fileno()):
        poll.register(fd, select.POLLIN)
    listener = -1
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if not ready <= {line.fileno(), listener}:
            break
        if listener in ready:
            seccomp.let_pass(listener)
        if line.fileno() in ready:
            asked, passed, _, _ = socket.recv_fds(line, 1, 1)
            if asked == LISTENER:
                listener = passed[0]
                poll.register(listener, select.POLLIN)
            elif asked == zygote.IS_WARM and listener >= 0:
                poll.unregister(listener)
                os.close(listener)  # whoever asks from now on hears that there is no such call
                listener = -1
            elif asked == zygote.KILL:
                _kill_descendants(child)
            elif not asked:
                poll.unregister(line.fileno())  # a PID namespace needs no launcher to kill, or the zygote is ending
            if asked in (zygote.IS_WARM, zygote.KILL, zygote.MEASURE):
                line.send(zygote.FULL if asked == zygote.MEASURE and not has_room() else zygote.DONE)
    os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still its own
    os.waitpid(child, 0)
    _kill_descendants(os.getpid())


def _has_room(root: Path, child: int, limit_bytes: int) -> bool:
    """Whether a program's files are within the limit: those in its folder, and the nameless ones that it holds open."""
    blocks: dict[int, int] = {}
    pending = [str(root)]
    while pending and len(blocks) <= MAX_FILES:
        try:
            for entry in islice(os.scandir(pending.pop()), MAX_FILES + 1):
                found = entry.stat(follow_symlinks=False)
                blocks[found.st_ino] = found.st_blocks
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        except FileNotFoundError:
            continue  # just removed
        except OSError:
            return False  # deeper than a path can be long: there could be anything
    below = [child]
    for pid in below:  # by the kernel's own lists of children: a look at every process of the machine takes far longer
        with contextlib.suppress(OSError):  # just ended; or not ours to see, in a container without CAP_SYS_PTRACE
            for task in os.listdir(f"/proc/{pid}/task"):
                below += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            for name in os.listdir(f"/proc/{pid}/fd"):
                found = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                    blocks[found.st_ino] = found.st_blocks
    return len(blocks) <= MAX_FILES and sum(blocks.values()) * BLOCK_BYTES <= limit_bytes


def _kill_descendants(ancestor: int) -> None:
    """Kill all processes below `ancestor`, also those that fork meanwhile: stop first, look again, then kill."""
    stopped: set[int] = set()
    while new := _descendants(ancestor) - stopped:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _signal(pid, signal.SIGKILL)


def _descendants(ancestor: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            # "pid (any name) state parent ...": a dead one cannot be killed again
            state, parent = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    pending = [ancestor]
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending += below
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)
