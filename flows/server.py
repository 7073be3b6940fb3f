"""A Prefect server for the length of one command, where none is configured.

Prefect's own ephemeral server dies with a terminal's Ctrl-C (before the run can be recorded) and survives a kill of its
parent. Ours is a child in a session of its own with a parent-death signal: Ctrl-C does not reach it, and nothing is
left running. It uses the database in PREFECT_HOME, so a later `prefect server start` shows the same runs.

It is a convenience of the run and must never cost it anything: one that dies or hangs is started again at the same
port, and a run whose server stays away ends without it (flows/session.py). Whoever could write to it could stop the run
or show a false one: it has a password of this run's, which is on the owner's terminal and nowhere else.
"""

import contextlib
import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.configured import check_configured, may_be_configured, settings
from flows.stack_environment import SERVER, passed_on
from nanochat_core.base.child import LAST_CHARS
from nanochat_core.base.environment import for_child
from nanochat_core.base.errors import HardwareError, NanochatError
from nanochat_core.base.limits import limit_in_text, limit_of_disks
from nanochat_core.base.loopback import SILENT, ask, listener
from nanochat_core.base.process import cpu_s, describe_exit, die_with_parent
from nanochat_core.base.stopping import was_told
from nanochat_core.cli import prefect_home
from nanochat_core.cli.prefect_api import authorization
from nanochat_core.cli.prefect_home import CONNECTION_URLS, DATABASE
from nanochat_core.workspace import home_from_environment

START_TIMEOUT_S = 120.0  # a cold home migrates its database first: 14 s here, more on a slow disk
START_CPU_S = 60.0  # and until it has had so much the clock stands still: a busy machine is no server that hangs
SETTLE_TIMEOUT_S = 5.0
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal belongs to our own display
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nanochat_core",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
# A server that is started again answers in some 5 s: asked again after 2, 4 and 8 s, and then the run does without.
IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "3", "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0"}
POLL_S = 0.5
ASK_EVERY_S, ANSWER_S, NUM_SILENT = 4.0, 2.0, 3  # whether it lives; 20 s without an answer is a hang
HANGS_S, END_S = 1.0, 5.0  # at the end: without an answer it is killed at once, else it has its time
MAX_RESTARTS = 3


AUTH = "PREFECT_API_AUTH_STRING"
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"


class EmbeddedServer:
    """The child; `url` is its API, `auth` the user:password that it asks for."""

    def __init__(self, home: Path, port: int, log: Path, *, auth: str | None = None) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}/api"
        self.auth = auth or os.environ.get(SERVER_AUTH) or f"nanochat:{secrets.token_urlsafe(12)}"
        self.log = log
        self.num_deaths = 0
        self.is_lost = False  # it died so often that it was not started again
        self._is_over = threading.Event()
        self.process = self._launch()

    def _launch(self) -> "subprocess.Popen[bytes]":
        environment = {
            **passed_on(for_child(os.environ), SERVER),
            **QUIET,
            "PREFECT_HOME": str(self.home),
            **_own_database(self.home),
            "PREFECT_SERVER_API_PORT": str(self._port),
            "PREFECT_UI_API_URL": self.url,
            SERVER_AUTH: self.auth,
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": self.page,
        }
        with self.log.open("ab" if self.num_deaths else "wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.embedded", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_driver,
            )

    @property
    def _port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def page(self) -> str:
        """What a browser opens."""
        return self.url.removesuffix("/api")

    @property
    def exports(self) -> dict[str, str]:
        """What Prefect's client needs to reach it."""
        return {"PREFECT_API_URL": self.url, AUTH: self.auth}

    def wait_until_ready(self) -> None:
        moved, had = time.monotonic(), 0.0
        while time.monotonic() < moved + START_TIMEOUT_S:
            if had < (cpu := cpu_s(self.process.pid)) < START_CPU_S:
                moved, had = time.monotonic(), cpu
            if self.process.poll() is not None:
                if self.process.returncode > 0 or self.num_deaths == MAX_RESTARTS:
                    break
                self.num_deaths += 1  # somebody killed it
                self.process = self._launch()
            if self._answers():
                _keep_template(self.home, _template())
                return
            time.sleep(0.05)
        if limit := self.limit():
            raise limit
        code = self.process.poll()
        ended = "did not answer in time" if code is None else f"ended with {describe_exit(code)}"
        raise NanochatError(
            f"the embedded Prefect server {ended}; its log is {self.log}",
            hint="nanochat doctor looks for the cause; --no-prefect runs the same steps without Prefect",
        )

    def limit(self) -> NanochatError | None:
        """A limit of the machine that the server met: its clients only hear of an error 500."""
        text = self.log.read_text(encoding="utf-8", errors="replace")[-LAST_CHARS:] if self.log.is_file() else ""
        return limit_in_text(text, where=str(self.home)) or limit_of_disks(self.home, self.log.parent)

    def has_died(self) -> bool:
        """Whether it did, at any time; an error may be its."""
        return self.num_deaths > 0 or self.process.poll() is not None

    def watch(self, note: Callable[[str], None]) -> None:
        """Start it again whenever it dies or hangs, from a thread of its own; `note` hears of it."""
        # a daemon: it lives as long as this process, and the kernel ends a server together with the thread it is from
        threading.Thread(target=self._keep_up, args=(note,), name="server watch", daemon=True).start()

    def _keep_up(self, note: Callable[[str], None]) -> None:
        while (ended := self._wait_for_end()) and not was_told():
            self.num_deaths += 1
            self.is_lost = self.num_deaths > MAX_RESTARTS
            after = "and stays away" if self.is_lost else "and starts again"
            note(f"Prefect's server {ended}: its page is gone {after}; the run goes on")
            if self.is_lost:
                return
            self.process = self._launch()

    def _wait_for_end(self) -> str:
        """How the server ended, by itself or because it was silent for too long; nothing once the command is done."""
        num_silent, patience = 0, START_TIMEOUT_S / ASK_EVERY_S
        while True:
            for _ in range(round(ASK_EVERY_S / POLL_S)):
                if self._is_over.wait(POLL_S):
                    return ""
                if self.process.poll() is not None:
                    return f"ended ({describe_exit(self.process.returncode)})"
            if self._answers():
                num_silent, patience = 0, NUM_SILENT
            elif (num_silent := num_silent + 1) > patience:
                self.process.kill()
                self.process.wait()
                return "did not answer any more"

    def _answers(self, *, timeout_s: float = ANSWER_S) -> bool:
        with contextlib.suppress(*SILENT):
            ask(f"{self.url}/health", timeout_s=timeout_s).close()
            return listener(self._port) in (os.geteuid(), None)  # and nobody else who was quicker at the port
        return False

    def wait_until_recorded(self, flow_run_id: str, num_tasks: int) -> None:
        """Task runs are recorded a moment after they end; wait for them, so that none is missing from the database."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline and not self.has_died():
            with contextlib.suppress(*SILENT):
                runs = self._post("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
                if len([run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]) >= num_tasks:
                    return
            time.sleep(0.1)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", **authorization(self.auth, None)}
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers, method="POST")
        with ask(request, timeout_s=5) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """End it: at once where it hangs or somebody will not wait (a second Ctrl-C), else it has its time."""
        self._is_over.set()
        try:
            hangs = listener(self._port) is not None and not self._answers(timeout_s=HANGS_S)
            self.process.send_signal(signal.SIGINT)
            self.process.wait(0 if hangs else END_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def prefect_server() -> Iterator[EmbeddedServer | None]:
    """Start a server beside this command, or yield None where one is configured. Set up before Prefect is imported."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if _is_configured():
        check_configured()
        yield None
        return
    home, logs = prefect_home.prefect_home(), home_from_environment()
    prefect_home.check(home)
    for folder, name in ((home, "PREFECT_HOME"), (logs, "NANOCHAT_HOME")):
        _make(folder, name)
    _seed_database(home, _template())
    os.environ.update({name: value for name, value in IMPATIENT.items() if name not in os.environ})
    server = EmbeddedServer(home, _free_port(), logs / "prefect-server.log")
    ours = {**server.exports, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}  # no second one, which asks nobody
    before = {name: os.environ.get(name) for name in ours}
    _set(ours)
    try:
        yield server
    except Exception as error:
        if not isinstance(error, NanochatError) and (limit := server.limit()):
            raise limit from error
        raise
    finally:
        _set(before)
        server.stop()


