"""Secrets planted wherever one can be typed, and looked for in every byte that is left: home, store, logs, database."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import MICRO, ROOT
from planted import LOW, MARK, PLANTED, WORD
from prefect_team import Team

pytestmark = pytest.mark.slow
ENVIRONMENT = {"HF_TOKEN": f"hf_{MARK}{MARK[:14]}", "AWS_SECRET_ACCESS_KEY": f"{MARK}/{MARK[:19]}", "MY_TOKEN": LOW}


def marked(folder: Path) -> list[str]:
    """Files below `folder` that hold the mark of a planted secret, with what stands there."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and (seen := WORD.search(path.read_bytes().decode("latin-1"))):
            found.append(f"{path.relative_to(folder)}: {seen[0]}")
    return found


class Echo(BaseHTTPRequestHandler):
    """A server that fails and says what it knows: the address, every header, every planted secret."""

    def do_GET(self) -> None:
        told = f"{self.path} {dict(self.headers)} " + " ".join(each.replace("\n", " ") for each in PLANTED.values())
        self.send_response(403)
        self.send_header("X-Error-Message", told)
        self.end_headers()
        self.wfile.write(told.encode())

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_server_refuses_every_shape_in_a_form(team: Team) -> None:
    """Before it is kept: Prefect's API checks a run's parameters by the schema that `deploy` registered."""
    taken = []
    for number, (name, secret) in enumerate(PLANTED.items()):
        forms = (
            {"overrides": [f"core.url={secret}"]},
            {"settings": {"corpus_path": secret}},
            {"settings": {"corpus_dataset": f"  {secret}  "}},
        )
        parameters = forms[number % len(forms)]
        with contextlib.suppress(urllib.error.HTTPError):
            taken.append((name, *parameters, team.start(**parameters)))
    assert taken == []
    team.start(
        overrides=["corpus.path=/data/lang=en/tokens", "corpus.revision=" + "9f86d081884c7d65" * 2], until="corpus"
    )
    assert marked(team.folder) == []


CALLS = """
import json, sys
from flows.miniseries import miniseries
from flows.speedrun import speedrun
for secret in json.loads(sys.argv[1]):
    for flow, parameters in (
        (speedrun, {"overrides": [f"core.url={secret}", "core.url=https://host/x.zip"]}),
        (speedrun, {"settings": {"corpus_pth": secret}}),
        (miniseries, {"preset": f"/tmp/{secret}.toml"}),
    ):
        state = flow(**parameters, return_state=True)
        assert state.is_failed(), state
"""


def test_what_a_call_from_python_gives_a_flow_is_not_kept(team: Team) -> None:
    """Parameters, the error of one that does not fit, the log of the failure: in the database and on the terminal."""
    some = [PLANTED[name] for name in ("a password in an address", "AWS signature")]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(some)], cwd=ROOT, env=team.environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "core.url holds an address with a password" in done.stderr
    assert WORD.findall(done.stdout + done.stderr) == []
    assert marked(team.folder) == []


def test_what_a_failing_server_says_is_told_without_secrets(team: Team, echo: str) -> None:
    """An HTTP mirror and an S3 server that repeat keys, headers and addresses, with secrets in the environment."""
    team.machine = {**ENVIRONMENT, "AWS_ACCESS_KEY_ID": "AKIA" + "IOSFODNN7EXAMPL"}
    sets = [f"--set=corpus.dataset={echo}/d", "--set=corpus.source=hub", *(f"--set={value}" for value in MICRO)]
    tries = [["run", "tiny", "--yes", *sets, "--until", "corpus"]]
    tries += [["--debug", "run", "tiny", "--yes", "--no-prefect", *sets, "--until", "corpus"]]
    told = ""
    for arguments in tries:
        done = team.nanochat(*arguments)
        assert done.returncode == 3, done.stderr[-2000:]
        told += done.stdout + done.stderr
    team.machine |= {"AWS_ENDPOINT_URL": f"{echo.replace('://', f'://me:{MARK}@')}", "NANOCHAT_STORE": "s3://bucket/x"}
    for arguments in (["doctor"], ["--debug", "runs", "list"]):
        done = team.nanochat(*arguments)
        told += done.stdout + done.stderr
    team.machine = {}
    assert "was refused: 403" in told
    assert "***" in told
    assert WORD.findall(told) == []
    assert marked(team.folder) == []


@pytest.mark.torture
def test_nothing_of_a_whole_run_and_its_bundle_holds_a_secret(team: Team, tmp_path: Path) -> None:
    """A checkout with secrets in its uncommitted changes, in the environment and in a description."""
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    for name in ("README.md", "nanochat_core/units_of_mine.py"):
        path = checkout / name
        path.write_text(
            "".join(f"# {each}\n" for each in PLANTED.values()) + (path.read_text() if path.exists() else "")
        )
    subprocess.run(["git", "add", "-N", "nanochat_core/units_of_mine.py"], cwd=checkout, check=True)
    environment = {**team.environment, **ENVIRONMENT}
    sets = [*MICRO, "pretrain.max_tokens=5120", "corpus.source=path", f"corpus.path={team.corpus}"]
    out = team.folder / "record"
    for arguments in (
        ["run", "tiny", "--yes", *(f"--set={value}" for value in sets)],
        ["bundle", "latest", "--out", str(out), "--description", " ".join(PLANTED.values())],
        ["verify", str(out)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments], cwd=checkout, env=environment, capture_output=True,
            text=True, timeout=500, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert WORD.findall(done.stdout + done.stderr) == []
    [patch] = out.rglob("source.patch")
    assert patch.read_text().count("***") > len(PLANTED)
    assert marked(team.folder) == []
    shutil.rmtree(out)
