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
from operator import call
from types import ModuleType
from typing import Any, NoReturn

# What HumanEval's and most generated programs import; anything else of the standard library loads when asked for.
WARM = (
    "abc", "array", "ast", "base64", "bisect", "cmath", "collections", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math",
    "numbers", "operator", "pprint", "queue", "random", "re", "statistics", "string", "struct", "sys", "textwrap",
    "threading", "time", "typing", "unicodedata", "warnings", "zlib",
)  # fmt: skip
TOKEN_BYTES = 16
CHUNK_BYTES = 1 << 16
MAX_ERROR_CHARS = 2000
FIRST_FREE_FD = 3
LIBRARIES = tuple(folder for folder in sys.path if folder.endswith("lib-dynload"))  # the only compiled modules


def serve(config: dict[str, Any]) -> tuple[str, int]:
    """Run programs until the caller hangs up. Returns in children only: the program, and the line for the verdict."""
    for name in WARM:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is deaf to signals without a handler
    control = socket.socket(fileno=config["control"])
    sweeper = None if config["sweeper"] is None else socket.socket(fileno=config["sweeper"])
    if config["probe"]:
        prove_isolation(config["probe"])
    gc.collect()
    gc.freeze()  # children then copy fewer pages
    control.sendall(json.dumps({"facts": config["facts"]}).encode() + b"\n")
    while True:
        program = receive(control)
        for_child = judge(program, config, control, sweeper)
        if for_child is not None:
            return program, for_child


def prove_isolation(probe: str) -> None:
    """Try what must not work, rather than trust that the calls which set it up did what their manual says."""
    try:
        open(probe).close()
    except OSError:
        pass
    else:
        sys.exit("files outside can be read")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        pass
    else:
        sys.exit("sockets can be made")


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


def judge(program: str, config: dict[str, Any], control: socket.socket, sweeper: socket.socket | None) -> int | None:
    """Fork, watch, kill, tell the caller. In the child: returns its end of the verdict's socket pair at once."""
    ours, theirs = socket.socketpair()
    outputs = [os.pipe(), os.pipe()]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        for line in filter(None, (control, sweeper, ours)):
            line.detach()  # else their end, when these frames are left, would close numbers that mean something else
        return enter(config, theirs.detach(), [write for _, write in outputs])
    token = os.urandom(TOKEN_BYTES)
    ours.sendall(token)
    theirs.close()
    for _, write in outputs:
        os.close(write)
    streams = [outputs[0][0], outputs[1][0], ours.fileno()]
    sizes = [config["limits"]["output_kib"] << 10] * 2 + [CHUNK_BYTES]
    kept, is_late = watch(child, streams, sizes, deadline=started + config["limits"]["wall_s"], control=control)
    status = reap(child, sweeper, kill_first=is_late)
    for index, fd in enumerate(streams):
        while data := read_more(fd):
            keep(kept[index], data, sizes[index])
    for fd in streams[:2]:
        os.close(fd)
    ours.close()
    outcome = verdict(status, is_late, bytes(kept[2]), token)
    outcome |= {name: kept[i].decode("utf-8", "replace") for i, name in enumerate(("stdout", "stderr"))}
    outcome["wall_s"] = time.monotonic() - started
    is_clean = wipe(config["folder"])
    control.sendall(json.dumps(outcome | {"retire": not is_clean}).encode() + b"\n")
    return None


def watch(
    child: int, streams: list[int], sizes: list[int], *, deadline: float, control: socket.socket
) -> tuple[list[bytearray], bool]:
    """Collect what the child writes until it ends or is late; the first bytes are kept, the rest thrown away."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    for fd in (*streams, ended, control.fileno()):
        poll.register(fd, select.POLLIN)
    kept = [bytearray() for _ in streams]
    is_late = False
    while not is_late:
        left_s = deadline - time.monotonic()
        ready = [fd for fd, _ in poll.poll(max(left_s, 0) * 1000)]
        is_late = left_s <= 0
        if control.fileno() in ready:
            os._exit(0)  # nothing is due from the caller now: it has gone
        for index, fd in enumerate(streams):
            if fd in ready:
                data = read_more(fd)
                keep(kept[index], data, sizes[index])
                if not data:
                    poll.unregister(fd)
        if ended in ready:
            break
    os.close(ended)
    return kept, is_late


def keep(kept: bytearray, data: bytes, size: int) -> None:
    """Append as much as fits."""
    kept += data[: max(size - len(kept), 0)]


def read_more(fd: int) -> bytes:
    """What is there to read; nothing at the end, which a socket may tell as an error."""
    try:
        return os.read(fd, CHUNK_BYTES)
    except ConnectionResetError:
        return b""


def reap(child: int, sweeper: socket.socket | None, *, kill_first: bool) -> int:
    """The child's wait status; after this nothing that it started is alive."""
    if kill_first:
        kill_all(sweeper)
    status = os.waitpid(child, 0)[1]
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:  # orphans are this process's children now: there are some
                kill_all(sweeper)
                os.waitpid(-1, 0)
        except ChildProcessError:
            return status


