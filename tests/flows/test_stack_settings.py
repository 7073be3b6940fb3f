"""How later verbs find a running stack, what they leave alone, and that nothing is signalled that is not ours."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

from flows import stack as settings
from flows import stack_release
from flows.stack import Stack, adopt, load, new_stack, save
from flows.stack_process import Part, State, children_of, pid_of, start_all, state_of, stop
from flows.stack_worker import drain
from nanochat_core.base.errors import ConfigError, CorruptError, HardwareError, NanochatError
from nanochat_core.store.holder import Holder

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def stack(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A saved stack with a store of its own."""
    monkeypatch.delenv("NANOCHAT_STORE")
    folder = tmp_path / "stack"
    for name in ("logs", "pids"):
        (folder / name).mkdir(parents=True)
    made = new_stack(folder, database="sqlite", store="seaweedfs", user=None, port=None)
    save(made)
    return made


@pytest.fixture
def server(stack: Stack) -> Part:
    """Something that runs under the name of the server."""
    part = Part(name="server", command=SLEEP, is_ready=lambda: True)
    start_all(stack.path, [part], lambda _: None)
    return part


def test_a_saved_stack_is_read_back_and_its_secrets_are_for_its_owner_only(stack: Stack) -> None:
    assert load(stack.path) == stack
    for name in ("stack.json", "env"):
        assert (stack.path / name).stat().st_mode & 0o777 == 0o600
    command = ["sh", "-c", f". {stack.path}/env && env"]
    shown = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True).stdout
    for name, value in stack.exports.items():
        assert f"{name}={value}" in shown.splitlines()


def test_two_stacks_share_no_secret(tmp_path: Path) -> None:
    made = [new_stack(tmp_path, database="sqlite", store="seaweedfs", user=None, port=None) for _ in range(2)]
    assert made[0].store_secret != made[1].store_secret
    assert made[0].database_password != made[1].database_password


def test_a_file_that_was_cut_short_is_refused(stack: Stack) -> None:
    (stack.path / "stack.json").write_text((stack.path / "stack.json").read_text()[:40])
    with pytest.raises(CorruptError):
        load(stack.path)


def test_later_verbs_find_the_running_stack(stack: Stack, server: Part) -> None:
    environment: dict[str, str] = {}
    adopt(environment)
    assert environment == {name: value for name, value in stack.exports.items() if name != settings.FOLDER_VARIABLE}
    stop(stack.path, server)


def test_what_the_environment_says_itself_is_left_alone(stack: Stack, server: Part) -> None:
    given = {"PREFECT_API_URL": "http://elsewhere/api", "NANOCHAT_STORE": "s3://mine", "AWS_ACCESS_KEY_ID": "mine"}
    environment = dict(given)
    adopt(environment)
    assert environment == given
    stop(stack.path, server)


def test_after_down_verbs_use_what_they_used_before(stack: Stack, server: Part) -> None:
    stop(stack.path, server)
    environment: dict[str, str] = {}
    adopt(environment)
    assert environment == {}


def test_after_a_crash_the_store_is_kept_and_somebody_is_told(
    stack: Stack, server: Part, capsys: pytest.CaptureFixture[str]
) -> None:
    """Artifacts that went to another place without a word would be looked for in vain."""
    pid = pid_of(stack.path, "server")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    environment: dict[str, str] = {}
    adopt(environment)
    assert environment == stack.store_exports
    assert "nanochat up --local" in capsys.readouterr().err


def test_a_number_that_was_used_again_is_not_taken_for_ours(stack: Stack, server: Part) -> None:
    """Our own number with another start time: stopping it would end these tests."""
    stop(stack.path, server)
    ours = replace(Holder.current(), started=1)
    (stack.path / "pids/server.json").write_text(json.dumps(asdict(ours)))
    assert state_of(stack.path, "server") is State.DEAD
    assert stop(stack.path, server) is False


def test_a_part_that_ends_at_once_is_reported_with_its_last_words(stack: Stack) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such disk')"]
    part = Part(name="store", command=command, is_ready=lambda: False)
    with pytest.raises(NanochatError, match="no such disk"):
        start_all(stack.path, [part], lambda _: None)


