"""The warm interpreter inside the sandbox: it forks one child per program and judges it from outside that child.

Standard library only, started as `python -c <this text>`: the package has no name in here. Nor has ctypes: children are
copies of this process, and a program that could call C could read its own verdict's token out of memory.

The verdict: after the fork, this process writes 16 random bytes into a socket pair. The child turns them, without
giving them a name in any frame, into the last item of one chain of C calls: run the program, then write the bytes back.
Only a program that returns from its last statement gets there. Ways to reach the bytes or to skip statements (gc,
tracing, ctypes, other threads' frames, interpreters without audit hooks) are refused by an audit hook, PEP 578.
"""

import contextlib
import gc
import importlib
import json
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from operator import call
from types import ModuleType
from typing import Any, NoReturn

# Compiled modules that no program gets: they reach into the interpreter or load libraries by themselves.
REFUSED_PREFIXES = ("_ctypes", "_test", "_xx", "xx", "_interp", "_remote_debugging", "_tkinter")
IS_WARM, KILL, MEASURE = b"w", b"k", b"m"  # words to the launcher
DONE, FULL = b"d", b"f"  # its answers
MEASURE_EVERY_S = 0.1  # how often the folder's size is looked at where it has no size of its own
TOKEN_BYTES, CHUNK_BYTES, MAX_ERROR_CHARS = 16, 1 << 16, 2000
FAILED, NO_MEMORY = b"f", b"m"  # what a program that raised says first
FIRST_FREE_FD = 3
LIBRARIES = tuple(folder for folder in sys.path if folder.endswith("lib-dynload"))  # the only compiled modules
Line = socket.socket | None  # to the launcher, where it is needed while programs run


