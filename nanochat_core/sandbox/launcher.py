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
import select
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base import files
from nanochat_core.sandbox import landlock, linux, seccomp, view, zygote

CLOSURE_FILES = ("zygote.py",)  # read as a text, and run inside
NAMESPACES, LANDLOCK, UNSAFE = "namespaces", "landlock", "unsafe"
MODES = (NAMESPACES, LANDLOCK)  # in the order of preference
# Users without a name, one per worker, so that root's programs own nothing and their processes are counted apart.
# The range is the one that systemd keeps for such use (DynamicUser=).
FIRST_USER, NUM_USERS = 61184, 4336
# A nearly full score: when memory runs out, the kernel takes generated programs first, not the trainer.
OOM_SCORE_ADJ = "900"
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"}


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
    _watch(child, parent, ours)


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


def _become_zygote(order: Order, sweeper: socket.socket, root: Path, user: tuple[int, int]) -> None:
    """In the child: leave everything behind, then exec the interpreter. Never returns."""
    try:
        os.setsid()
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # it is the caller's line to the launcher
        with contextlib.suppress(OSError):  # a courtesy to the other processes; some containers forbid it
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
        source = Path(__file__).with_name("zygote.py").read_text(encoding="utf-8")
        slack = _num_processes_of_user() if order.mode != NAMESPACES and os.geteuid() else 0
        enter = {NAMESPACES: _enter_namespaces, LANDLOCK: _enter_landlock, UNSAFE: _enter_unsafe}[order.mode]
        facts = enter(order, root, *user)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        for fd in (order.control_fd, sweeper.fileno()):
            os.set_inheritable(fd, True)
        config = {
            "control": order.control_fd,
            "sweeper": None if order.mode == NAMESPACES else sweeper.fileno(),
            "folder": view.FOLDER if order.mode == NAMESPACES else str(root),
            "probe": None if order.mode == UNSAFE else str(root.with_name("probe")),
            "limits": order.limits,
            "process_slack": slack + 1,  # the zygote itself
            "facts": facts,
        }
        command = [str(view.interpreter()), "-s", "-S", "-P", "-B", "-c", source, json.dumps(config)]
        os.execve(command[0], command, ENVIRONMENT)
    except Exception as error:  # whatever it was, this process must not go on as a second launcher
        _refuse(order, error)
    finally:
        os._exit(1)


def _enter_namespaces(order: Order, root: Path, user: int, group: int) -> dict[str, str]:
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNET)
    view.build(root, folder_mib=order.limits["file_mib"], user=user, group=group)
    linux.pivot_root(str(root))
    _change_user(user, group)
    files = "mount namespace"
    if landlock.version():
        trees, _ = view.readable()
        landlock.restrict(readable=trees, writable=[Path(view.FOLDER), *map(Path, view.DEVICES)])
        files += f", landlock v{landlock.version()}"
    seccomp.refuse(refuse_signals=False)
    return {"network": "network namespace, seccomp", "files": files, "kill": "PID namespace", "user": _whose(user)}


def _enter_landlock(order: Order, root: Path, user: int, group: int) -> dict[str, str]:
    found = landlock.version()
    if not found:
        raise OSError("this kernel has no Landlock (5.13 or newer has, unless switched off)")
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # orphans come to the zygote, whose descendants the launcher kills
    os.chown(root, user, group)
    capability = next(filter(linux.has_capability, (linux.CAP_DAC_READ_SEARCH, linux.CAP_DAC_OVERRIDE)), None)
    if capability is not None and os.geteuid() == 0:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        _change_user(user, group)
        linux.keep_one_capability(capability)  # to reach an interpreter under /root; Landlock bounds it to that
    else:
        _change_user(user, group)
    trees, _ = view.readable()
    landlock.restrict(readable=trees, writable=[root, *map(Path, view.DEVICES)])
    seccomp.refuse(refuse_signals=True)
    files, kill = f"landlock v{found}", "child subreaper, signals refused by seccomp"
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


def _watch(child: int, parent: int, sweeper: socket.socket) -> None:
    """Serve the zygote's requests to kill what a program left, until somebody ends."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    for fd in (sys.stdin.fileno(), parent, ended, sweeper.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if ready != {sweeper.fileno()}:
            break
        if not sweeper.recv(1):
            poll.unregister(sweeper.fileno())  # a PID namespace needs no sweeper, or the zygote is ending
            continue
        _kill_descendants(child)
        sweeper.send(b"k")
    os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still its own
    os.waitpid(child, 0)
    _kill_descendants(os.getpid())


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
