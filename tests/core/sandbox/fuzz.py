"""A generator of hostile programs, and what of the machine outside they must leave as it was.

    python tests/core/sandbox/fuzz.py --mode landlock --programs 2500 --seed 1 [--user 4242]

Each program makes a handful of calls, drawn by a seed from everything in Python that ends in a system call, with
arguments that hurt most: paths, processes and descriptors of others, sizes past every limit. After each one a plain
program must give its right answer; the files, sockets and processes outside must be as before, and no process left.
Prints counts as JSON; ends with 1 at the first thing that is not so, and says after which program.
"""

# ruff: noqa: E501  # the table of calls
import argparse
import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from nanochat_core.sandbox import Limits, Sandbox

LIMITS = Limits(wall_s=0.6, cpu_s=1, memory_mib=128, file_mib=4)
GROWTH_KIB = 16 << 10  # what the warm interpreter may grow by over a whole run
# {path} {fd} {pid} {sig} {int} {mode} {data} are drawn anew at each place.
CALLS = """
os.chmod({path}, {mode})
os.chmod({path}, {mode}, follow_symlinks=False)
os.fchmod({fd}, {mode})
os.chown({path}, {int}, {int})
os.fchown({fd}, {int}, {int})
os.lchown({path}, {int}, {int})
os.utime({path}, (1, 1))
os.utime({fd})
os.utime({path}, ns=(5, 5), follow_symlinks=False)
os.setxattr({path}, 'user.x', {data})
os.setxattr({fd}, 'security.capability', {data})
os.removexattr({path}, 'user.kept')
os.listxattr({path})
os.truncate({path}, {int})
os.ftruncate({fd}, {int})
os.posix_fallocate({fd}, 0, {int})
os.posix_fadvise({fd}, 0, {int}, 4)
keep.append(os.open({path}, {int} & 0o37777777, {mode}))
keep.append(os.open({path}, os.O_RDWR | os.O_CREAT | os.O_TRUNC, {mode}))
keep.append(os.open({path}, os.O_PATH))
keep.append(os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600))
os.unlink({path})
os.rmdir({path})
os.rename({path}, {path})
os.replace({path}, 'mine')
os.link({path}, {path})
os.link({path}, 'mine', follow_symlinks=True)
os.symlink({path}, {path})
os.mkdir({path}, {mode})
os.mkfifo({path}, {mode})
os.mknod({path}, {mode} | 0o20000, {int} & 0xffff)
os.umask({mode})
os.chdir({path})
os.fchdir({fd})
os.chroot({path})
os.listdir({path})
os.readlink({path})
os.stat({path}); os.statvfs({path}); os.access({path}, 7)
open({path}).read(100)
open({path}, 'a').write('x')
os.sendfile({fd}, {fd}, 0, {int})
os.copy_file_range({fd}, {fd}, {int})
os.splice({fd}, {fd}, 100)
os.sync(); os.fsync({fd})
os.lockf({fd}, os.F_TLOCK, {int})
fcntl.flock({fd}, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.fcntl({fd}, random.choice([*range(40), *range(1024, 1042)]), {int})
fcntl.fcntl({fd}, fcntl.F_SETOWN, {pid}); fcntl.fcntl({fd}, fcntl.F_SETSIG, {sig}); fcntl.fcntl({fd}, 4, 0x2000 | 0x800)
fcntl.ioctl({fd}, random.choice([0x40086602, 0x401c5820, 0x5412, 0x8901, 0x8902, 0x5452, 0x541b, {int} & 0xffffffff]), b'x' * 64)
fcntl.fcntl(os.pipe()[1], 1031, {int} & 0x7fffffff)
os.kill({pid}, {sig})
os.killpg({pid}, {sig})
signal.pidfd_send_signal(os.pidfd_open({pid}), {sig})
signal.pthread_kill(threading.get_ident(), {sig})
signal.raise_signal({sig})
signal.setitimer(random.choice([0, 1, 2]), 0.01, 0.01)
signal.signal({sig}, random.choice([signal.SIG_IGN, signal.SIG_DFL, lambda *a: None]))
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
resource.setrlimit(random.randrange(16), ({int} & 0xffff, {int} & 0xffff))
resource.prlimit({pid}, random.randrange(16), (0, 0))
os.setpriority(0, {pid}, 19); os.nice(5)
os.sched_setaffinity({pid}, [0])
os.sched_setscheduler({pid}, os.SCHED_IDLE, os.sched_param(0))
os.setuid(0); os.setgid(0)
os.setresuid({int} & 0xffff, 0, 0)
os.setgroups([0])
os.setsid(); os.setpgid(0, {pid})
keep.append(os.memfd_create('m')); os.ftruncate(keep[-1], 1 << 30)
keep.append(os.eventfd({int} & 0xffff))
keep.append(socket.socket(random.randrange(46), random.randrange(6), {int} & 0xff))
keep.extend(socket.socketpair(random.choice([1, 1, 2, 16]), random.choice([1, 2, 5])))
keep.append(socket.socket(fileno={fd})); keep[-1].sendto({data}, {path})
socket.socketpair()[0].sendto({data}, {path})
socket.socketpair()[0].sendmsg([{data}], [(1, 1, b'\\0\\0\\0\\0')], 0, {path})
socket.socketpair()[0].setsockopt(1, random.choice([7, 8, 32, 33]), 1 << 26)
pair = socket.socketpair(); pair[0].setblocking(False); keep.append(pair); [pair[0].send(bytes(1 << 16)) for _ in range(99)]
ends = os.pipe(); os.set_blocking(ends[1], False); keep.append(ends); [os.write(ends[1], bytes(4096)) for _ in range(999)]
socket.create_connection(('127.0.0.1', {int} & 0xffff), 0.1)
socket.getaddrinfo('localhost', 80)
keep.append(mmap.mmap(-1, {int} & 0x7fffffff or 1))
keep.append(mmap.mmap({fd}, 4096, random.choice([1, 2, 0x40001, 0x40022]), random.randrange(8)))
keep.append(mmap.mmap(-1, 1 << 22, prot=7))
import multiprocessing.shared_memory as s; keep.append(s.SharedMemory(create=True, size=1 << 22))
import multiprocessing; multiprocessing.get_context('fork').Lock()
base = sqlite3.connect({path}); base.execute('create table if not exists t(a)'); base.execute('insert into t values(zeroblob(1 << 22))')
base = sqlite3.connect(':memory:'); base.enable_load_extension(True); base.load_extension('./mine')
base = sqlite3.connect(':memory:'); base.execute('attach ' + repr({path}) + ' as o'); base.execute('create table o.t(a)')
base = sqlite3.connect('mine'); base.execute('pragma journal_mode=wal'); base.execute('pragma mmap_size=1000000'); base.execute('vacuum')
import subprocess; subprocess.run([sys.executable, '-c', 'pass'], env={{'LD_PRELOAD': './mine'}})
os.execv(sys.executable, ['python', '-c', 'pass'])
os.posix_spawn('/bin/sh', ['sh'], {{}})
os.fork()
os.fork() or os.setsid() or os.fork() or time.sleep(9)
[os.fork() for _ in range(3)]
[threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(30)]
threading.Thread(target=os._exit, args=(0,)).start()
os.write(3, {data})
os.write(3, os.urandom(16))
os.read(3, 1)
os.set_blocking(3, False); [os.write(3, {data}) for _ in range(99)]
os.dup2({fd}, {fd}); os.dup2(3, 1)
os.close({fd})
os.closerange(0, {int} & 0xffff)
socket.socket(fileno=3).shutdown(2)
os.write(random.choice([1, 2]), bytes(1 << 18))
print({data} * 99, file=random.choice([sys.stdout, sys.stderr]))
import ctypes; ctypes.CDLL(None).kill({pid}, {sig})
import _ctypes
import _testcapi
import importlib.machinery as m; m.ExtensionFileLoader('mine', './mine').create_module(m.ModuleSpec('mine', None, origin='./mine'))
open('mine', 'wb').write({data} * 99)
[open(str(i), 'w') for i in range(5000)]
[open('f' * i, 'wb').write(bytes(1 << 20)) for i in range(1, 9)]
[(os.mkdir('d'), os.chdir('d')) for _ in range(400)]
os.mkdir('n' * 255); os.chdir('n' * 255)
[keep.append(open('gone', 'wb')) or os.unlink('gone') or keep[-1].write(bytes(1 << 20)) for _ in range(9)]
keep.append(bytearray({int} & 0x7fffffff))
keep.append([0] * ({int} & 0xffffff))
sys.setrecursionlimit(1 << 30); (lambda f: f(f))(lambda f: f(f))
gc.get_objects()
sys.settrace(print)
sys._getframe(1).f_globals.clear()
sys._getframe(1).f_globals.update(os=None, tell=print, leave=print)
os._exit = os.write = lambda *a: None
builtins.BaseException = ValueError
import marshal; marshal.loads({data})
compile('(' * 99, 'x', 'eval')
faulthandler._sigsegv()
faulthandler.dump_traceback_later(0.01, exit=True)
os.abort()
os._exit({int} & 0xff)
sys.exit(0)
raise MemoryError
time.sleep(0.01)
tempfile.NamedTemporaryFile(delete=False).write({data})
os.environ.update(LD_PRELOAD='./mine', OPENSSL_CONF='./mine', PYTHONPATH='.')
import pty; pty.fork()
import asyncio; asyncio.run(asyncio.create_subprocess_exec('sh'))
epoll = select.epoll(); epoll.register({fd}); epoll.poll(0)
os.waitpid({pid}, os.WNOHANG)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
os.getrandom(1 << 16); os.getlogin()
atexit.register(os.kill, {pid}, {sig}); os.register_at_fork(after_in_child=lambda: os._exit(0))
sys.addaudithook(lambda *a: None)
""".strip().splitlines()
BEGIN = """
import atexit, builtins, contextlib, faulthandler, fcntl, gc, mmap, os, random, resource, select, signal, socket, sqlite3, sys
import tempfile, threading, time
keep = []
random.seed({seed})
"""
# Signals that a program might send; SIGALRM is the test runner's own clock.
LISTENED = {
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGIO,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGRTMIN,
}
HURTFUL = (
    0,
    1,
    -1,
    2,
    3,
    9,
    255,
    4096,
    65535,
    1 << 16,
    1 << 20,
    1 << 24,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 63) - 1,
)
DATA = (b"", b"x", bytes(16), b"f", b"m\xff", b'["passed", null]', b"[" * 5000, b"\x7fELF" + bytes(99), b"\xff" * 4096)