def kill_all(sweeper: socket.socket | None) -> None:
    """Kill every descendant at once: all of the PID namespace, or by the launcher, which may send signals."""
    if sweeper is None:
        with contextlib.suppress(ProcessLookupError):  # there is none
            os.kill(-1, signal.SIGKILL)
        return
    sweeper.send(b"?")
    if not sweeper.recv(1):
        os._exit(0)  # the launcher has gone


def verdict(status: int, is_late: bool, said: bytes, token: bytes) -> dict[str, Any]:
    """What happened, from the kernel's word on the child's end and the token; the child's own words only explain."""
    if is_late:
        return {"status": "timeout", "error": "ran longer than its wall time"}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return {"status": "timeout", "error": "used up its CPU time"}
        return {"status": "crashed", "error": f"killed by {signal.Signals(number).name}"}
    code = os.WEXITSTATUS(status)
    if said == token and code == 0:
        return {"status": "passed", "error": None}
    try:
        kind, error = json.loads(said)
    except ValueError:
        kind, error = "failed", f"ended itself with exit status {code} before its last statement was done"
    return {"status": "memory" if kind == "memory" else "failed", "error": str(error)[:MAX_ERROR_CHARS]}


def wipe(folder: str) -> bool:
    """Empty the private folder, whatever modes and depths the program left. False: this worker must be replaced."""
    try:
        os.chmod(folder, 0o700)
        if not os.listdir(folder):
            return True
        count, prefix = 0, os.urandom(8).hex()
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                # Lift what is inside, instead of descending: paths and recursion stay short however deep it goes.
                os.chmod(entry.path, 0o700)
                for inner in list(os.scandir(entry.path)):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                    os.rename(inner.path, os.path.join(folder, f"{prefix}-{count}"))
                    count += 1
                os.rmdir(entry.path)
        return True
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return os.path.isdir(folder) and not os.listdir(folder)


# --- below: in the child only -----------------------------------------------------------------------------------------


def enter(config: dict[str, Any], channel: int, outputs: list[int]) -> int:
    """Give up what a program must not have; returns the one descriptor besides 0, 1 and 2 that stays open."""
    os.setsid()
    for number, fd in enumerate(outputs, start=1):
        os.dup2(fd, number)
    os.dup2(channel, FIRST_FREE_FD, inheritable=False)
    os.closerange(FIRST_FREE_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    folder, limits = config["folder"], config["limits"]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
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
    for stream, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, stream, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        setattr(sys, f"__{stream}__", getattr(sys, stream))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [""]
    sys.path = [path for path in sys.path if path]
    return FIRST_FREE_FD


def guard(
    event: str,
    arguments: tuple[Any, ...],
    # A default, not a name to look up and not a closure, which Python 3.13's frames could write to.
    libraries: tuple[str, ...] = LIBRARIES,
) -> None:
    """The audit hook. Only constants and their methods: a program can replace every name that this file looks up."""
    if event in {
        "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._current_frames", "sys._current_exceptions",
        "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "cpython.PyInterpreterState_New",
        "cpython.run_interactivehook", "code.__new__",
    } or "".join((event, "")).startswith("ctypes."):  # fmt: skip
        raise PermissionError("not available in the sandbox: " + event)
    if event == "import":
        # Joined to make plain strings: a subclass of str would bring its own methods along.
        name = "".join((arguments[0], "")).partition(".")[0]
        path = "" if arguments[1] is None else "".join((arguments[1], ""))
        if (
            name in {"ctypes", "_ctypes", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"}
            or "_ctypes" in path.rpartition("/")[2]
            or "_test" in path.rpartition("/")[2]
            or "interp" in path.rpartition("/")[2]
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
    kind = "memory" if isinstance(error, MemoryError) else "failed"
    if kind == "memory":
        main.__dict__.clear()  # room for the message
    try:
        text = described(error)
    except BaseException:  # its own code was asked, and failed: that it raised at all is what is left to say
        text = "raised an exception that cannot be shown"
    # The channel first: printing a traceback may take long, and this is what the caller reads.
    with contextlib.suppress(BaseException):  # the program may have closed it; then there is nobody to tell
        os.write(channel, json.dumps([kind, text[:MAX_ERROR_CHARS]]).encode())
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