def serve(config: dict[str, Any]) -> tuple[str, int]:
    """Run programs until the caller hangs up. Returns in children only: the program, and the line for the verdict."""
    for name in config["warm"]:
        importlib.import_module(name)
    map_compiled(config["unused"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is deaf to signals without a handler
    control = socket.socket(fileno=config["control"])
    line = socket.socket(fileno=config["launcher"])
    ask(line, IS_WARM)
    if config["probe"]:
        prove_isolation(config["probe"], config["folder"])
    launcher = None if config["kills_itself"] else line
    if launcher is None:
        line.close()
    prepare(config["folder"])
    gc.collect()
    gc.freeze()  # children then copy fewer pages
    control.sendall(json.dumps({"facts": config["facts"]}).encode() + b"\n")
    while True:
        program = receive(control)
        for_child = judge(program, config, control, launcher)
        if for_child is not None:
            return program, for_child


def map_compiled(unused: list[str]) -> None:
    """Map the standard library's compiled modules: once the launcher has closed its line, nothing can be mapped."""
    for folder in LIBRARIES:
        for file in os.listdir(folder):
            if not file.startswith((*REFUSED_PREFIXES, *unused)):
                # By no module's name: the file is mapped and stays so, but has no start for it, so nothing of it runs.
                loader = ExtensionFileLoader("none", os.path.join(folder, file))
                with contextlib.suppress(ImportError):
                    loader.create_module(ModuleSpec("none", loader, origin=loader.path))


def ask(launcher: socket.socket, word: bytes) -> bytes:
    """Have the launcher, which is outside, do something; returns its answer when it is done."""
    launcher.send(word)
    answer = launcher.recv(1)
    if not answer:
        os._exit(0)  # it has gone
    return answer


def prove_isolation(probe: str, folder: str) -> None:
    """Try what must not work, rather than trust that the calls which set it up did what their manual says."""
    fd = os.open(own := os.path.join(folder, "own"), os.O_CREAT | os.O_RDWR)
    os.write(fd, b"code")
    for danger, attempt in (
        ("files outside can be read", lambda: open(probe).close()),
        ("modes can be changed", lambda: os.chmod(own, 0o666)),
        ("times can be changed", lambda: os.utime(own)),
        ("sockets can be made", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
        ("signals can be sent", lambda: os.kill(os.getpid(), 0)),
        ("code can be mapped", lambda: mmap.mmap(fd, 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)),
        ("programs can be started", lambda: os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(1)"])),
    ):
        try:
            attempt()
        except OSError:
            continue
        sys.exit(danger)
    os.close(fd)
    os.unlink(own)


def prepare(folder: str) -> None:
    """What programs find, made once: it need not be made again in every child."""
    os.environ.clear()
    os.environ.update({"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    for stream, number in (("stdout", 1), ("stderr", 2)):
        now, pipe = os.dup(number), os.pipe()
        os.dup2(pipe[1], number)  # a stream asks at first what it writes to, and that will be a pipe
        setattr(sys, stream, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        setattr(sys, f"__{stream}__", getattr(sys, stream))
        os.dup2(now, number)
        for fd in (now, *pipe):
            os.close(fd)
    # Modes and times cannot be changed here; a copy is a copy without them.
    shutil.copymode = shutil.copystat = lambda *arguments, **options: None
    sys.argv = [""]
    sys.path = [path for path in sys.path if path]


def receive(control: socket.socket) -> str:
    """The next program; ends this process, and with it whatever is left, when the caller has gone."""
    header = control.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        os._exit(0)
    size = struct.unpack("<I", header)[0]
    body = control.recv(size, socket.MSG_WAITALL)
    if len(body) < size:
        os._exit(0)
    return str(json.loads(body))


def judge(program: str, config: dict[str, Any], control: socket.socket, launcher: Line) -> int | None:
    """Fork, watch, kill, tell the caller. In the child: returns its end of the verdict's socket pair at once."""
    ours, theirs = socket.socketpair()
    outputs = [os.pipe(), os.pipe()]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        for line in filter(None, (control, launcher, ours)):
            line.detach()  # else their end, when these frames are left, would close numbers that mean something else
        return enter(config, theirs.detach(), [write for _, write in outputs])
    token = os.urandom(TOKEN_BYTES)
    ours.sendall(token)
    theirs.close()
    for _, write in outputs:
        os.close(write)
    streams = [outputs[0][0], outputs[1][0], ours.fileno()]
    sizes = [config["limits"]["output_kib"] << 10] * 2 + [CHUNK_BYTES]
    kept = {fd: (bytearray(), size) for fd, size in zip(streams, sizes, strict=True)}
    stopped = watch(child, kept, deadline=started + config["limits"]["wall_s"], control=control, launcher=launcher)
    status = reap(child, launcher, kill_first=stopped is not None)
    for fd in streams:
        while read_more(fd, *kept[fd]):
            pass
    os.close(streams[0])
    os.close(streams[1])
    ours.close()
    outcome = stopped or verdict(status, bytes(kept[streams[2]][0]), token)
    outcome |= {name: kept[streams[i]][0].decode("utf-8", "replace") for i, name in enumerate(("stdout", "stderr"))}
    outcome["wall_s"] = time.monotonic() - started
    is_clean = wipe(config["folder"])
    control.sendall(json.dumps(outcome | {"retire": not is_clean}).encode() + b"\n")
    return None


def watch(
    child: int, kept: dict[int, tuple[bytearray, int]], *, deadline: float, control: socket.socket, launcher: Line
) -> dict[str, Any] | None:
    """Collect what the child writes until it ends, or must be stopped: then that is its outcome."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    for fd in (*kept, ended, control.fileno()):
        poll.register(fd, select.POLLIN)
    measure_at = time.monotonic() + MEASURE_EVERY_S if launcher else deadline
    stopped = None
    while stopped is None:
        now = time.monotonic()
        ready = [fd for fd, _ in poll.poll(max(min(deadline, measure_at) - now, 0) * 1000)]
        if control.fileno() in ready:
            os._exit(0)  # nothing is due from the caller now: it has gone
        if now >= deadline:
            stopped = {"status": "timeout", "error": "ran longer than its wall time"}
        elif launcher and now >= measure_at:
            measure_at = now + MEASURE_EVERY_S
            if ask(launcher, MEASURE) == FULL:
                stopped = {"status": "failed", "error": "its files took more room than it may have"}
        for fd in kept.keys() & ready:
            if not read_more(fd, *kept[fd]):
                poll.unregister(fd)
        if ended in ready:
            break
    os.close(ended)
    return stopped


def read_more(fd: int, kept: bytearray, size: int) -> bool:
    """Read, and keep the first `size` bytes in all. False at the end, which a socket may tell as an error."""
    try:
        data = os.read(fd, CHUNK_BYTES)
    except ConnectionResetError:
        return False
    kept += data[: max(size - len(kept), 0)]
    return bool(data)


def reap(child: int, launcher: Line, *, kill_first: bool) -> int:
    """The child's wait status; after this nothing that it started is alive."""
    if kill_first:
        kill_all(launcher)
    status = os.waitpid(child, 0)[1]
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:  # orphans are this process's children now: there are some
                kill_all(launcher)
                os.waitpid(-1, 0)
        except ChildProcessError:
            return status


def kill_all(launcher: Line) -> None:
    """Kill every descendant at once: all of the PID namespace, or by the launcher, which may send signals."""
    if launcher is None:
        with contextlib.suppress(ProcessLookupError):  # there is none
            os.kill(-1, signal.SIGKILL)
    else:
        ask(launcher, KILL)


def verdict(status: int, said: bytes, token: bytes) -> dict[str, Any]:
    """What happened, from the kernel's word on the child's end and the token; the child's own words only explain.

    Any bytes may have been said, by anybody in there. So they are not parsed: a letter, then a text.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return {"status": "timeout", "error": "used up its CPU time"}
        names = {known.value: known.name for known in signal.Signals}  # not every signal has one
        return {"status": "crashed", "error": f"killed by {names.get(number, f'signal {number}')}"}
    code = os.WEXITSTATUS(status)
    if said == token and code == 0:
        return {"status": "passed", "error": None}
    kind, text = said[:1], said[1:].decode("utf-8", "replace")[:MAX_ERROR_CHARS]
    if kind not in (FAILED, NO_MEMORY):
        text = f"ended itself with exit status {code} before its last statement was done"
    return {"status": "memory" if kind == NO_MEMORY else "failed", "error": text}


def wipe(folder: str) -> bool:
    """Empty the private folder, however deep what the program left is. False: this worker must be replaced."""
    try:
        open_up(folder)
        count, prefix = 0, os.urandom(8).hex()
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                # Lift what is inside, instead of descending: paths and recursion stay short however deep it goes.
                open_up(entry.path)
                for inner in list(os.scandir(entry.path)):
                    if inner.is_dir(follow_symlinks=False):
                        open_up(inner.path)
                    os.rename(inner.path, os.path.join(folder, f"{prefix}-{count}"))
                    count += 1
                os.rmdir(entry.path)
        return True
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return os.path.isdir(folder) and not os.listdir(folder)


def open_up(folder: str) -> None:
    """Make a folder its owner's to change. Only without isolation can there be one that is not (seccomp.py)."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        os.chmod(folder, 0o700)


# --- below: in the child only -----------------------------------------------------------------------------------------


def enter(config: dict[str, Any], channel: int, outputs: list[int]) -> int:
    """Give up what a program must not have; returns the one descriptor besides 0, 1 and 2 that stays open."""
    os.setsid()
    for number, fd in enumerate(outputs, start=1):
        os.dup2(fd, number)
    os.dup2(channel, FIRST_FREE_FD, inheritable=False)
    os.closerange(FIRST_FREE_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.chdir(config["folder"])
    limits = config["limits"]
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mib"] << 20),
        (resource.RLIMIT_FSIZE, limits["file_mib"] << 20),
        (resource.RLIMIT_NOFILE, limits["num_files"]),
        (resource.RLIMIT_NPROC, limits["num_processes"] + config["process_slack"]),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # The kernel ends a process at its soft CPU limit by SIGXCPU, which can be caught, a second later by SIGKILL.
        above = 1 if kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else 0
        resource.setrlimit(kind, (allowed, allowed + above))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return FIRST_FREE_FD


def guard(
    event: str,
    arguments: tuple[Any, ...],
    # A default, not a name to look up and not a closure, which Python 3.13's frames could write to.
    libraries: tuple[str, ...] = LIBRARIES,
    refused: tuple[str, ...] = ("ctypes", "tkinter", *REFUSED_PREFIXES),
) -> None:
    """The audit hook. Only constants and their methods: a program can replace every name that this file looks up."""
    if event in {
        "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._current_frames", "sys._current_exceptions",
        "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "cpython.PyInterpreterState_New",
        "cpython.run_interactivehook", "code.__new__", "sqlite3.enable_load_extension", "sqlite3.load_extension",
    } or "".join((event, "")).startswith("ctypes."):  # fmt: skip
        raise PermissionError("not available in the sandbox: " + event)
    if event == "import":
        # Joined to make plain strings: a subclass of str would bring its own methods along.
        name = "".join((arguments[0], "")).partition(".")[0]
        path = "" if arguments[1] is None else "".join((arguments[1], ""))
        if (
            name.startswith(refused)
            or path.rpartition("/")[2].startswith(refused)
            or (path and (".." in path or not path.startswith(libraries)))
        ):
            raise ImportError("not available in the sandbox: " + name)


def run_program(program: str, channel: int, leave: Callable[[int], NoReturn]) -> NoReturn:
    """Run it as `__main__` and write the token back; never returns."""
    main, streams = ModuleType("__main__"), (sys.stdout, sys.stderr)
    sys.modules["__main__"] = main
    try:
        deque(
            map(
                call,  # type: ignore[arg-type]  # its parameters cannot be spelled
                (
                    partial(exec, compile(program, "<program>", "exec", dont_inherit=True), main.__dict__),
                    partial(os.write, channel, os.read(channel, TOKEN_BYTES)),
                ),
            ),
            0,
        )
        code = 0
    except BaseException as error:
        code = 1
        tell(error, channel, main)
    for stream in streams:
        with contextlib.suppress(BaseException):  # its own business: a program may have closed it
            stream.flush()
    leave(code)


def tell(error: BaseException, channel: int, main: ModuleType) -> None:
    """Say why, as far as the program lets us: its exceptions can do anything when they are printed."""
    kind = NO_MEMORY if isinstance(error, MemoryError) else FAILED
    if kind == NO_MEMORY:
        main.__dict__.clear()  # room for the message
    try:
        text = described(error)
    except BaseException:  # its own code was asked, and failed: that it raised at all is what is left to say
        text = "raised an exception that cannot be shown"
    # The channel first: printing a traceback may take long, and this is what the caller reads.
    with contextlib.suppress(BaseException):  # the program may have closed it; then there is nobody to tell
        os.write(channel, kind + text[:MAX_ERROR_CHARS].encode("utf-8", "backslashreplace"))
    with contextlib.suppress(BaseException):  # the program's own code again; the caller knows already
        start = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, start)


def described(error: BaseException) -> str:
    """The exception in one line, with the last line of the program that it came through."""
    line, trace = None, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<program>" else line
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}".removesuffix(": ") + (f" (line {line})" if line else "")


if __name__ == "__main__":
    _program, _channel = serve(json.loads(sys.argv[1]))
    sys.addaudithook(guard)
    del guard
    run_program(_program, _channel, os._exit)
