"""Real nights against planted changes: what each is found to be, by what, and at what price.

    .venv/bin/python benchmarks/nights.py [--repeats 3] [--only "decay doubled"] [--out table.md]
    .venv/bin/python benchmarks/nights.py --spread

A repository of its own with the product's code, a home of its own, a depth-2 model of width 64 and 640 steps. A
baseline of twelve trainings in six nights is promoted; then each change is made in a copy and `nanochat nightly`
runs there, as often as asked: a probe has the same seeds each time, a training in full has its own. The home is put
back before each, so no night knows of another change. Four of the twelve are innocent.

--spread: what other seeds and what twins (gate/probe.py) come to at four lengths, as relative standard deviations, and
what a tenth less of Muon's rate does.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from flows.speedrun import run_until  # noqa: E402
from nanochat_core.gate import probe  # noqa: E402
from nanochat_core.pipeline.execute import make  # noqa: E402
from nanochat_core.plan import RunPlan, plan_run  # noqa: E402
from nanochat_core.presets import load_config  # noqa: E402
from nanochat_core.report.tables import Table  # noqa: E402

SETTINGS = (
    "corpus.max_bytes=3000000", "tokenizer.vocab_size=512", "pretrain.depth=2", "pretrain.n_embd=64",
    "pretrain.n_kv_head=1", "pretrain.sequence_len_tokens=64", "pretrain.total_batch_tokens=512",
    "pretrain.tokens_per_param=1000.0", "pretrain.max_tokens=327680", "pretrain.validate_every_steps=160",
    "pretrain.validation_tokens=65536", "evaluate.bpb_tokens=65536", "runtime.num_threads=1",
)  # fmt: skip
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")
LENGTHS = (20, 40, 100, 200)


@dataclass(frozen=True)
class Change:
    """An edit of one line."""

    name: str
    file: str
    before: str
    after: str
    is_innocent: bool = False


SUM = "update.mul_(lr).add_(decay, alpha=lr * weight_decay)"
MUON, LOOP, TRAIN = "optim/muon.py", "train/loop.py", "train/pretrain.py"
CHANGES = (
    Change("Muon's rate -10%", MUON, "lr *= math.sqrt(", "lr *= 0.9 * math.sqrt("),
    Change("decay doubled", MUON, "alpha=lr * weight_decay", "alpha=2 * lr * weight_decay"),
    Change("a norm left out", MUON, "_equalize_rows(grad.lerp_(momentum_buffer, momentum))",
           "grad.lerp_(momentum_buffer, momentum)"),
    Change("scalars frozen", "optim/adamw.py", "        lr=lr,", "        lr=lr if params[0].ndim > 1 else 0.0,"),
    Change("validation text learnt", TRAIN, '"train", vocab_size', '"validation", vocab_size'),
    Change("5% slower", LOOP, "        self.progress.step += 1\n",
           "        self.progress.step += 1\n"
           "        time.sleep(0.05 * (time.perf_counter() - started))\n"),
    Change("4% more memory", TRAIN, "    model.to(device)",
           "    model.to(device)\n    globals()['BALLAST'] = bytearray(b'x') * (24 << 20)"),
    Change("an evaluation of NaN", "evals/bpb.py", "    return BitsPerByte(",
           "    byte_nats *= math.nan\n    return BitsPerByte("),
    Change("a comment", MUON, "    grad = torch", "    # as one stack\n    grad = torch", is_innocent=True),
    Change("another order of sums", MUON, SUM, "decay.mul_(lr * weight_decay).add_(update.mul_(lr))", is_innocent=True),
    Change("a line less", MUON, f"    step = {SUM}\n    torch._foreach_sub_(list(params), list(step.unbind()))",
           f"    torch._foreach_sub_(list(params), list({SUM}.unbind()))", is_innocent=True),
    Change("a word in a heartbeat", LOOP, 'phase("validation"', 'phase("validating"', is_innocent=True),
)  # fmt: skip


class Bench:
    """A repository and a home, both of which can be put back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repository, self.home = folder, folder / "repository", folder / "home"
        for name in ("nanochat_core", "flows", "tasks"):
            shutil.copytree(ROOT / name, self.repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "The beginning")):
            subprocess.run(["git", *IDENTITY, *arguments], cwd=self.repository, check=True)

    def nightly(self, *arguments: str, is_run: bool = True) -> subprocess.CompletedProcess[str]:
        options = [part for value in SETTINGS for part in ("--set", value)]
        told = ["--no-prefect", "--preset", "tiny", *options] if is_run else []
        command = [sys.executable, "-P", "-m", "flows.cli", "nightly", *arguments, *told]
        path = {"PYTHONPATH": str(self.repository), "NANOCHAT_HOME": str(self.home), "HOME": str(self.folder)}
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **path}
        return subprocess.run(command, cwd=self.repository, env=environment, capture_output=True, text=True)

    def baseline(self) -> None:
        for _ in range(6):
            done = self.nightly("--seeds", "2")
            if done.returncode:
                raise SystemExit(done.stderr)
        self.nightly("promote", is_run=False)
        shutil.copytree(self.home, self.folder / "kept", symlinks=True)

    def night(self, change: Change) -> tuple[dict[str, Any], float]:
        """Its record, and the seconds of CPU of all that it ran."""
        shutil.rmtree(self.home)
        shutil.copytree(self.folder / "kept", self.home, symlinks=True)
        file = self.repository / "nanochat_core" / change.file
        text = file.read_text()
        if text.count(change.before) != 1:
            raise SystemExit(f"{change.name}: {change.file} has {text.count(change.before)} places for it")
        file.write_text(text.replace(change.before, change.after))
        started = _children_s()
        done = self.nightly()
        file.write_text(text)
        if done.returncode not in (0, 5):
            raise SystemExit(done.stderr)
        history = json.loads(self.nightly("history", "--json", is_run=False).stdout)
        return history[-1], _children_s() - started


