"""Time, memory, processes, files and output are limited, and nothing outlives its program, its worker or the caller."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from nanochat_core.sandbox import Limits, Sandbox

ROOT = Path(__file__).resolve().parents[3]
FORK_BOMB = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        time.sleep(300)
    os._exit(0)
os.wait()
"""


def processes_below(caller: int) -> set[int]:
    """What a caller's sandboxes run: all below its zygotes, which are the children of its children."""
    found: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for launcher in psutil.Process(caller).children():
            for zygote in launcher.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= {one.pid for one in zygote.children(recursive=True)}
    return found


def wait_for(condition, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


STUBBORN = "import signal, sys\nfor n in set(signal.Signals) - {9, 19}:\n signal.signal(n, lambda *a: None)\n"


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(1000)",
        STUBBORN + "while True:\n try:\n  while True: sys.exit()\n except BaseException: pass",
        FORK_BOMB,
    ],
    ids=["sleeps", "catches everything", "fork bomb"],
)
def test_what_does_not_end_is_ended(hasty: Sandbox, program: str) -> None:
    outcome = hasty.run(program)
    assert outcome.status in ("timeout", "crashed")  # crashed: a caught SIGXCPU, then the hard limit's SIGKILL
    assert outcome.wall_s < hasty.limits.wall_s + 5
    assert hasty.run("pass").has_passed


def test_a_busy_loop_ends_at_its_cpu_limit(sandbox: Sandbox) -> None:
    limits = Limits(wall_s=20, cpu_s=1)
    with Sandbox(limits, num_workers=1, modes=[sandbox.capabilities()["isolation"]]) as one:
        outcome = one.run("while True: pass")
    assert (outcome.status, outcome.error) == ("timeout", "used up its CPU time")
    assert outcome.wall_s < 15


def test_forks_are_counted(run) -> None:
    attack = "import os, time\nn = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(60)\n  n += 1\n"
    outcome = run(attack + "except OSError: print(n)")
    assert outcome.status == "passed"
    assert 1 <= int(outcome.stdout) <= Limits().num_processes + 50  # unprivileged Landlock has slack for the user


@pytest.mark.parametrize("program", ["bytearray(1 << 30)", "x = [0]\nwhile True: x += x"])
def test_memory_is_limited(run, program: str) -> None:
    assert run(program).status == "memory"


def test_a_file_cannot_grow_past_its_limit(run) -> None:
    attack = "n = 0\ntry:\n with open('f', 'wb', 0) as f:\n  for _ in range(1024): n += f.write(bytes(1 << 20))\n"
    outcome = run(attack + "except OSError as error: print(n >> 20)")
    assert outcome.stdout == f"{Limits().file_mib}\n"


@pytest.mark.parametrize(
    "program",
    [
        "for i in range(4000): open(f'{i}', 'wb', 0).write(bytes(1 << 20))",
        "import os\nopen_ones = []\nfor i in range(40):\n"
        " open_ones.append(open('f', 'wb', 0)); os.unlink('f'); open_ones[-1].write(bytes(1 << 20))",
        "for i in range(10**5): open(f'{i}', 'w')",
    ],
    ids=["many files", "files without a name", "empty files"],
)
def test_the_private_folder_has_a_size(run, program: str) -> None:
    outcome = run(program + "\nimport time; time.sleep(9)")
    assert outcome.status == "failed"
    assert "Errno 28" in outcome.error or outcome.error.startswith("its files took more room"), outcome.error


def test_room_is_taken_by_writing_and_in_no_other_way(run) -> None:
    """A gigabyte can be reserved in less time than there is between two looks at the folder's size."""
    outcome = run("import os\nos.posix_fallocate(os.open('f', os.O_RDWR | os.O_CREAT), 0, 1 << 20)")
    assert (outcome.status, outcome.error) == ("failed", "PermissionError: [Errno 1] Operation not permitted (line 2)")


def test_a_gigabyte_of_output_is_cut(hasty: Sandbox) -> None:
    outcome = hasty.run(
        "import os\nchunk = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, chunk); os.write(2, chunk)"
    )
    assert outcome.status in ("passed", "timeout")
    assert {len(outcome.stdout), len(outcome.stderr)} == {Limits().output_kib << 10}


