"""A soak: many short runs through deployments on a real server, while servers, workers and automations are killed.

    .venv/bin/python tests/faults/soak.py [--runs 1000] [--minutes 60] [--width 6] [--every 20] [--out table.md]

Runs of three kinds (all steps cached, a step of the gpu pool, a maintenance with a limit of one) are started as fast
as they end. All the while, at random moments: the server is killed with -9 and comes back after seconds; a worker gets
KILL or TERM and is started again; a flow process is killed; an automation is paused. What is counted is what must not
be, however often something dies: a run called Crashed whose process nobody hit; a finished run that is anything else
afterwards, or has a process again; two processes at one run; a slot, a lease or a process that is left; a run that
never ends, or ends otherwise than made. A run whose process was killed before it began, or while auto-resume was
paused, may end as Crashed: it is. Exits with 1 when something was seen that must not be.
"""

import argparse
import contextlib
import http.client
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "tests")]

from conftest import MICRO, OFTEN  # noqa: E402
from kill_lane import FINAL, SILENCE_S, Lane, write_corpus  # noqa: E402
from prefect_team import LEASES, shorten_silence  # noqa: E402
from processes import processes_of  # noqa: E402

from nanochat_core.plan import plan_run  # noqa: E402
from nanochat_core.presets import load_config  # noqa: E402

KINDS = {"speedrun": 7, "gpu_step": 2, "maintenance": 1}  # of ten runs
WRONG = (
    "false crashes", "reruns of finished runs", "two processes at one run", "runs without an end", "other ends",
    "leaked slots", "orphans",
)  # fmt: skip
BLOWS = ("server KILL", "worker KILL", "worker TERM", "flow process KILL", "automation pause")
WORKERS = {"driver": "cpu", "driver-2": "cpu", "gpu-1": "gpu"}
PATIENCE_S = 600.0  # for the last runs, once nothing is hit any more: what nobody began goes back after 300 s
LEASE_S = 330.0  # a slot whose holder was killed is free when its lease of five minutes is over
FLOW_PROCESSES = (b"prefect.engine", b"prefect.runner._workspace_supervisor")  # the second becomes the first
TICK_S = 0.25
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")  # of the kernel's own
ASK_S = 1.0  # what the server is asked costs more than what the kernel is
DRAIN_S = 60.0  # a worker that got TERM lets its runs end first
GIVEN_UP_S = 70.0  # a Crashed run that is not scheduled again by then never is
AWAY = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@dataclass
class Try:
    """A flow process: which run it works for, when it was born and last seen alive."""

    pid: int
    run_id: str
    born_s: float
    last_s: float
    was_hit: bool = False


@dataclass
class Result:
    """What was seen of all runs."""

    num_runs: int
    states: Counter[str] = field(default_factory=Counter)
    blows: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    """Of runs whose process was hit: true ones."""
    not_resumed: int = 0
    """Of those, runs that ended so: killed before they began, or while auto-resume was paused."""
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """What must not be -> each case."""
    seconds: float = 0.0
    processor_s: float = 0.0
    """Of everything that was started, its start included."""

    def table(self) -> str:
        counts = [f"| {name} | {len(cases)} |" for name, cases in self.wrong.items()]
        cases = [f"- {name}: {case}" for name, found in self.wrong.items() for case in found[:20]]
        blows = ", ".join(f"{number} x {name}" for name, number in sorted(self.blows.items()))
        ended = ", ".join(f"{number} {name}" for name, number in self.states.most_common())
        lines = [f"{self.states.total()} runs in {self.seconds / 60:.1f} min: {ended}.", f"Hit: {blows}."]
        if self.processor_s:
            lines.append(f"{self.processor_s / max(1, self.states.total()):.1f} s of processor time a run.")
        lines += [
            f"Crashes of what was hit: {self.crashes}, {self.not_resumed} of them for somebody to retry.",
            "",
            "| must not be | seen |",
            "|---|---|",
            *counts,
        ]
        return "\n".join([*lines, *([""] if cases else []), *cases])