def _children_s() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cells(change: Change, nights: Sequence[tuple[dict[str, Any], float]]) -> tuple[str, ...]:
    """A row of the table: one value where all repeats agree, else each."""

    def all_of(values: Sequence[str]) -> str:
        return values[0] if len(set(values)) == 1 else ", ".join(values)

    records = [record for record, _ in nights]
    verdicts = [record["verdict"] for record in records]
    warned = {row["label"] for verdict in verdicts for row in verdict["rows"] if row["state"] not in ("ok", "better")}
    effects = [verdict["effect_frac"] for verdict in verdicts if verdict["effect_frac"] is not None]
    short = [len(record["probe"]["runs"]) + len(record["probe"]["twins"]) for record in records if record["probe"]]
    return (
        change.name,
        "innocent" if change.is_innocent else "planted",
        all_of([verdict["outcome"] for verdict in verdicts]),
        all_of([verdict["decided_by"] or "no number" for verdict in verdicts]),
        f"{fmean(effects):+.3%}" if effects else "-",
        ", ".join(sorted(warned)) or "-",
        all_of([str(number) for number in short]) or "0",
        all_of([str(len(record["runs"])) for record in records]),
        f"{fmean(seconds for _, seconds in nights):.0f} s",
    )


def play(repeats: int, only: Sequence[str]) -> str:
    """The table, and what ought not to be."""
    headers = "change", "kind", "verdict", "decided by", "effect", "said of", "short", "in full", "CPU"
    rows, wrong = list[tuple[str, ...]](), list[str]()
    with tempfile.TemporaryDirectory(prefix="nanochat-nights-") as name:
        bench = Bench(Path(name))
        began = time.monotonic()
        bench.baseline()
        print(f"baseline after {time.monotonic() - began:.0f} s", file=sys.stderr)
        for change in CHANGES:
            if change.name not in only:
                continue
            nights = [bench.night(change) for _ in range(repeats)]
            rows.append(cells(change, nights))
            print(rows[-1], file=sys.stderr)
            if change.is_innocent and any(record["state"] == "red" for record, _ in nights):
                wrong.append(change.name)
    return f"{Table(headers, rows).markdown()}\n\ninnocent ones that were red: {', '.join(wrong) or 'none'}\n"


def spread(number: int) -> str:
    """Seeds and twins at four lengths."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="nanochat-nights-") as name:
        import os

        os.environ |= {"NANOCHAT_HOME": name, "NANOCHAT_STORE": f"{name}/store"}
        plan = plan_run(load_config("tiny", list(SETTINGS)))
        rate = f"pretrain.matrix_lr={0.9 * plan.config.pretrain.matrix_lr}"
        slower = plan_run(load_config("tiny", [*SETTINGS, rate]))

        def bits(short: RunPlan) -> float:
            return float(run_until(make, short, "evaluate_base")[-1].metrics["bits_per_byte"])

        for steps in LENGTHS:
            made = [[bits(probe.plan_of(each, seed, twin=units, steps=steps)) for seed in range(number)]
                    for each, units in ((plan, 0), (plan, 1), (slower, 0))]  # fmt: skip
            seed_sd = stdev(made[0]) / fmean(made[0])
            apart, off = ([it / one - 1 for it, one in zip(other, made[0], strict=True)] for other in made[1:])
            twin_sd = fmean(each**2 for each in apart) ** 0.5
            effect = f"{fmean(off):+.3%}, {fmean(off) / twin_sd:+.0f} sd of twins" if twin_sd else "-"
            ratio = f"{seed_sd / twin_sd:.0f}" if twin_sd else "-"
            rows.append((str(steps), f"{seed_sd:.3%}", f"{twin_sd:.4%}", ratio, effect))
            print(rows[-1], file=sys.stderr)
    return Table(("steps", "sd of seeds", "sd of twins", "ratio", "Muon's rate -10%"), rows).markdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    names = [change.name for change in CHANGES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--seeds", type=int, default=6, help="of each length of --spread")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    told = spread(given.seeds) if given.spread else play(given.repeats, given.only)
    print(told)
    if given.out:
        given.out.write_text(told)


if __name__ == "__main__":
    main()
