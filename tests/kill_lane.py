"""One blow at a running training, on a server, a worker and a store of its own, and what comes of it.

A lane starts the run as the UI does, hits its victim in mid-training, looks several times a second at the processes and
at the state that the server tells, retries what ended, and compares the weights with those of an unbroken run.
Used by faults/matrix.py for the whole matrix and by the tests for single cells.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import first_home
from prefect_team import Team, shorten_silence

from flows.server import EmbeddedServer, _free_port
from nanochat_core.base.records import read_records
from nanochat_core.data import documentation
from nanochat_core.data.shards import write_shards
from nanochat_core.store import Artifact, Store

VICTIMS = ("worker", "flow process", "rank", "server")
BLOWS = ("KILL", "TERM", "STOP", "cancel")
NOBODY = "nobody"
METRICS = "log/metrics.jsonl"
NUM_STEPS = 600  # half a minute of training on an idle core
SILENCE_S = 20  # of the automation; production has 45 with a slower pulse
STOP_S = 28.0  # longer than that: a frozen run is called crashed, and must come back
OUTAGE_S = 8.0
SETTLE_S = 600.0  # patience, not a promise: a busy machine takes minutes to run again what was hit
RANKS_S = 15.0  # promised
STATE_S = 60.0  # promised
FINAL = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
CANCEL = {"state": {"type": "CANCELLING", "name": "Cancelling", "message": "as the UI's button"}}


@dataclass(frozen=True)
class Cell:
    victim: str
    blow: str


ALL_CELLS = [Cell(victim, blow) for victim in VICTIMS for blow in BLOWS] + [Cell(NOBODY, "cancel")]


@dataclass
class Outcome:
    """What was seen of one cell, once."""

    cell: Cell
    ranks_dead_s: float | None = None
    """None: they rightly went on."""
    trains_s: float | None = None
    """Until the next step was taken without anybody's help; None: the run ended."""
    state_true_s: float | None = None
    """None: it never was."""
    states: list[str] = field(default_factory=list)
    was_retried: bool = False
    digests_equal: bool = False
    slowdown: float | None = None
    """Median time of a step while the server was away, over the median with it; None: too few steps to say."""
    broken: list[str] = field(default_factory=list)
    """Promises."""


@dataclass(frozen=True)
class Seen:
    """One look at everything."""

    at: float
    state: str | None
    """None: the server did not answer."""
    ranks: frozenset[int]
    engines: frozenset[int]
    last_step: int
    last_step_at: float

    @property
    def is_lie(self) -> bool:
        """Whether the state says other than what the processes do."""
        if self.state in ("Crashed", "Failed", "Cancelled", "TimedOut"):
            return bool(self.ranks)
        return self.state in ("Running", "Cancelling", "Retrying") and not self.engines


