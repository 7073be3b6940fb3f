"""`nanochat curves`: each run by its name, what trains now as well, and nobody else's guess opens the page."""

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from nanochat_core import workspace
from nanochat_core.base import locks
from nanochat_core.cli import curves
from nanochat_core.cli.app import app
from nanochat_core.train.tensorboard import TensorBoardLog

LOG = "log/tensorboard"


def draw(folder):
    log = TensorBoardLog(folder)
    for step in (1, 2):
        log.add({"event": "step", "time_s": 1e9 + step, "step": step, "loss": 3.0 / step})
    log.close()


@pytest.fixture
def publish(tmp_path):
    def publish(step, fingerprint, *, has_log=True):
        out = tmp_path / "made" / fingerprint
        draw(out / LOG) if has_log else out.mkdir(parents=True)
        (out / "result.txt").write_text(fingerprint)
        nothing = {"config": {}, "inputs": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}}
        return workspace.current().store.publish(out, step=step, fingerprint=fingerprint, **nothing)

    return publish


def record(run_id, *steps):
    lines = [{"step": step, "fingerprint": fingerprint} for step, fingerprint in steps]
    workspace.current().store.put_run(run_id, {"steps": lines})


def runs_of(url):
    """What TensorBoard itself says that it has."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}data/runs", timeout=10) as answer:
            if found := json.load(answer):
                return found
        time.sleep(0.1)
    raise AssertionError("TensorBoard found nothing")


def test_runs_are_shown_by_their_names_and_a_training_while_it_runs(publish, tmp_path):
    space = workspace.current()
    for step, fingerprint in (("pretrain", "a1"), ("pretrain", "a2"), ("sft", "b1")):
        publish(step, fingerprint)
    publish("tokens", "c1", has_log=False)
    record("tiny-1", ("tokens", "c1"), ("pretrain", "a1"), ("sft", "b1"))
    record("miniseries-1", ("pretrain", "a1"), ("pretrain", "a2"))
    work = space.work("rl", "d" * 16)
    for attempt in ("attempt-000001", "attempt-000002"):
        draw(work / attempt / "tensorboard")
    lock = space.home / "locks" / work.name
    lock.parent.mkdir()
    shown = curves.Shown(space, tmp_path / "shown")
    shown.folder.mkdir()
    shown.add_run("tiny-1")
    shown.add_run("miniseries-1")
    shown.look()
    expected = ["miniseries-1/pretrain-a1", "miniseries-1/pretrain-a2", "tiny-1/pretrain", "tiny-1/sft"]
    with lock.open("w") as file:
        assert not (shown.folder / curves.RUNNING).exists(), "nobody is at it"
        locks.share(file, lock)
        shown.look()
        assert (shown.folder / "running/rl-dddddddd").readlink() == work / "attempt-000002/tensorboard"
        url = curves._launch(shown.folder, 0)
        assert sorted(runs_of(url)) == sorted([*expected, "running/rl-dddddddd"])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{url.split(':')[2].split('/')[0]}/data/runs", timeout=10)
    shutil.rmtree(work)
    publish("rl", "d" * 16)
    shown.look()
    assert any((shown.folder / "running/rl-dddddddd").glob("events*")), "what is done is in the store"


def test_the_verb_prints_an_address_and_clears_up_when_it_is_stopped(publish, monkeypatch):
    def stop(_seconds):
        raise KeyboardInterrupt

    publish("pretrain", "a1")
    record("tiny-20261130-101010-aaaa", ("pretrain", "a1"))
    folders = []
    launch = curves._launch
    monkeypatch.setattr(curves, "_launch", lambda folder, port: (folders.append(folder), launch(folder, port))[1])
    monkeypatch.setattr(curves, "stop_on_signals", lambda: None)
    monkeypatch.setattr(curves, "time", SimpleNamespace(sleep=stop))
    result = CliRunner().invoke(app, ["curves", "--port", "0"])
    assert result.exit_code == 130
    assert result.stdout.startswith("http://127.0.0.1:")
    assert not folders[0].exists()


def test_what_is_not_there_is_said(publish, monkeypatch):
    monkeypatch.setattr(curves, "stop_on_signals", lambda: None)

    def told(*arguments):
        result = CliRunner().invoke(app, ["curves", *map(str, arguments)])
        assert result.stdout == ""
        return result.exit_code, result.stderr

    assert told()[0] == 3
    assert "nothing trains here" in told()[1]
    publish("tokens", "c1", has_log=False)
    record("tiny-1", ("tokens", "c1"))
    assert "no curves of tiny-1" in told("tiny-1")[1]
    assert told("nobody")[0] == 3
    publish("pretrain", "a1")
    record("tiny-2", ("pretrain", "a1"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = told("tiny-2", "--port", taken.getsockname()[1])
    assert code == 2
    assert "--port" in said
