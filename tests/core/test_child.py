"""A supervised child: its records, its result, and the truth about every bad end."""

import os
import signal
import sys
import time

import pytest

from nanochat_core.base.child import PreemptedError, is_stopping, run_child
from nanochat_core.base.errors import (
    ConfigError,
    CorruptError,
    HardwareError,
    MissingError,
    NanochatError,
    TrainingError,
)
from nanochat_core.base.records import failure

HEAD = """
import json, os, signal, sys, time
from pathlib import Path

from nanochat_core.base.records import RecordWriter, write_result
work = Path(sys.argv[1])
"""


def _run(work, body, on_record=lambda record: None):
    command = [sys.executable, "-c", HEAD + body, str(work)]
    return run_child(command, work, on_record=on_record, environment={})


def test_records_and_result_arrive(tmp_path):
    seen = []
    body = "w = RecordWriter(work / 'metrics.jsonl')\nfor i in range(3): w.write('step', step=i)\n"
    result = _run(tmp_path, body + "write_result(work, {'status': 'completed', 'loss': 1.5})", seen.append)
    assert result["loss"] == 1.5
    assert [record["step"] for record in seen] == [0, 1, 2]


@pytest.mark.parametrize("kind", [ConfigError, HardwareError, MissingError, CorruptError])
def test_an_error_keeps_its_kind_message_and_hint(tmp_path, kind):
    error = failure(kind("what was seen", hint="what to do"))
    with pytest.raises(NanochatError) as caught:
        _run(tmp_path, f"write_result(work, {error!r}); sys.exit(2)")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what was seen", "what to do")


@pytest.mark.parametrize(
    ("status", "kind"),
    [("preempted", PreemptedError), ("out_of_memory", HardwareError), ("non_finite", NanochatError),
     ("crashed", TrainingError)],
)  # fmt: skip
def test_every_status_has_its_error(tmp_path, status, kind):
    with pytest.raises(kind, match="the message"):
        _run(tmp_path, f"write_result(work, {{'status': {status!r}, 'message': 'the message'}}); sys.exit(3)")


def test_a_crash_shows_the_end_of_the_log(tmp_path):
    with pytest.raises(TrainingError, match="the very last words"):
        _run(tmp_path, "print('the very last words'); sys.exit(1)")


def test_a_kill_is_named(tmp_path):
    with pytest.raises(TrainingError, match="SIGKILL"):
        _run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")


def test_a_child_that_says_completed_and_then_fails_did_not_complete(tmp_path):
    with pytest.raises(TrainingError):
        _run(tmp_path, "write_result(work, {'status': 'completed'}); sys.exit(1)")


def test_the_result_of_an_earlier_attempt_is_not_taken_for_this_ones(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "completed"}')
    with pytest.raises(TrainingError):
        _run(tmp_path, "pass")


def test_a_schedulers_notice_to_all_of_a_job_does_not_end_the_child(tmp_path):
    body = "os.kill(os.getpid(), signal.SIGUSR1)\nwrite_result(work, {'status': 'completed'})"
    assert _run(tmp_path, body)["status"] == "completed"


def test_an_interrupted_supervisor_asks_the_child_to_stop_and_leaves_none_behind(tmp_path):
    body = """
w = RecordWriter(work / 'metrics.jsonl')
def stop(*_):
    (work / 'saved').write_text('yes')
    sys.exit(12)
signal.signal(signal.SIGTERM, stop)
w.write('start', pid=os.getpid())
time.sleep(60)
"""
    pids = []

    def interrupt(record):
        pids.append(record["pid"])
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, body, interrupt)
    assert time.monotonic() - started < 20
    assert (tmp_path / "saved").read_text() == "yes"
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIG_DFL)


def test_a_second_ctrl_c_does_not_wait_and_the_child_saves_all_the_same(tmp_path):
    body = """
w = RecordWriter(work / 'metrics.jsonl')
def stop(*_):
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(1)
    (work / 'saved').write_text('yes')
    sys.exit(12)
signal.signal(signal.SIGTERM, stop)
w.write('start', pid=os.getpid())
time.sleep(60)
"""

    def interrupt(record):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, body, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "saved").exists()
    for _ in range(100):
        if (tmp_path / "saved").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "saved").read_text() == "yes"


def test_a_second_request_to_stop_does_not_cut_off_the_checkpoint(tmp_path):
    """A cancel may come from two sides: the worker's and the run's own."""
    body = """
w = RecordWriter(work / 'metrics.jsonl')
def stop(*_):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.5)
    (work / 'saved').write_text('yes')
    sys.exit(12)
signal.signal(signal.SIGTERM, stop)
w.write('start', pid=os.getpid())
time.sleep(60)
"""

    def raising(*_):
        raise AssertionError("the second one was heard")

    def interrupt(record):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raising)
    try:
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, body, interrupt)
        assert signal.getsignal(signal.SIGTERM) is raising
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "saved").read_text() == "yes"
    assert not is_stopping()