class Soak:
    """One server, its workers, the runs, and what was done to them; everything happens in one thread."""

    def __init__(self, lane: Lane, *, num_runs: int, width: int, every_s: float, seed: int, for_s: float = 1e9) -> None:
        self.lane, self.team, self.draw = lane, lane.team, random.Random(seed)
        self.width, self.every_s, self.for_s = width, every_s, for_s
        kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
        self.todo = [kinds[number % len(kinds)] for number in range(num_runs)]
        self.draw.shuffle(self.todo)
        self.runs: dict[str, str] = {}
        """Number of a run -> what it is."""
        self.unfinished: set[str] = set()
        self.crashed: dict[str, float] = {}
        """Run -> since when it was seen Crashed."""
        self.pauses: list[tuple[float, float]] = []
        """Of auto-resume."""
        self.booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self.tries: dict[tuple[int, str], Try] = {}
        self.worker_hits: list[tuple[float, str]] = []
        """Moment and pool."""
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.down: set[str] = set()
        """Workers that were hit and are not back."""
        self.is_away, self.asked_s = False, 0.0
        self.result = Result(num_runs)
        self.deployments: dict[str, str] = {}
        self.parameters: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Make what the runs will find, and start the workers."""
        sets = [*MICRO, OFTEN, "corpus.source=path", f"corpus.path={self.team.corpus}"]
        for name, pool in WORKERS.items():
            self.team.work(pool, name, module="flows.stack_worker")
        self.team.wait(self.team.speedrun(until="tokens"), "Completed")
        made = {step: self.lane.store.artifacts(step)[0].fingerprint for step in ("corpus", "tokenizer")}
        self.parameters = {
            "speedrun": {"preset": "tiny", "overrides": sets, "until": "tokens"},
            "gpu_step": {
                "step": "tokenizer", "config": asdict(plan_run(load_config("tiny", sets)).config),
                "inputs": {"corpus": {"fingerprint": made["corpus"]}}, "fingerprint": made["tokenizer"],
            },
            "maintenance": {"dry_run": True},
        }  # fmt: skip
        for kind in KINDS:
            self.deployments[kind] = self.team.api(f"deployments/name/{kind}/{kind}", method="GET")["id"]

    def play(self, moments: list[tuple[float, str]] | None = None) -> Result:
        """Start all runs, hit at random (or at the moments, by seconds, that are given), wait for the last, judge."""
        began = time.time()
        blows = list(moments or [])
        upcoming = blows.pop(0) if moments else self._next_blow(began - time.time())
        while self.todo or (upcoming and moments):
            self._tick()
            if time.time() - began > self.for_s:
                self.todo.clear()
            if upcoming and time.time() - began >= upcoming[0] and not self.is_away:
                self._hit(upcoming[1])
                upcoming = (blows.pop(0) if blows else None) if moments else self._next_blow(time.time() - began)
        deadline = time.time() + PATIENCE_S
        while (self.unfinished or self.later or self.engines()) and time.time() < deadline:
            self._tick()
        self.result.seconds = time.time() - began
        self._judge()
        return self.result

    def _next_blow(self, now_s: float) -> tuple[float, str]:
        return now_s + self.draw.expovariate(1 / self.every_s), self.draw.choice(BLOWS)

    def _tick(self) -> None:
        time.sleep(TICK_S)
        self.look()
        for due in [each for each in self.later if each[0] <= time.time()]:
            with _reachable():
                due[1]()
                self.later.remove(due)
        if self.is_away:
            return
        if time.time() - self.asked_s >= ASK_S:
            self.asked_s = time.time()
            with _reachable():
                self._start_and_ask()

    def _start_and_ask(self) -> None:
        while self.todo and len(self.unfinished) < self.width:
            kind, number = self.todo[-1], len(self.runs)
            body = {"parameters": self.parameters[kind], "tags": ["autoresume"], "idempotency_key": f"soak-{number}"}
            run = self.team.api(f"deployments/{self.deployments[kind]}/create_flow_run", body)
            self.todo.pop()
            self.runs[run["id"]] = kind
            self.unfinished.add(run["id"])
        chosen = {"flow_runs": {"id": {"any_": sorted(self.unfinished)}}}
        for run in self.team.api("flow_runs/filter", chosen) if self.unfinished else []:
            since = self.crashed.setdefault(run["id"], time.time()) if run["state_name"] == "Crashed" else None
            if since is None:
                self.crashed.pop(run["id"], None)
            if run["state_name"] in FINAL and (since is None or time.time() - since > GIVEN_UP_S):
                self.unfinished.discard(run["id"])
                self._tell(run["id"])
                if (done := len(self.runs) - len(self.unfinished)) % 25 == 0:
                    print(f"{time.strftime('%H:%M:%S')} {done} runs, {dict(self.result.blows)}", file=sys.stderr)

    def _tell(self, run_id: str) -> None:
        """What is already wrong with a run as it ends; whoever watches need not wait for the last one."""
        final, self.result = self.result, Result(1)
        self.result.wrong = {name: [] for name in WRONG}
        self._judge_run(run_id)
        for name, cases in self.result.wrong.items():
            for case in cases:
                print(f"{time.strftime('%H:%M:%S')} {name}: {case}", file=sys.stderr)
        self.result = final

    # --- what lives ---

    def engines(self) -> dict[tuple[int, str], str]:
        """Living flow processes: number and start -> run."""
        found, here = {}, str(self.lane.folder).encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                command = (path / "cmdline").read_bytes()
                if not any(name in command for name in FLOW_PROCESSES):
                    continue
                environment = (path / "environ").read_bytes()
                run_id = environment.split(b"PREFECT__FLOW_RUN_ID=")[1].split(b"\0")[0].decode()
                if here in environment:
                    found[int(path.name), (path / "stat").read_text().rpartition(")")[2].split()[19]] = run_id
        pids = {pid for pid, _ in found}  # a process that has just been forked looks like the one that it came from
        return {identity: run_id for identity, run_id in found.items() if _parent(identity[0]) not in pids}

    def look(self) -> None:
        """Take down who is alive."""
        for identity, run_id in self.engines().items():
            self._seen(identity, run_id).last_s = time.time()

    def _seen(self, identity: tuple[int, str], run_id: str) -> Try:
        born_s = self.booted_s + int(identity[1]) / TICKS_A_SECOND
        return self.tries.setdefault(identity, Try(identity[0], run_id, born_s, time.time()))

    # --- blows ---

    def _hit(self, blow: str) -> None:
        victim, _, how = blow.rpartition(" ")
        self.look()
        hit = {"server": self._server, "worker": self._worker, "flow process": self._engine}
        with _reachable():
            hit.get(victim, self._automation)(how)

    def _server(self, _how: str) -> None:
        self.result.blows["server KILL"] += 1
        self.lane.server.process.kill()
        self.lane.server.process.wait()
        self.is_away = True
        self.later.append((time.time() + self.draw.uniform(0.5, 8), self._server_back))

    def _server_back(self) -> None:
        self.lane.server = self.lane.start_server(self.lane.server.auth)
        self.is_away = False

    def _worker(self, how: str) -> None:
        if self.down == WORKERS.keys():
            return
        name = self.draw.choice(sorted(WORKERS.keys() - self.down))
        worker = self.team.workers[name]
        self.down.add(name)
        self.worker_hits.append((time.time(), WORKERS[name]))
        self.result.blows[f"worker {how}"] += 1
        for identity, run_id in self.engines().items():  # its runs end with it
            if worker.pid in (_parent(identity[0]), _parent(_parent(identity[0]))):
                self._seen(identity, run_id).was_hit = True
        worker.send_signal(signal.SIGTERM if how == "TERM" else signal.SIGKILL)
        deadline = time.time() + DRAIN_S
        self.later.append((time.time() + self.draw.uniform(0.5, 8), lambda: self._worker_back(name, deadline)))

    def _worker_back(self, name: str, deadline: float) -> None:
        worker = self.team.workers[name]
        if worker.poll() is None and time.time() < deadline:
            self.later.append((time.time() + 1.0, lambda: self._worker_back(name, deadline)))
            return
        worker.kill()
        worker.wait()
        self.team.work(WORKERS[name], name, module="flows.stack_worker")
        self.down.discard(name)

    def _engine(self, _how: str) -> None:
        engines = self.engines()
        if engines:
            victim = self.draw.choice(sorted(engines))
            self._seen(victim, engines[victim]).was_hit = True
            self.result.blows["flow process KILL"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim[0], signal.SIGKILL)

    def _automation(self, _how: str) -> None:
        there = [one for one in self.team.api("automations/filter", {}) if one["name"].startswith("nanochat-")]
        chosen, until = self.draw.choice(there), time.time() + self.draw.uniform(0.5, 8)
        self._switch(chosen, on=False)
        self.result.blows["automation pause"] += 1
        self.later.append((until, lambda: self._switch(chosen, on=True)))

    def _switch(self, automation: dict[str, Any], *, on: bool) -> None:
        self.team.api(f"automations/{automation['id']}", {"enabled": on}, method="PATCH")
        if automation["name"] == "nanochat-autoresume":
            now = time.time()
            self.pauses.append((self.pauses.pop()[0], now) if on else (now, now + 60))

    # --- judging ---

    def _judge(self) -> None:
        self.result.wrong = {name: [] for name in WRONG}
        for run_id in self.runs:
            self._judge_run(run_id)
        self.result.wrong["leaked slots"] = self._slots()
        self.result.wrong["orphans"] = [f"{run_id} of {pid}" for (pid, _), run_id in self.engines().items()]

    def _judge_run(self, run_id: str) -> None:
        wrong, kind = self.result.wrong, self.runs[run_id]
        states = self.team.api(f"flow_run_states/?flow_run_id={run_id}", method="GET")
        history = sorted((datetime.fromisoformat(one["timestamp"]).timestamp(), one["name"]) for one in states)
        names = [name for _, name in history]
        why = [str(one["message"])[:120] for one in states if one["name"] == "Crashed"]
        tries = sorted((each for each in self.tries.values() if each.run_id == run_id), key=lambda each: each.born_s)
        told = f"{kind} {run_id}: {' > '.join(names)} {why}, processes {[each.pid for each in tries]}"
        self.result.states[names[-1]] += 1
        hits = sum(each.was_hit for each in tries) + self._hit_while_taken(kind, history)
        crashes = names.count("Crashed")
        self.result.crashes += min(crashes, hits)
        if crashes > hits:
            wrong["false crashes"].append(f"{told}; hit {hits} times")
        if "Completed" in names:
            done_s = history[names.index("Completed")][0]
            if names[-1] != "Completed" or any(each.born_s > done_s + 1 for each in tries):
                wrong["reruns of finished runs"].append(told)
        if any(one.last_s > other.born_s + 1 for one, other in itertools.pairwise(tries)):
            wrong["two processes at one run"].append(told)
        if names[-1] not in FINAL:
            wrong["runs without an end"].append(told)
        elif names[-1] == "Crashed" and crashes <= hits and self._may_stay(history):
            self.result.not_resumed += 1
        elif names[-1] != "Completed" and (kind, names[-1]) != ("maintenance", "Cancelled"):
            wrong["other ends"].append(told)

    def _hit_while_taken(self, kind: str, history: list[tuple[float, str]]) -> int:
        """How often a worker of its pool was hit when one had taken the run and its process had not begun."""
        pool = "gpu" if kind == "gpu_step" else "cpu"
        taken = [
            (begin, end) for (begin, name), (end, _) in itertools.pairwise(history) if name in ("Pending", "Submitting")
        ]
        return sum(any(begin <= moment <= end for begin, end in taken) for moment, of in self.worker_hits if of == pool)

    def _may_stay(self, history: list[tuple[float, str]]) -> bool:
        """Whether nobody schedules a crashed run again: it never began, or auto-resume was off."""
        crashed_s = history[-1][0]
        is_off = any(begin - 1 <= crashed_s <= end + 1 for begin, end in self.pauses)
        return is_off or all(name != "Running" for _, name in history)

    def _slots(self) -> list[str]:
        """What is still taken after the longest time that a lease may live."""
        deadline = time.time() + LEASE_S
        while (taken := self._taken()) and time.time() < deadline:
            time.sleep(2)
        return taken

    def _taken(self) -> list[str]:
        limits = self.team.api("v2/concurrency_limits/filter", {})
        taken = [f"limit {one['name']}: {one['active_slots']}" for one in limits if one["active_slots"]]
        tags = self.team.api("concurrency_limits/filter", {})
        taken += [f"tag {one['tag']}: {one['active_slots']}" for one in tags if one["active_slots"]]
        busy = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
        taken += [f"pool {one['work_pool_name']}: {one['name']}" for one in self.team.api("flow_runs/filter", busy)]
        leases = (self.lane.folder / "prefect/concurrency_leases").glob("*-*.json")
        taken += [f"lease {path.name}" for path in leases]
        return taken + [f"the store's {path.name}" for path in (self.lane.folder / "home/store").rglob("*.lease*")]


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Within the block a server that is away or overloaded is no error; one that refuses is."""
    try:
        yield
    except AWAY as error:
        if getattr(error, "code", 500) < 500:
            raise


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@contextlib.contextmanager
def soak_in(folder: Path, corpus: Path, *, silence_s: int, **options: Any) -> Iterator[Soak]:
    """A server with workers and what the runs will find."""
    lane = Lane(folder / "lane", corpus)
    try:
        lane.team.deploy()
        shorten_silence(lane.team, silence_s)
        soak = Soak(lane, **options)
        soak.prepare()
        yield soak
    finally:
        lane.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=1e6, help="start no more runs after so many")
    parser.add_argument("--width", type=int, default=6, help="runs that are under way at once")
    parser.add_argument("--every", type=float, default=20.0, help="mean seconds from one blow to the next")
    parser.add_argument("--silence", type=int, default=int(SILENCE_S), help="seconds until a silent run is Crashed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and its workers would too
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        os.environ |= {"NANOCHAT_HOME": name, "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES}
        chosen = {"num_runs": options.runs, "width": options.width, "every_s": options.every, "seed": options.seed,
                  "for_s": options.minutes * 60}  # fmt: skip
        with soak_in(folder, write_corpus(folder / "corpus"), silence_s=options.silence, **chosen) as soak:
            result = soak.play()
        result.wrong["orphans"] += processes_of(folder)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    result.processor_s = spent.ru_utime + spent.ru_stime
    print(result.table())
    if options.out:
        options.out.write_text(result.table() + "\n")
    sys.exit(any(result.wrong.values()))


if __name__ == "__main__":
    main()
