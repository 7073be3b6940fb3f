"""Programs and calls that a generator draws: nothing outside changes, and the next program gets its right answer."""

import collections
import ctypes
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from core.sandbox import fuzz

from nanochat_core.sandbox import landlock, linux, seccomp, view

# Calls that end the child, multiply it, close what the others need, or wait.
NOT_DRAWN = {
    "exit", "exit_group", "fork", "vfork", "close", "close_range", "rt_sigreturn", "rt_sigsuspend", "pause", "poll",
    "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "futex", "nanosleep", "clock_nanosleep", "wait4",
    "waitid", "rt_sigtimedwait", "munmap", "brk",
}  # fmt: skip
UPROBES = {335, 336}  # x86_64: the kernel passes no filter with these; whoever calls them but a probe gets SIGILL
NUM_CALLS = 2000
USER = 4242


def test_after_any_program_the_outside_is_as_before_and_the_next_one_is_right(sandbox) -> None:
    counts = fuzz.run(sandbox.capabilities()["isolation"], num_programs=10, seed=int.from_bytes(os.urandom(3)))
    assert counts["workers lost"] == 0, counts


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("user", [None, USER], ids=["this user", "another user"])
def test_ten_thousand_programs(sandbox, user: int | None) -> None:
    if user and os.geteuid():
        pytest.skip("only root can become another user")
    command = [sys.executable, fuzz.__file__, "--mode", sandbox.capabilities()["isolation"], "--programs", "2500"]
    command += ["--seed", str(int.from_bytes(os.urandom(3)))]
    done = subprocess.run(
        command, user=user, group=user, extra_groups=[] if user else None, capture_output=True, text=True, cwd="/",
        env={"PATH": os.environ["PATH"], "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    counts = json.loads(done.stdout)
    print(counts)
    assert counts.get("workers lost", 0) == 0


@pytest.mark.parametrize(
    "num_rounds", [pytest.param(10, id="few"), pytest.param(1000, id="many", marks=pytest.mark.torture)]
)
def test_any_call_with_any_arguments_changes_nothing_outside(num_rounds: int, tmp_path: Path) -> None:
    """What native code could do, if there were any: random calls with pointers to paths and addresses outside."""
    ended: collections.Counter[str] = collections.Counter()
    with fuzz.outside() as world:
        before = world.state()
        for seed in range(num_rounds):
            child = os.fork()
            if child == 0:
                draw_calls(seed, world, tmp_path)
            pidfd = os.pidfd_open(child)
            if not select.select([pidfd], [], [], 0.4)[0]:
                os.kill(child, signal.SIGKILL)  # it waits for ever
            os.close(pidfd)
            status = os.waitpid(child, 0)[1]
            ended[f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "after all calls"] += 1
            assert world.state() == before, seed
            assert world.victim.poll() is None
            assert not world.heard, seed
            for one in world.sockets[:2]:
                with pytest.raises(BlockingIOError):
                    one.recv(1)
    print(dict(ended))


def draw_calls(seed: int, world: fuzz.Outside, folder: Path) -> None:
    """In a child: shut in as in landlock mode, make the calls, end. Never returns."""
    try:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.chdir(folder)
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        os.closerange(3, 4096)
        readable, _ = view.readable()
        landlock.restrict(readable=readable, writable=[folder], is_all=True)
        linux.drop_capabilities()
        for kind, limit in ((resource.RLIMIT_AS, 1 << 31), (resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_CPU, 5)):
            resource.setrlimit(kind, (limit, limit))
        libc, draw = ctypes.CDLL(None, use_errno=True), random.Random(seed)
        column = list(seccomp.AUDIT_ARCH).index(os.uname().machine)
        avoided = {seccomp.ALLOWED[name][column] for name in NOT_DRAWN} | {(56, 220)[column]}
        numbers = [number for number in range(480) if number not in avoided | UPROBES]
        texts = [*map(str, world.paths()), str(world.folder), "f", "user.x"]
        buffers = [ctypes.create_string_buffer(text.encode() + bytes(64)) for text in texts]
        buffers += [ctypes.create_string_buffer(b"\1\0" + text.encode() + bytes(64)) for text in texts]  # addresses
        plain = [0, 1, 2, 4, 10, 0o777, 0o4755, 4096, 1 << 20, -1, -100, os.getppid(), world.victim.pid, *range(3, 12)]
        os.open(view.interpreter(), os.O_RDONLY)
        os.open(folder / "f", os.O_RDWR | os.O_CREAT)
        seccomp.refuse(may_kill_all=False)
        for _ in range(NUM_CALLS):
            arguments = [
                draw.choice(buffers) if draw.random() < 0.5 else ctypes.c_long(draw.choice(plain)) for _ in range(6)
            ]
            libc.syscall(ctypes.c_long(draw.choice(numbers)), *arguments)
    finally:
        os._exit(0)