@dataclass(frozen=True)
class Outside:
    """What must stay as it is: files that the program's own user may change, listeners, processes."""

    folder: Path
    sockets: list[socket.socket]
    victim: subprocess.Popen
    heard: list[int]

    def paths(self) -> list[Path]:
        return sorted(self.folder.rglob("*"))

    def state(self) -> dict[str, object]:
        """All that can be said of the files; the time of access of links is left out, as looking changes it."""
        found: dict[str, object] = {}
        for path in self.paths():
            seen = path.lstat()
            facts = [
                getattr(seen, "st_" + one) for one in ("mode", "uid", "gid", "size", "nlink", "mtime_ns", "ctime_ns")
            ]
            if not path.is_symlink():
                facts += [seen.st_atime_ns, os.listxattr(path) if os.access(path, os.R_OK) else None]
            found[str(path)] = (facts, path.read_bytes() if path.is_file() else None)
        return found


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    """Files with every permission, listeners with and without a path, a process of the same user; removed at the end."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda got, frame: heard.append(got)) for number in LISTENED}
    with contextlib.ExitStack() as at_end:
        for number, handler in before.items():
            at_end.callback(signal.signal, number, handler)
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        victim = at_end.enter_context(subprocess.Popen(["sleep", "100000"]))
        at_end.callback(victim.kill)
        (folder / "open").mkdir()
        for place in (folder, folder / "open"):
            (place / "words").write_text("words")
            (place / "tool").write_text("#!/bin/sh")
            (place / "link").symlink_to("words")
        sockets = [
            at_end.enter_context(socket.socket(socket.AF_UNIX, kind))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        ]
        addresses = (str(folder / "line"), f"\0nanochat-{os.getpid()}", str(folder / "stream"))
        for one, address in zip(sockets, addresses, strict=True):
            one.bind(address)
            one.setblocking(False)
        sockets[2].listen()
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o777)
            with contextlib.suppress(OSError):
                os.setxattr(path, "user.kept", b"1")
        folder.chmod(0o777)
        for path in folder.rglob("*"):
            if path.is_file():
                path.read_bytes()  # so that reading them below changes no time
        yield Outside(folder, sockets, victim, heard)


def program(seed: int, world: Outside) -> str:
    """The program of a seed."""
    draw = random.Random(seed)
    paths = [*map(str, world.paths()), str(world.folder), f"\0nanochat-{os.getpid()}", "mine", "mine", ".", "..", "/", "", "x/y",
             "/dev/null", "/dev/zero", "/dev/urandom", "/dev/shm/x", "/proc/self/mem", "/etc/passwd", os.__file__, sys.executable, "a" * 300]  # fmt: skip
    drawn = {
        "path": lambda: repr(draw.choice(paths)),
        "fd": lambda: str(draw.choice([0, 1, 2, 3, 3, 4, 5, -1, 63, 1 << 20])),
        "pid": lambda: str(
            draw.choice([world.victim.pid, os.getpid(), 1, 0, -1, -world.victim.pid, "os.getppid()", "os.getpid()"])
        ),
        "sig": lambda: str(draw.choice([0, 1, 2, 9, 10, 12, 14, 15, 17, 18, 19, 23, 28, 29, 34, 64])),
        "int": lambda: str(draw.choice(HURTFUL)),
        "mode": lambda: oct(draw.choice([0, 0o777, 0o700, 0o4755, 0o77, 0o600, 0o6777])),
        "data": lambda: repr(draw.choice(DATA)),
    }
    lines = []
    for _ in range(draw.randint(3, 12)):
        text = draw.choice(CALLS)
        for name, one in drawn.items():
            while "{" + name + "}" in text:
                text = text.replace("{" + name + "}", one(), 1)
        text = text.replace("{{", "{").replace("}}", "}")
        caught = draw.choice(["Exception", "Exception", "Exception", "BaseException"])
        lines.append(f"try:\n    {text}\nexcept {caught} as error: print(type(error).__name__)")
    return BEGIN.format(seed=seed) + "\n".join(lines) + "\n"


def children(pid: int) -> list[int]:
    """A process's children, by the kernel's own list."""
    return [int(one) for task in os.listdir(f"/proc/{pid}/task") for one in
            Path(f"/proc/{pid}/task/{task}/children").read_text().split()]  # fmt: skip


def anonymous_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def run(mode: str, *, num_programs: int, seed: int) -> dict[str, object]:
    """Run them; an AssertionError says what was changed, and by which program."""
    counts: collections.Counter[str] = collections.Counter()
    started, num_workers, last, grown_kib, worker = time.monotonic(), 0, None, 0, None
    with outside() as world, Sandbox(LIMITS, num_workers=1, modes=[mode]) as sandbox:
        before = world.state()
        for number in range(seed, seed + num_programs):
            text = program(number, world)
            outcome = sandbox.run(text)
            counts[outcome.status] += 1
            counts["workers lost"] += "lost" in (outcome.error or "")
            # A loaded machine may take longer than these short limits; a wrong answer it does not give.
            last_number = number % 1000
            for _ in range(5):
                plain = sandbox.run(f"print(sum(range({last_number})))")
                if plain.status != "timeout":
                    break
            said = f"\nafter program {number} ({outcome.status}, {outcome.error}):\n{text}"
            assert (plain.status, plain.stdout) == ("passed", f"{last_number * (last_number - 1) // 2}\n"), (
                f"{plain}{said}"
            )
            assert world.state() == before, f"a file outside was changed{said}"
            assert world.victim.poll() is None, f"a process outside was ended{said}"
            assert not world.heard, f"a signal was sent: {world.heard}{said}"
            for one in world.sockets:
                with contextlib.suppress(BlockingIOError):
                    raise AssertionError(
                        f"a socket outside heard {(one.accept() if one is world.sockets[2] else one.recv(99))!r}{said}"
                    )
            worker = sandbox._idle.queue[0]
            if worker is not last:
                last, num_workers = worker, num_workers + 1
                (zygote,) = children(worker._launcher.pid)
                first_kib = anonymous_kib(zygote)
            assert children(worker._launcher.pid) == [zygote], f"a process was left{said}"
            assert children(zygote) == [], f"a process was left{said}"
            grown_kib = max(grown_kib, anonymous_kib(zygote) - first_kib)
            if number % 100 == 99:
                print(number + 1 - seed, dict(counts), file=sys.stderr, flush=True)
        assert grown_kib < GROWTH_KIB, f"the warm interpreter grew by {grown_kib} KiB"
    seconds = round(time.monotonic() - started, 1)
    return {"mode": mode, "user": os.geteuid(), "programs": num_programs, **counts, "workers": num_workers,
            "grown_kib": grown_kib, "seconds": seconds}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="landlock")
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        print(json.dumps(run(options.mode, num_programs=options.programs, seed=options.seed)))
    except AssertionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