class Lane:
    """A server, a worker and a store of its own; cells go one after the other."""

    def __init__(self, folder: Path, corpus: Path, *, num_steps: int = NUM_STEPS) -> None:
        self.num_steps, self.outage_s = num_steps, OUTAGE_S
        self.last: dict[str, str] = {}
        """Digests of the last training's results."""
        self.records: list[dict[str, Any]] = []
        """Its log."""
        first_home.seed(folder / "home", folder / "prefect")
        self.folder, self._port = folder, _free_port()
        self.server = self.start_server()
        self.team = Team(folder, self.server, corpus)
        self.store = Store.open(str(folder / "home/store"), cache_folder=folder / "cache")

    def prepare(self, *deployments: str) -> None:
        """Deployments and a worker."""
        self.team.deploy(*deployments)
        if not deployments:
            shorten_silence(self.team, SILENCE_S)
        self.team.work("cpu", "driver")

    def close(self) -> None:
        self.team.stop()
        self.server.stop()

    def start_server(self, auth: str | None = None) -> EmbeddedServer:
        """A server over the lane's database; one that comes back asks for the password of the one before."""
        server = EmbeddedServer(self.folder / "prefect", self._port, self.folder / "server.log", auth=auth)
        server.wait_until_ready()
        return server

    def unbroken(self) -> dict[str, str]:
        """Digests of what the training makes when nobody disturbs it."""
        self.team.wait(self._start(), "Completed", timeout_s=SETTLE_S)
        return digests(self.collect())

    def collect(self) -> Artifact:
        """The only base model there is; it is forgotten, so that the next run trains again."""
        [artifact] = self.store.artifacts("pretrain")
        assert artifact.metrics["num_steps"] == self.num_steps
        self.records = read_records(self.store.fetch(artifact, [METRICS]) / METRICS)
        self.store.discard(artifact)
        return artifact

    def _start(self) -> str:
        long = (f"pretrain.max_tokens={self.num_steps * 512}", "pretrain.validate_every_steps=300")
        return self.team.speedrun(*long, "runtime.checkpoint_every_s=2", until="pretrain")

    # --- one cell ---

    def play(self, cell: Cell, expected: dict[str, str] | None, *, at_step: int = 4) -> Outcome:
        """Hit the victim in mid-training, watch what happens, retry what ended, compare the weights."""
        outcome = Outcome(cell)
        run_id = self._start()
        self.team.wait(run_id, "Running", timeout_s=SETTLE_S)
        before = self.team.until(lambda: self.look(run_id), lambda seen: seen.last_step >= at_step, SETTLE_S)
        struck = time.time()
        looks, calm = self._strike(cell, run_id)
        looks += self._watch(run_id, _has_settled)
        self._judge(outcome, before, looks, struck=struck, calm=calm)
        if self.team.workers["driver"].poll() is not None:
            self.team.work("cpu", "driver")
        if looks[-1].state != "Completed":
            outcome.was_retried = True
            self.team.api(f"flow_runs/{run_id}/set_state", RETRY)
            self.team.wait(run_id, "Completed", timeout_s=SETTLE_S)
        self.last = digests(self.collect())
        outcome.digests_equal = self.last == (expected or self.last)
        if cell.victim == "server":
            outcome.slowdown = slowdown(self.records, struck, calm)
        if not outcome.digests_equal:
            outcome.broken.append("other digests")
        if self.team.ranks():
            outcome.broken.append("a rank survived")
        return outcome

    def look(self, run_id: str) -> Seen:
        ranks = self.team.processes("nanochat_core.train.worker")
        workers = {pid for pid, command in ranks.items() if "nanochat_core.base.one_node" not in command}
        step, step_at = 0, 0.0
        for plan in {ranks[pid].split()[-1] for pid in workers}:
            with contextlib.suppress(OSError):
                records = [r for r in read_records(Path(plan).parent / "metrics.jsonl") if r["event"] == "step"]
                if records:
                    step, step_at = max((step, step_at), (records[-1]["step"], records[-1]["time_s"]))
        state = self._state(run_id)
        return Seen(time.time(), state, frozenset(workers), frozenset(self.team.engines()), step, step_at)

    def _state(self, run_id: str) -> str | None:
        try:
            request = urllib.request.Request(f"{self.team.url}/flow_runs/{run_id}", headers=self.team.headers)
            with urllib.request.urlopen(request, timeout=3) as answer:
                return str(json.load(answer)["state_name"])
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None

    def _strike(self, cell: Cell, run_id: str) -> tuple[list[Seen], float]:
        """Do it; what was seen meanwhile, and when it was over."""
        pids = self._victims(cell.victim)
        if cell.blow == "STOP":
            return self._freeze(pids, run_id), time.time()
        sig = signal.SIGTERM if cell.blow == "TERM" else signal.SIGKILL
        for pid in pids:
            os.kill(pid, sig)
        if cell.victim == "server":
            self.server.process.wait(30)
            looks = self._watch(run_id, _never, for_s=self.outage_s)
            self.server = self.start_server(self.server.auth)
        else:
            if cell.victim == "worker":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.team.workers["driver"].wait(5)
            looks = self._watch(run_id, _never, for_s=1.0) if cell.blow == "cancel" and pids else []
        calm = time.time() if cell.victim == "server" or cell.blow == "cancel" else time.time() - 0.001
        if cell.blow == "cancel":
            self.team.api(f"flow_runs/{run_id}/set_state", CANCEL)
        return looks, calm

    def _freeze(self, pids: list[int], run_id: str) -> list[Seen]:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            return self._watch(run_id, _never, for_s=STOP_S)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _victims(self, victim: str) -> list[int]:
        team = self.team
        found = {
            NOBODY: [],
            "worker": [team.workers["driver"].pid],
            "flow process": team.engines(),
            "rank": team.ranks(),
            "server": [self.server.process.pid],
        }[victim]
        assert found or victim == NOBODY, f"there is no {victim} to hit"
        return found

    def _watch(self, run_id: str, is_over: Callable[[Seen], bool], *, for_s: float = SETTLE_S) -> list[Seen]:
        looks = [self.look(run_id)]
        deadline = time.time() + for_s
        while not is_over(looks[-1]) and time.time() < deadline:
            time.sleep(0.3)
            looks.append(self.look(run_id))
        return looks

    def _judge(self, outcome: Outcome, before: Seen, looks: list[Seen], *, struck: float, calm: float) -> None:
        for state in [before.state, *(seen.state for seen in looks)]:
            name = state or "(no answer)"
            if not outcome.states or outcome.states[-1] != name:
                outcome.states.append(name)
        gone = next((seen for seen in looks if not seen.ranks & before.ranks), None)
        last = max((s.last_step for s in looks if s.ranks & before.ranks), default=before.last_step)
        went_on = gone is None or last >= self.num_steps - 40  # the last look is up to a second before the end
        since = calm if outcome.cell.victim == "server" else struck
        outcome.ranks_dead_s = None if went_on or gone is None else max(0.0, gone.at - since)
        later = [s for s in looks if s.last_step_at > calm and (went_on or not s.ranks & before.ranks)]
        outcome.trains_s = later[0].last_step_at - calm if later else None
        judged = [seen for seen in looks if seen.at >= calm and seen.state is not None]
        lies = [index for index, seen in enumerate(judged) if seen.is_lie]
        if judged and not judged[-1].is_lie and judged[-1].state in FINAL:
            outcome.state_true_s = judged[lies[-1] + 1].at - calm if lies else 0.0
        if outcome.ranks_dead_s is not None and outcome.ranks_dead_s > RANKS_S:
            outcome.broken.append(f"ranks lived {outcome.ranks_dead_s:.0f} s")
        if outcome.state_true_s is None or outcome.state_true_s > STATE_S:
            outcome.broken.append("a lying state")


