"""The embedded server dies, hangs, or is told to stop with its driver: the run costs nothing by it.

A run of the data steps, so that what is timed is the control plane and not a training. The long versions print counts
and seconds: `make faults`.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import first_home
import pytest
from conftest import MICRO, ROOT
from processes import processes_of

pytestmark = pytest.mark.slow
STEPS = ("corpus", "tokenizer", "tokens")
LIMIT_S = 240
RESULT_S = 15.0  # after the last step; promise 20
STOP_S = 10.0
REPEATS = 30
SEED = 18


@dataclass
class Ended:
    """How a run ended."""

    code: int
    since_last_step_s: float
    since_signal_s: float
    said: str


class Run:
    """`nanochat run` as somebody types it, in a session of its own."""

    def __init__(self, folder: Path, corpus: Path, *more: str) -> None:
        self.folder = folder
        sets = [*MICRO, "corpus.source=path", f"corpus.path={corpus}"]
        options = [part for value in sets for part in ("--set", value)]
        options += [part for step in STEPS for part in ("--fresh", step)]
        environment = {
            **os.environ, "NANOCHAT_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect"),
            "NANOCHAT_STORE": str(folder / "home/store"),
        }  # fmt: skip
        command = [sys.executable, "-m", "flows", "run", "tiny", "--until", STEPS[-1], *options, *more]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, bufsize=1, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run started by & is deaf to it
        )  # fmt: skip
        self.lines: list[str] = []
        self.last_step_s = self.signal_s = 0.0

    def until_made(self, step: str) -> None:
        """Read on until `step` is made."""
        for line in self._read():
            if line.startswith(step) and "made in" in line:
                return
        raise AssertionError(f"{step} was not made: {self.lines}")

    def _read(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(STEPS) and "made in" in line:
                self.last_step_s = time.monotonic()
            yield line

    def server(self, *, timeout_s: float = 60) -> int:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            for pid in pids_of_server(self.folder):
                return pid
            time.sleep(0.02)
        raise AssertionError(f"there is no server: {self.lines}")

    def hit(self, pid: int, number: int) -> None:
        self.signal_s = time.monotonic()
        os.kill(pid, number)

    def end(self) -> Ended:
        for _ in self._read():
            pass
        code = self.process.wait(LIMIT_S)
        now = time.monotonic()
        return Ended(code, now - (self.last_step_s or now), now - (self.signal_s or now), "".join(self.lines))

    def kill(self) -> None:
        for pid in (self.process.pid, *pids_of_server(self.folder)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def pids_of_server(folder: Path) -> list[int]:
    """The embedded server of a run in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                b"flows.embedded" in path.read_bytes()
                and str(folder).encode() in path.with_name("environ").read_bytes()
            ):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("server-kills")
    first_home.seed(made / "home")
    return made


def test_a_run_whose_server_was_killed_ends_with_its_result(folder: Path, small_corpus: Path) -> None:
    run = Run(folder, small_corpus)
    try:
        run.until_made("corpus")
        run.hit(run.server(), signal.SIGKILL)
        ended = run.end()
    finally:
        run.kill()
    assert ended.code == 0, ended.said
    assert "done in" in ended.said
    assert "3 made" in ended.said
    assert "Traceback" not in ended.said
    assert ended.since_last_step_s < RESULT_S * _slowness(), ended.said
    assert "Prefect's server" in ended.said
    assert processes_of(folder) == []


def test_ctrl_c_ends_a_run_whose_server_hangs(folder: Path, small_corpus: Path) -> None:
    run = Run(folder, small_corpus)
    try:
        run.until_made("corpus")
        os.kill(run.server(), signal.SIGSTOP)
        run.hit(run.process.pid, signal.SIGINT)
        ended = run.end()
    finally:
        run.kill()
    assert ended.code == 130, ended.said
    assert ended.since_signal_s < STOP_S * _slowness(), ended.said
    assert "Traceback" not in ended.said
    assert processes_of(folder) == []


def test_sigterm_to_everything_is_a_stop_that_the_server_takes_down(folder: Path, small_corpus: Path) -> None:
    run = Run(folder, small_corpus)
    try:
        run.until_made("corpus")
        os.kill(run.server(), signal.SIGTERM)
        run.hit(run.process.pid, signal.SIGTERM)
        ended = run.end()
    finally:
        run.kill()
    assert ended.code == 130, ended.said
    assert ended.since_signal_s < STOP_S * _slowness(), ended.said
    assert "Traceback" not in ended.said


def test_a_server_of_a_command_in_the_background_does_not_outlive_it(folder: Path) -> None:
    """A shell without job control starts what stands before its & with SIGINT ignored, and that is inherited."""
    code = "import flows.server as s, os; s.EmbeddedServer(s.Path(os.environ['PREFECT_HOME']), 1, s.Path(os.devnull))"
    environment = {**os.environ, "PREFECT_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; os.kill(os.getpid(), 9)"], cwd=ROOT, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5 * _slowness()
    while pids_of_server(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pids_of_server(folder) == []


def _slowness() -> float:
    """How many processes want each core: a limit in seconds is one of a machine that has time."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_servers_hit_at_random_times_cost_nothing(folder: Path, small_corpus: Path, number: int) -> None:
    results = [_hit_at(folder, small_corpus, moment, number, server=True) for moment in moments(folder, small_corpus)]
    print(_table(f"server, {signal.Signals(number).name}", results, [one.since_last_step_s for one in results]))
    assert {one.code for one in results} == {0}
    assert max(one.since_last_step_s for one in results) < RESULT_S * _slowness()


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_at_random_times_is_a_clean_stop(folder: Path, small_corpus: Path, times: int) -> None:
    wanted = moments(folder, small_corpus)
    results = [_hit_at(folder, small_corpus, moment, signal.SIGINT, server=False, times=times) for moment in wanted]
    print(_table(f"Ctrl-C, {times} times", results, [one.since_signal_s for one in results]))
    assert {one.code for one in results} <= {0, 130}  # 0: it had finished
    assert not any("Traceback" in one.said for one in results), [one.said for one in results if "Traceback" in one.said]
    assert max(one.since_signal_s for one in results) < STOP_S * _slowness()


def moments(folder: Path, corpus: Path) -> list[float]:
    """Random moments of a run, by how long one takes."""
    began = time.monotonic()
    assert Run(folder, corpus).end().code == 0
    took_s = time.monotonic() - began
    draw = random.Random(SEED)
    return sorted(draw.uniform(0, took_s) for _ in range(REPEATS))


def _hit_at(folder: Path, corpus: Path, moment: float, number: int, *, server: bool, times: int = 1) -> Ended:
    run = Run(folder, corpus)
    try:
        time.sleep(moment)
        for again in range(times):
            time.sleep(0.3 * again)
            victims = pids_of_server(folder) if server else [run.process.pid] if run.process.poll() is None else []
            for victim in victims:
                run.hit(victim, number)
        ended = run.end()
    finally:
        run.kill()
    print(f"  at {moment:5.1f} s: exit {ended.code}, {ended.since_last_step_s:5.1f} s after the last step", flush=True)
    deadline = time.monotonic() + 2 * _slowness()  # a server that its dead parent told to end is on its way
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(folder) == []
    return ended


def _table(what: str, results: list[Ended], seconds: list[float]) -> str:
    codes = {code: sum(one.code == code for one in results) for code in sorted({one.code for one in results})}
    spread = f"{min(seconds):.1f} | {statistics.median(seconds):.1f} | {max(seconds):.1f}"
    return f"\n| hit | runs | exit codes | min s | median s | max s |\n| {what} | {len(results)} | {codes} | {spread} |"
