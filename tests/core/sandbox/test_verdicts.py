"""What an outcome says is true, also when the program would rather it said something else."""

import os
import signal
import socket

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.sandbox import Limits, Sandbox, zygote

SEARCH_OBJECTS = """
import functools, gc, os
for found in gc.get_objects():
    if isinstance(found, functools.partial) and found.func is os.write:
        os.write(*found.args)
        os._exit(0)
"""
SEARCH_FRAMES = """
import os, sys
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if isinstance(value, bytes) and len(value) == 16:
            os.write(3, value)
    frame = frame.f_back
os._exit(0)
"""
JUMP_OVER_THE_CHECK = """
import sys
def candidate():
    def jump(frame, event, argument):
        if event == "line" and frame.f_lineno == 13:
            frame.f_lineno = 14
        return jump
    sys._getframe(1).f_trace = jump
    sys.settrace(jump)
    return "wrong"
def check():
    value = candidate()
    assert value == "right"
    return None
check()
"""
FORGERIES = {
    "exits 0": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "exits in a comparison": "class A:\n def __eq__(self, other): raise SystemExit(0)\nassert A() == 1",
    "prints what might be a marker": "print('passed', 'PASSED', '\"status\": \"passed\"'); assert False",
    "echoes every descriptor": (
        "import os\nfor fd in range(3, 64):\n try:\n  os.set_blocking(fd, False)\n"
        "  os.write(fd, os.read(fd, 64) or b'x')\n except OSError: pass\nos._exit(0)"
    ),
    "writes a guess": "import os; os.write(3, b'0' * 16); os._exit(0)",
    "writes a message": "import os; os.write(3, b'[\"passed\", null]'); os._exit(0)",
    "searches the frames": SEARCH_FRAMES,
    "searches the objects": SEARCH_OBJECTS,
    "jumps over the check": JUMP_OVER_THE_CHECK,
    "loads ctypes": "import ctypes",
    "loads ctypes by a false name": (
        "class Name(str):\n def partition(self, sep): return ('math', '', '')\n__import__(Name('_ctypes'))\n"
    ),
    "loads ctypes from its file": (
        "import importlib.machinery as m, importlib.util as u, glob, sys\n"
        "path = [p for d in sys.path for p in glob.glob(d + '/_ctypes*.so')][0]\n"
        "u.module_from_spec(u.spec_from_file_location('math', path, loader=m.ExtensionFileLoader('math', path)))"
    ),
    "loads a copy of ctypes": (
        "import importlib.machinery as m, importlib.util as u, glob, os, shutil, sys\n"
        "path = [p for d in sys.path for p in glob.glob(d + '/_ctypes*.so')][0]\n"
        "os.mkdir('lib-dynload')\nshutil.copy(path, 'lib-dynload/math.so')\n"
        "path = os.path.abspath('lib-dynload/math.so')\n"
        "u.module_from_spec(u.spec_from_file_location('math', path, loader=m.ExtensionFileLoader('math', path)))"
    ),
    "starts an interpreter without hooks": "import _xxsubinterpreters",
    "becomes another program": "import os, sys; os.execv(sys.executable, ['python', '-S', '-c', 'pass'])",
    "replaces the harness": (
        "import builtins, os, sys\nnames = sys._getframe(1).f_globals\n"
        "names['tell'] = lambda *a: os.write(3, b'0' * 16)\nos._exit = lambda code: None\n"
        "builtins.BaseException = builtins.ValueError\nassert False"
    ),
    "exits from a thread": "import os, threading\nt = threading.Thread(target=os._exit, args=[0])\nt.start()\nt.join()",
    "leaves the end to a child": "import os, time\nif os.fork() == 0: os._exit(0)\nos.wait(); os._exit(0)",
    "closes all descriptors": "import os; os.closerange(0, 4096); assert False",
    "is no Python": "def f(:",
    "holds a NUL": "x = 1\0",
    "holds half a character": "x = '\ud800'; assert False",
    "raises what cannot be printed": "class E(Exception):\n def __str__(self): raise SystemExit(0)\nraise E",
}


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_a_program_cannot_pretend_to_have_passed(run, program: str) -> None:
    outcome = run(program)
    assert outcome.status == "failed", outcome
    assert outcome.error
    if "ctypes" in program:
        assert outcome.error.startswith("ImportError: not available in the sandbox"), outcome


def test_the_search_for_the_token_would_succeed_without_the_guard() -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        # The token goes where a socket pair's end has the number that the program cannot know but can find.
        zygote.run_program(SEARCH_OBJECTS + "\nassert False", theirs.detach(), os._exit)
    token = os.urandom(16)
    ours.sendall(token)
    status = os.waitpid(child, 0)[1]
    assert (status, ours.recv(100)) == (0, token)