def test_a_daemon_does_not_outlive_its_program(sandbox: Sandbox) -> None:
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(DAEMON + "time.sleep(0.7)")))
    thread.start()
    assert wait_for(lambda: len(processes_below(os.getpid())) >= 2), "the program and its daemon did run"
    thread.join()
    assert outcomes[0].status == "passed"
    assert processes_below(os.getpid()) == set()


def test_bombs_do_not_harm_their_neighbours() -> None:
    bombs = [FORK_BOMB, "bytearray(1 << 30)", "import os; os.kill(-1, 9)", "import os; os._exit(0)", "while True: pass"]
    programs = [f"assert sum(range({i})) == {i * (i - 1) // 2}\nprint({i})" for i in range(200)]
    for place, bomb in enumerate(bombs):
        programs[20 + 35 * place] = bomb
    steps = []
    with Sandbox(Limits(wall_s=4.0, cpu_s=1), num_workers=2) as one:
        outcomes = one.run_many(programs, lambda done, total: steps.append((done, total)))
    for i, (program, outcome) in enumerate(zip(programs, outcomes, strict=True)):
        if program not in bombs:
            assert (outcome.status, outcome.stdout) == ("passed", f"{i}\n")
    assert [outcomes[20].status, outcomes[55].status, outcomes[125].status] == ["timeout", "memory", "failed"]
    assert steps == [(i, 200) for i in range(1, 201)]


@pytest.mark.parametrize(("num_kills", "status"), [(1, "passed"), (2, "crashed")])
def test_a_program_whose_worker_is_lost_runs_once_more_and_no_more(num_kills: int, status: str) -> None:
    with Sandbox(Limits(wall_s=5.0), num_workers=1) as one:
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(one.run("import time; time.sleep(3)")))
        thread.start()
        for _ in range(num_kills):
            os.kill(busy_launcher("5.0"), signal.SIGKILL)
        thread.join()
        assert outcomes[0].status == status
        assert one.run("pass").has_passed


def busy_launcher(wall_s: str) -> int:
    """The launcher whose zygote has forked a program; one that is still starting has none to lose."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for launcher in launchers_of(os.getpid(), wall_s):
            with contextlib.suppress(psutil.NoSuchProcess):
                if len(psutil.Process(launcher).children(recursive=True)) > 1:
                    return launcher
        time.sleep(0.02)
    raise AssertionError("no program runs")


def launchers_of(parent: int, wall_s: str) -> list[int]:
    """The launchers below a process whose programs have this wall time."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if ours and f'"wall_s": {wall_s}'.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_nothing_is_left_in_the_temporary_folder(
    sandbox: Sandbox, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    with Sandbox(num_workers=1, modes=[sandbox.capabilities()["isolation"]]) as one:
        assert one.run("open('left', 'w').write('x')").has_passed
        assert list(open_folder.iterdir())
    assert list(open_folder.iterdir()) == []


@pytest.mark.slow
def test_nothing_survives_the_callers_sudden_death(sandbox: Sandbox) -> None:
    mode = sandbox.capabilities()["isolation"]
    program = DAEMON + "time.sleep(1000)"
    caller = (
        "import os, sys, time\nfrom nanochat_core.sandbox import Limits, Sandbox\n"
        f"with Sandbox(Limits(wall_s=1000), num_workers=1, modes=[{mode!r}]) as one:\n"
        " if os.fork() == 0:  # a copy of the caller's descriptors does not keep it alive\n"
        "  time.sleep(20); os._exit(0)\n one.run(sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", caller, program],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        start_new_session=True,
    ) as process:
        assert wait_for(lambda: len(processes_below(process.pid)) >= 2), "the program and its daemon did run"
        inside = processes_below(process.pid)
        process.kill()
        process.wait()
        assert wait_for(lambda: not any(map(psutil.pid_exists, inside)), 5)
        os.killpg(process.pid, signal.SIGKILL)
