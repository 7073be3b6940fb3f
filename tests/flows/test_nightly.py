"""The nightly as a team runs it: a real server, a repository of its own, a planted regression, a webhook, a search."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import first_home
import pytest
from conftest import MICRO, ROOT
from own_repository import Repository
from prefect_team import Team

pytestmark = pytest.mark.slow
SHORT = ("pretrain.max_tokens=8192", "pretrain.validate_every_steps=none", "evaluate.bpb_tokens=2048")  # 16 steps


class Bench:
    """A server, a repository that the test may commit to, and somebody who receives."""

    def __init__(self, team: Team, repository: Repository, url: str, received: list[dict[str, str]]) -> None:
        self.team, self.repository, self.url, self.received = team, repository, url, received

    def nightly(self, *arguments: str, is_run: bool = True) -> subprocess.CompletedProcess[str]:
        sets = [*MICRO, *SHORT, "corpus.source=path", f"corpus.path={self.team.corpus}"]
        options = [part for value in sets for part in ("--set", value)] if is_run else []
        preset = ["--preset", "tiny"] if is_run else []
        command = [sys.executable, "-m", "flows.cli", "nightly", *arguments, *preset, *options]
        environment = {**self.team.environment, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        return subprocess.run(
            command, cwd=self.repository.folder, env=environment, capture_output=True, text=True, timeout=500,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def history(self) -> list[dict[str, Any]]:
        done = self.nightly("history", "--json", is_run=False)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def made(self, step: str) -> int:
        return len(list((self.team.folder / f"home/store/steps/{step}").glob("*.json")))

    def newest_run(self) -> Any:
        wanted = {"flows": {"name": {"any_": ["nightly"]}}, "sort": "START_TIME_DESC", "limit": 1}
        return self.team.api("flow_runs/filter", wanted)[0]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, deployed: Team) -> Iterator[Bench]:
    """With a home of its own: the nights that are compared are those of this file."""
    folder = tmp_path_factory.mktemp("nightly")
    received: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    team = Team(folder / "team", deployed.server, deployed.corpus)
    first_home.seed_digests(folder / "team/home")
    bench = Bench(
        team, Repository(folder / "repository"), f"http://127.0.0.1:{receiver.server_address[1]}/hook", received
    )
    yield bench
    team.stop()
    receiver.shutdown()


def test_two_nights_of_one_commit_train_each_and_share_what_comes_before(bench: Bench) -> None:
    first = bench.nightly("--seeds", "2")
    assert first.returncode == 0, first.stderr
    assert "there is no baseline yet" in first.stdout
    second = bench.nightly()
    assert second.returncode == 0, second.stderr
    nights = bench.history()
    assert [len(night["runs"]) for night in nights] == [2, 1]
    runs = [run for night in nights for run in night["runs"]]
    assert len({run["recipe"] for run in runs}) == 1, "they are replicates"
    assert len({run["seed"] for run in runs}) == len({run["fingerprint"] for run in runs}) == 3
    assert (bench.made("pretrain"), bench.made("tokenizer"), bench.made("tokens")) == (3, 1, 1)
    run = bench.newest_run()
    assert (run["state_name"], bench.team.tasks(run["id"])["tokenizer"]) == ("Completed", ["Cached"])
    keys = [artifact["key"] for artifact in bench.team.artifacts(run["id"])]
    assert (keys[0], "nightly-history" in keys) == ("nightly-verdict", True), "the verdict is the first card"


def test_a_regression_is_red_told_and_found(bench: Bench) -> None:
    done = bench.nightly("promote", is_run=False)
    assert done.returncode == 0, done.stderr
    assert "3 runs" in done.stdout
    told = bench.nightly("notify", bench.url, is_run=False)
    assert told.returncode == 0, told.stderr
    good = bench.repository.git("rev-parse", "HEAD")
    bench.repository.commit("Say why", "nanochat_core/optim/muon.py", "@torch.no_grad()\ndef muon_step", WHY)
    planted = bench.repository.commit("Simplify", "nanochat_core/optim/adamw.py", "lr=lr,", "lr=lr / 8,")
    bench.repository.commit("Say more", "nanochat_core/optim/muon.py", "# why, at length\n", "# why\n")

    red = bench.nightly()
    assert red.returncode == 5, red.stderr
    assert "is red" in red.stderr
    night = bench.history()[-1]
    assert night["state"] == "red"
    assert night["verdict"]["num_looks"] > 1, "confirming seeds were trained by themselves"
    run = bench.newest_run()
    assert run["state_name"] == "Failed"
    assert "nightly-metrics" in {artifact["key"] for artifact in bench.team.artifacts(run["id"])}
    bench.team.until(lambda: bench.received, lambda found: found, timeout_s=60)
    assert night["run_id"] in bench.received[0]["subject"]
    assert "# RED: tiny at" in bench.received[0]["body"]

    trained = bench.made("pretrain")
    (bench.repository.folder / "nanochat_core/optim/muon.py").write_text(
        "this is not Python"
    )  # the working tree does not count
    found = bench.nightly("bisect", "--good", good, "--bad", "HEAD")
    assert found.returncode == 0, found.stderr
    assert f"first bad commit: {planted}" in found.stdout
    assert re.search(rf"{good[:12]}    0% worse", found.stdout)
    assert "Say why" not in found.stdout, "what decides nothing is no change"
    assert trained < bench.made("pretrain") <= trained + 4, "the red night's own trainings prove nothing"
    again = bench.made("pretrain")
    assert bench.nightly("bisect", "--good", good, "--bad", "HEAD").returncode == 0
    assert bench.made("pretrain") == again, "what a search has trained is known to the next one"
    assert bench.repository.git("worktree", "list").count("\n") == 0, "no worktree is left"


WHY = "# why, at length\n@torch.no_grad()\ndef muon_step"


@pytest.mark.torture
def test_git_bisect_run_is_told_by_the_exit_code(tmp_path: Path, small_corpus: Path) -> None:
    """The lines of docs/nightly.md, with git's own search."""
    block = re.search(r"```sh\n(git bisect start.*?)```", (ROOT / "docs/nightly.md").read_text(), re.DOTALL)
    assert block is not None
    repository = Repository(tmp_path / "repository")
    sets = [*MICRO, *SHORT, "corpus.source=path", f"corpus.path={small_corpus}"]
    night = [sys.executable, "-m", "flows.cli", "nightly", "--no-prefect", "--preset", "tiny"]
    night += [part for value in sets for part in ("--set", value)]
    environment = {**os.environ, "NANOCHAT_HOME": str(tmp_path / "home"), "NANOCHAT_STORE": str(tmp_path / "store")}
    environment["PYTHONPATH"] = str(repository.folder)

    def done(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=repository.folder, env=environment, capture_output=True, text=True, timeout=900
        )

    assert done(*night, "--seeds", "3").returncode == 0
    assert done(*night[:4], "promote").returncode == 0
    good = repository.git("rev-parse", "HEAD")
    loop = "nanochat_core/train/loop.py"
    repository.commit("Break", loop, "import math\n", "import math\nimport nothing_of_that_name\n")
    repository.commit("Mend", loop, "import math\nimport nothing_of_that_name\n", "import math\n")
    planted = repository.commit("Simplify", "nanochat_core/optim/adamw.py", "lr=lr,", "lr=lr / 8,")
    repository.commit("Say why", "nanochat_core/optim/muon.py", "@torch.no_grad()\ndef muon_step", WHY)
    repository.git("bisect", "start", "HEAD", good)
    case = re.search(r"case .* esac", block[1])
    assert case is not None
    found = done("git", "bisect", "run", "sh", "-c", f"{shlex.join(night)}; {case[0]}")
    assert f"{planted} is the first bad commit" in found.stdout, found.stdout + found.stderr