def test_a_program_that_ends_has_passed_and_what_it_printed_comes_back(run) -> None:
    outcome = run("import sys\nprint('ä €')\nprint('no', file=sys.stderr)\nif __name__ == '__main__': print('main')")
    assert (outcome.status, outcome.stdout, outcome.stderr, outcome.error) == ("passed", "ä €\nmain\n", "no\n", None)


def test_a_failure_names_the_exception_and_the_line(run) -> None:
    outcome = run("x = 1\ndef f():\n    assert x == 2, 'x is not 2'\nf()")
    assert (outcome.status, outcome.error) == ("failed", "AssertionError: x is not 2 (line 3)")
    assert 'File "<program>", line 3, in f' in outcome.stderr


def test_an_exception_that_cannot_be_shown_is_still_said_to_be_one(run) -> None:
    outcome = run("class E(Exception):\n def __str__(self): raise SystemExit(0)\nraise E")
    assert (outcome.status, outcome.error) == ("failed", "raised an exception that cannot be shown")


def test_any_output_can_be_read(run) -> None:
    outcome = run("import sys, os\nprint('\\ud800 \\U0001f600', flush=True)\nos.write(1, bytes(range(128, 256)))")
    assert outcome.status == "passed"
    assert outcome.stdout.startswith("\\ud800 \U0001f600\n")
    outcome.stdout.encode()


SAID = {
    "a number": b"0", "null": b"null", "three": b"[1,2,3]", "deep": b"[" * 60000,
    "deep and closed": b"[" * 9000 + b"]" * 9000, "not UTF-8": b"\xff\xfe", "a pair": b'["passed", "x"]',
    "zeros": bytes(16), "more than a token": bytes(17),
    "half a character": b'["failed", "\\ud800"]', "a long number": b"9" * 60000, "not a number": b"[NaN, Infinity]",
    "a failure": b"f\xff", "a failure without a word": b"f", "the other letter": b"m", "controls": b"f\x1b[2J\0",
}  # fmt: skip


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_whatever_is_said_on_the_verdicts_line_ends_the_program_and_not_the_worker(
    sandbox: Sandbox, said: bytes, code: int
) -> None:
    worker = sandbox._idle.queue[0]
    outcome = sandbox.run(f"import os; os.write(3, {said!r}); os._exit({code})")
    assert outcome.status == ("memory" if said[:1] == b"m" else "failed"), outcome
    outcome.error.encode()
    assert sandbox._idle.queue[0] is worker
    assert worker.is_usable


def test_a_line_filled_to_the_brim_and_one_that_is_cut_are_failures(run) -> None:
    fill = "import os\nos.set_blocking(3, False)\nwhile True:\n try: os.write(3, b'a' * 4096)\n"
    assert run(fill + " except BlockingIOError: os._exit(0)").status == "failed"
    assert run("import socket\nsocket.socket(fileno=3).shutdown(2)").status == "failed"


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGRTMIN, signal.SIGRTMIN + 3, signal.SIGRTMAX, signal.SIGSTKFLT]
)
def test_an_end_by_any_signal_is_a_crash_that_is_named(number: int) -> None:
    outcome = zygote.verdict(number, b"", b"")
    assert outcome["status"] == "crashed"
    assert outcome["error"].startswith(("killed by SIG", f"killed by signal {int(number)}"))


def test_signals_that_kill_are_crashes(run) -> None:
    assert run("import faulthandler; faulthandler._read_null()").status == "crashed"
    deep = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x=0): return sorted([0], key=f)\nf()"
    assert run(deep).status in ("crashed", "memory", "failed")  # Python 3.12 raises RecursionError instead
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").status in ("crashed", "failed")


def test_programs_of_one_worker_see_nothing_of_each_other(run) -> None:
    first = "import math, os, sys\nmath.pi = 3\nsys.modules['left'] = math\nopen('left', 'w').write('x')\n"
    hidden = "os.mkdir('d'); open('d/f', 'w')\nfor _ in range(300): os.mkdir('e'); os.chdir('e')\n"
    assert run(first + hidden).status == "passed"
    seen = run("import math, os, sys\nprint(math.pi > 3, 'left' in sys.modules, os.listdir('.'))")
    assert seen.stdout == "True False []\n"


def test_hashes_are_the_same_in_every_worker() -> None:
    with Sandbox(Limits(), num_workers=2) as one:
        outcomes = one.run_many(["print(hash('a'), list({'x', 'y', 'z'}))\nimport time; time.sleep(0.3)"] * 2)
    assert outcomes[0].stdout == outcomes[1].stdout


def test_a_closed_sandbox_says_so() -> None:
    with pytest.raises(ConfigError, match="not open"):
        Sandbox().run("pass")