def _set(variables: Mapping[str, str | None]) -> None:
    """Set variables, or unset them, and let a Prefect that was imported before see it."""
    for name, value in variables.items():
        os.environ.pop(name, None)
        os.environ |= {} if value is None else {name: value}
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _make(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HardwareError(
            f"{name} = {folder} cannot be made: {error.strerror}", hint=f"set {name} to a folder of yours"
        ) from error


def _is_configured() -> bool:
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = prefect_home.prefect_home()
    prefect_home.check_profile(home)
    if not os.path.isfile(home / "profiles.toml") and not may_be_configured():
        return False
    return settings().api.url is not None  # a second of import, only where a profile may name a server


def _die_with_driver() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell's & starts ignores it, and so would its server
    die_with_parent(signal.SIGINT)


def _template() -> Path:
    """A database of this Prefect version with its tables and nothing in them."""
    return home_from_environment() / f"prefect-{importlib.metadata.version('prefect')}.db"


def _has_other_database() -> bool:
    return any(os.environ.get(name) for name in CONNECTION_URLS)


def _own_database(home: Path) -> dict[str, str]:
    """Prefect names the file of its home by itself, except where it would read the name as something else."""
    if _has_other_database() or "?" not in str(home):
        return {}
    return {CONNECTION_URLS[0]: prefect_home.connection_url(home / DATABASE)}


def _seed_database(home: Path, template: Path) -> None:
    """Start a new Prefect home from the template: copying takes milliseconds, a hundred migrations take 8 s."""
    database = home / DATABASE
    if template.is_file() and not database.exists() and not _has_other_database():
        part = database.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(template, part)
        part.replace(database)


def _keep_template(home: Path, template: Path) -> None:
    """After the first start, before any run: keep a copy of the database as the server has just made it."""
    database = home / DATABASE
    if template.is_file() or not database.is_file() or _has_other_database():
        return
    part = template.with_suffix(f".{os.getpid()}.part")
    with (
        contextlib.closing(sqlite3.connect(prefect_home.read_only_uri(database), uri=True)) as source,
        contextlib.closing(sqlite3.connect(part)) as copy,
    ):
        is_empty = source.execute("select count(*) from flow_run").fetchone() == (0,)
        source.backup(copy)
    if is_empty:
        part.replace(template)
    else:
        part.unlink()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