def _has_settled(seen: Seen) -> bool:
    is_left = not seen.ranks and not seen.engines  # an engine that lives may still say that it lives
    return seen.state == "Completed" or (seen.state in FINAL and is_left)


def _never(_seen: Seen) -> bool:
    return False


def write_corpus(folder: Path) -> Path:
    """Two parquet shards of real documentation; the second is validation."""
    modules = [entries for entries in documentation.package_entries("networkx") if entries][:60]
    texts = [f"{entry.signature}\n\n{entry.doc}" for entries in modules for entry in entries if len(entry.doc) > 60]
    for name, chosen in (("1", texts[:40]), ("0", texts[40:])):
        write_shards(chosen, folder / name)
        (folder / name / "00000.parquet").rename(folder / f"{name}.parquet")
    return folder


def digests(artifact: Artifact) -> dict[str, str]:
    """Of the results, without the logs."""
    return {name: entry.sha256 for name, entry in artifact.files.items() if not name.startswith("log/")}


def slowdown(records: list[dict[str, Any]], begin: float, end: float) -> float | None:
    """Median step time between two moments, over the median at other times."""
    steps = [record for record in records if record["event"] == "step"][5:]  # the first ones warm up
    inside = [record["step_ms"] for record in steps if begin <= record["time_s"] < end]
    outside = [record["step_ms"] for record in steps if not begin <= record["time_s"] < end]
    enough = min(len(inside), len(outside)) >= 20
    return statistics.median(inside) / statistics.median(outside) if enough else None
