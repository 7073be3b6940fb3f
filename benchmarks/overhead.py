"""What orchestration costs: seconds of a run with nothing to do, and of Prefect around a run with everything to do.

    .venv/bin/python benchmarks/overhead.py [--repeats 3] [--steps 300]

Runs the tiny preset made small (no network, a home of its own) with a server already running, with the embedded one, on
a new Prefect home, and without Prefect; prints JSON. `cached` has medians of the whole command's wall time from its
start to its end, and the processor seconds beside them, which a busy machine does not change. `real` compares a run
from nothing with Prefect to the same one without: the walls, and what of each is not the steps' own (`around_s`), since
two trainings of one plan differ by more than the orchestration takes.
Goals: all cached on a running server within 5 s; added wall of a real run within 1% or 5 s.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flows.server import EmbeddedServer, _free_port  # noqa: E402

SMALL = (
    "corpus.max_bytes=1000000",
    "tokenizer.vocab_size=1024",
    "pretrain.depth=2",
    "pretrain.n_embd=64",
    "pretrain.head_dim=32",
    "pretrain.sequence_len_tokens=128",
    "pretrain.total_batch_tokens=2048",
    "sft.num_documentation=100",
    "sft.num_arithmetic=300",
    "sft.num_spelling=50",
    "sft.num_identity=20",
    "evaluate.bpb_tokens=16384",
    "evaluate.num_questions=10",
)
ALL_CACHED_S = 5.0
ADDED_S = 5.0
ADDED_FRAC = 0.01
Json = dict[str, float]


@dataclass(frozen=True)
class Timed:
    """One command."""

    wall_s: float
    cpu_s: float
    """Of it and all of its children; not of a server that was there before."""
    said: str


class Bench:
    """A home, and the commands that run in it."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.sets = [*SMALL, f"pretrain.max_tokens={steps * 2048}"]

    def run(self, *extra: str, home: str, prefect_home: str = "prefect", server: EmbeddedServer | None = None) -> Timed:
        """`nanochat run` from start to end."""
        environment = {**os.environ, "NANOCHAT_HOME": str(self.folder / home), "DO_NOT_TRACK": "1"}
        environment |= {"PREFECT_HOME": str(self.folder / prefect_home)}
        for name in ("NANOCHAT_STORE", "PREFECT_API_URL"):
            environment.pop(name, None)
        environment |= server.exports if server else {}
        options = [part for value in self.sets for part in ("--set", value)]
        started, before = time.perf_counter(), _children_cpu_s()
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "run", "tiny", *options, *extra],
            cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"the run failed\n{done.stdout[-500:]}{done.stderr[-1500:]}")
        return Timed(time.perf_counter() - started, _children_cpu_s() - before, done.stdout)

    def cached(
        self, *extra: str, repeats: int, new_prefect_home: bool = False, server: EmbeddedServer | None = None
    ) -> Json:
        """Medians of runs that find everything."""
        homes = [f"prefect-{number}" if new_prefect_home else "prefect" for number in range(repeats)]
        times = [self.run(*extra, home="real", prefect_home=home, server=server) for home in homes]
        if not all(" 0 made" in timed.said for timed in times):
            sys.exit("a run that should have found everything made something: was the code edited meanwhile?")
        return {
            "wall_s": round(statistics.median(timed.wall_s for timed in times), 2),
            "cpu_s": round(statistics.median(timed.cpu_s for timed in times), 2),
        }

    def around_s(self, timed: Timed, home: str) -> float:
        """Wall of a command that no step had."""
        [ledger] = (self.folder / home / "store/runs").glob("*.json")
        steps = json.loads(ledger.read_text())["record"]["steps"]
        return timed.wall_s - sum(line["seconds"] for line in steps if not line["is_cached"])


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, *, repeats: int, steps: int) -> dict[str, object]:
    """Everything, once; the real runs first, as they fill the store."""
    bench = Bench(folder, steps)
    (folder / "server").mkdir()
    server = EmbeddedServer(folder / "server", _free_port(), folder / "server.log")
    try:
        server.wait_until_ready()
        bare = bench.run("--no-prefect", home="bare")
        real = bench.run(home="real", server=server)
        around = {"prefect": bench.around_s(real, "real"), "bare": bench.around_s(bare, "bare")}
        cached = {"running_server": bench.cached(repeats=repeats, server=server)}
    finally:
        server.stop()
    bench.run(home="real")  # the embedded server's first start makes its database
    cached["embedded_server"] = bench.cached(repeats=repeats)
    cached["new_prefect_home"] = bench.cached(repeats=repeats, new_prefect_home=True)
    cached["no_prefect"] = bench.cached("--no-prefect", repeats=repeats)
    added_s = around["prefect"] - around["bare"]
    return {
        "load_before": round(os.getloadavg()[0], 1),
        "cached": cached,
        "real": {
            "wall_s": {"prefect": round(real.wall_s, 2), "bare": round(bare.wall_s, 2)},
            "cpu_s": {"prefect": round(real.cpu_s, 2), "bare": round(bare.cpu_s, 2)},
            "around_s": {name: round(value, 2) for name, value in around.items()},
            "added_s": round(added_s, 2),
        },
        "goals_met": {
            "all_cached_on_a_running_server": cached["running_server"]["wall_s"] <= ALL_CACHED_S,
            "added_to_a_real_run": added_s <= max(ADDED_S, ADDED_FRAC * bare.wall_s),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of pretraining")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        print(json.dumps(measure(Path(folder), repeats=options.repeats, steps=options.steps), indent=1))


if __name__ == "__main__":
    main()
