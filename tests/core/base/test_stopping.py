"""SIGTERM, Ctrl-C, a hang-up and SIGUSR1 stop a command alike; under nohup a hang-up does not."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT

BODY = """
import sys, time
from nanochat_core.base.stopping import stop_on_signals, was_told
stop_on_signals()
try:
    print("ready", flush=True)
    for second in range({seconds}):
        time.sleep(0.1)
        print("still here", flush=True)
        print("still here", file=sys.stderr, flush=True)
except KeyboardInterrupt:
    open({where!r}, "w").write("stopped")
    sys.exit(130)
open({where!r}, "w").write("done")
"""

IN_VAIN = """
import signal, time
from nanochat_core.base.stopping import stop_on_signals
from prefect.exceptions import TerminationSignal
stop_on_signals()

def prefects(number, _frame):
    raise TerminationSignal(signal=number)

class Dropping:
    def __del__(self):
        signal.raise_signal({number})
        for _ in range(10):
            time.sleep(0)

signal.signal(signal.SIGTERM, {handler})
try:
    Dropping()
    time.sleep(60)
except (KeyboardInterrupt, TerminationSignal):
    raise SystemExit(130)
"""


def hearing():
    """Whoever runs these tests may be deaf, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def start(where, *, seconds, **options):
    command = [sys.executable, "-c", BODY.format(seconds=seconds, where=str(where))]
    options.setdefault("preexec_fn", hearing)
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_a_stop(tmp_path, number):
    child = start(tmp_path / "end", seconds=600, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.wait(60) == 130
    assert (tmp_path / "end").read_text() == "stopped"


def test_a_hang_up_that_nohup_took_away_is_none(tmp_path):
    def deaf():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    child = start(tmp_path / "end", seconds=5, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=deaf)
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGHUP)
        assert child.wait(60) == 0
    assert (tmp_path / "end").read_text() == "done"


@pytest.mark.parametrize(
    ("number", "handler"),
    [
        ("signal.SIGINT", "signal.getsignal(15)"),
        ("signal.SIGTERM", "signal.getsignal(15)"),
        ("signal.SIGTERM", "prefects"),
    ],
)
def test_a_signal_that_meets_a_destructor_is_heard(number, handler):
    body = IN_VAIN.format(number=number, handler=handler)
    done = subprocess.run(
        [sys.executable, "-c", body], cwd=ROOT, capture_output=True, text=True, preexec_fn=hearing, timeout=50
    )
    assert (done.returncode, done.stderr) == (130, "")