def test_what_does_not_stop_politely_is_killed(stack: Stack) -> None:
    marks = stack.path / "ready"
    stubborn = "import pathlib, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(600)"
    command = [sys.executable, "-c", stubborn, str(marks)]
    part = Part(name="store", command=command, is_ready=marks.exists, stop_s=0.5)
    start_all(stack.path, [part], lambda _: None)
    assert stop(stack.path, part) is True
    assert pid_of(stack.path, "store") is None


def test_ports_are_free_ones_in_a_row_and_a_taken_wish_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = (
            new_stack(tmp_path, database="sqlite", store="seaweedfs", user=None, port=port - 1) if port > 1024 else None
        )
        assert made is None or (port not in made.ports and len(set(made.ports)) == len(made.ports))
        with pytest.raises(HardwareError, match=str(port)):
            new_stack(tmp_path, database="sqlite", store="seaweedfs", user=None, port=port)


def test_one_up_at_a_time(stack: Stack) -> None:
    with settings.locked(stack.path), pytest.raises(ConfigError), settings.locked(stack.path):
        pass


def test_a_worker_is_held_while_its_runs_save_and_takes_no_new_one(tmp_path: Path) -> None:
    """The run ends by itself after a signal; a worker that was not held would start another one meanwhile."""
    run = "import pathlib, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
    run += "pathlib.Path(sys.argv[1], 'began').touch()\ntry: time.sleep(600)\n"
    run += "finally: time.sleep(1); pathlib.Path(sys.argv[1], 'saved').touch()"
    worker = (
        "import pathlib, subprocess, sys, time\nstart = lambda: subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]"
    )
    worker += ", start_new_session=True)\nchild = start()\nwhile True:\n time.sleep(.1)\n"
    worker += " if child.poll() is not None: pathlib.Path(sys.argv[2], 'took another').touch()"
    process = subprocess.Popen([sys.executable, "-c", worker, run, str(tmp_path)])
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    [engine] = children_of(process.pid)
    drain(process, grace_s=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["began", "saved"]
    assert process.returncode == -signal.SIGTERM
    assert not Path(f"/proc/{engine}/cmdline").exists() or not Path(f"/proc/{engine}/cmdline").read_bytes()


def test_a_database_of_another_prefect_is_copied_before_a_server_opens_it(stack: Stack) -> None:
    database = stack.path / "prefect.db"
    with contextlib.closing(sqlite3.connect(database)) as written:
        written.execute("create table flow_run (id text)")
        written.execute("insert into flow_run values ('one')")
        written.commit()
        assert stack_release.started_by(stack.path) == stack_release.release(), "a first start is no upgrade"
        stack_release.keep_copy(stack, None, database=database)
        assert not (stack.path / "copies").exists()
        (stack.path / "logs/server.log").touch()
        assert stack_release.started_by(stack.path)["prefect"] == "unknown", "of before releases were remembered"
        stack_release.keep_copy(stack, None, database=database)
    [copy] = (stack.path / "copies").iterdir()
    with contextlib.closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("select id from flow_run").fetchall() == [("one",)]
    stack_release.remember(stack.path)
    stack_release.keep_copy(stack, None, database=database)
    assert list((stack.path / "copies").iterdir()) == [copy]
    (stack.path / "release.json").write_text('{"prefect": "3.8.8"}')
    with pytest.raises(NanochatError, match="no copy of the database"):
        stack_release.keep_copy(
            stack, lambda _: subprocess.run(["false"], capture_output=True, text=True), database=database
        )


def test_a_stack_whose_store_only_an_earlier_version_runs_is_refused_and_still_found(
    stack: Stack, server: Part
) -> None:
    held = json.loads((stack.path / "stack.json").read_text())
    (stack.path / "stack.json").write_text(json.dumps({**held, "store": "swift", "ports": held["ports"][:6]}))
    environment: dict[str, str] = {}
    adopt(environment)
    assert environment["AWS_ENDPOINT_URL"] == stack.store_endpoint, "what runs of it is used, and not Amazon"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "up", "--local", "--folder", str(stack.path)], cwd=ROOT,
        env={**os.environ, "NANOCHAT_HOME": str(stack.path.parent / "home")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "has its store in swift, which an earlier version ran" in done.stderr
