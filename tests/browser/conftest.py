"""A team's server as `nanochat up --local` starts it, with the speedrun registered, and a browser to look at it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.prefect_page import PrefectPage
from conftest import ROOT

playwright_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
SHOTS = "NANOCHAT_UI_SHOTS"  # a folder for the pictures; docs/images renews those of docs/team.md
SIZE = {"width": 1280, "height": 860}


class Server:
    """The stack of one folder, which PostgreSQL's user may enter (pytest's own it may not)."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        hidden = ("PREFECT_", "NANOCHAT_", "AWS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        own = {"NANOCHAT_HOME": str(folder / "home"), "PREFECT_WORKER_QUERY_SECONDS": "1", "OMP_NUM_THREADS": "1"}
        self.environment = kept | own | {"DO_NOT_TRACK": "1"}

    @property
    def auth(self) -> str:
        """What `up` wrote down for the owner."""
        lines = (self.folder / "stack/env").read_text().splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)["PREFECT_API_AUTH_STRING"]

    def nanochat(self, *arguments: str, cwd: Path = ROOT) -> str:
        """What a verb of the checkout `cwd` says when it works."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=500,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self, marker: str = "") -> list[int]:
        """Whatever of this stack lives and has `marker` in its command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                if str(self.folder).encode() in command + (path / "environ").read_bytes() and marker in str(command):
                    found.append(int(path.name))
        return found

    def kill(self, marker: str = "") -> int:
        """Returns how many there were."""
        found = self.processes(marker)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)


@pytest.fixture(scope="module")
def server(small_corpus: Path) -> Iterator[Server]:
    """PostgreSQL, an S3 server, Prefect and its workers from nothing."""
    folder = Path(tempfile.mkdtemp(prefix="nanochat-browser-"))
    folder.chmod(0o711)
    shutil.copytree(small_corpus, folder / "corpus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder, port)
    try:
        server.nanochat("up", "--local", "--folder", str(folder / "stack"), "--port", str(port))
        server.nanochat("deploy", "speedrun")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectPage]:
    """A browser on the server's page."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    shots = Path(os.environ.get(SHOTS) or tmp_path_factory.mktemp("shots"))
    with playwright_api.sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = PrefectPage(browser.new_page(viewport=SIZE), server.address, shots)
        page.open("")
        page.log_in(server.auth)
        page.page.wait_for_url("**/dashboard**")
        yield page
        browser.close()
