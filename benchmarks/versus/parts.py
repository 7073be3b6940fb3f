"""The stages that are compared: how large, what a result is of, and what is not the same work."""

import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.versus import material
from benchmarks.versus.harness import Failed, Measured, Row, Side, run_child, run_to_end, run_until

ROOT = Path(__file__).resolve().parents[2]
PEER_STEP = "step 00000/"
FEW = ("copa", "arc_easy", "winogrande", "lambada_openai")  # of CORE, for the quick table

SIZES = {  # of the whole table and of the quick one
    "num_train": (6, 1),  # shards of text to learn the vocabulary from and to encode
    "steps": (3, 1),
    "bpb_rows": (32, 8),
    "core_items": (11, 11),  # nanochat draws ten examples from the others
    "core_few": ((), FEW),
    "num_choices": (200, 64),
    "num_problems": (24, 6),
    "answer_tokens": (256, 128),
    "num_questions": (4, 1),
    "samples": (16, 16),
    "rl_tokens": (128, 64),
    "greedy_tokens": (64, 32),
    "streams": (4, 2),
    "stream_tokens": (128, 64),
    "client_tokens": (64, 48),
}


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    title: str
    """Its sizes in braces."""
    unit: str = ""
    """What its rounds are counted in where the two sides may do different numbers."""
    note: str = ""
    """What is not the same work."""
    has_types: bool = True
    """Whether the compute type matters."""


OURS_EAGER = "nanochat compiles for it first, which is not timed; ours does not"
PARTS = {
    "vocabulary": Stage("vocabulary of {vocab_size:,} from {train_mb:.0f} MB", has_types=False),
    "encoding": Stage(
        "encoding {train_mb:.0f} MB",
        note="ours in processes, to files; nanochat as its loader calls it, in four threads, to lists",
        has_types=False,
    ),
    "first-step": Stage(
        "command to the end of the first step",
        note="`nanochat run` with Prefect's server, the text encoded before; base_train, its compile cache warm",
        has_types=False,
    ),
    "first-step-plain": Stage(
        "the same without Prefect", note="`nanochat run --no-prefect`, else as above", has_types=False
    ),
    "pretraining": Stage("pretraining, a step of {batch_tokens:,} tokens", note=OURS_EAGER),
    "bits-per-byte": Stage("bits per byte, {bpb_rows} x {context:,} tokens"),
    "core": Stage(
        "CORE, {core_items} items of each of {num_core} benchmarks",
        note="ours writes its prompts as well, which a run does once for all its models",
    ),
    "fine-tuning": Stage("fine-tuning, a step of {batch_tokens:,} tokens", note=OURS_EAGER),
    "choices": Stage("{choices_of}, {num_choices} questions with choices"),
    "generation": Stage(
        "{problems_of}, {num_problems} answers of up to {answer_tokens} tokens",
        unit="token",
        note="nanochat answers one question at a time",
    ),
    "rl": Stage(
        "RL, a step of {num_questions} x {samples} answers of up to {rl_tokens} tokens",
        unit="token",
        note="rewards by a rule of the bench; each side draws its own answers; ours measures KL and entropy as well",
    ),
    "one-stream": Stage("one stream, both in process", unit="token"),
    "one-client": Stage(
        "one client", unit="token", note="ours over HTTP, server and client counted; nanochat in process"
    ),
    "eight-clients": Stage(
        "eight clients", unit="token", note="ours over HTTP, all at once; nanochat in process, one after the other"
    ),
}


def chosen(names: Sequence[str]) -> list[str]:
    """The parts of these names in the table's order; all where there is none."""
    if unknown := [name for name in names if name not in PARTS]:
        raise Failed(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    return [name for name in PARTS if not names or name in names]


class Both:
    """Both sides, with their material."""

    def __init__(
        self, peer: Path, python: Path, folder: Path, *, data: Path, depth: int, is_quick: bool, threads: int | None
    ) -> None:
        self.data = data.resolve()
        sizes = {name: each[is_quick] for name, each in SIZES.items()}
        self.given: dict[str, Any] = {**sizes, **material.sizes(depth), "dtype": "auto"}
        key = json.dumps([self.given, str(self.data), str(peer)]) + Path(material.__file__).read_text()
        self.folder = folder.resolve() / f"material-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        places = {"PYTHONPATH": str(peer), "NANOCHAT_BASE_DIR": str(self.folder / "peer")}
        self.ours = Side("ours", (sys.executable, "-m", "benchmarks.versus.ours"), ROOT, own)
        script = Path(__file__).with_name("peer.py")
        self.peer = Side("nanochat", (str(python), str(script)), peer, {**own, **places})
        self._are_warm: set[str] = set()
        self._prepare()
        self.types = {side.name: dict(self._one(side, "about").result) for side in (self.ours, self.peer)}
        """Of each side: compute type, device, torch."""

    def _prepare(self) -> None:
        done = self.folder / "given.json"
        if done.is_file():
            self.given = json.loads(done.read_text())
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        print("preparing text, tokenizer, weights and questions for both sides", file=sys.stderr, flush=True)
        self.given |= material.lay(self.folder, self.data, self.given)
        self.given["vocab_size"] = run_child(self.peer, "prepare", self._written("prepare")).result["vocab_size"]
        self.given["sets"] = material.sets(self.given)
        made = Side("ours", (sys.executable, "-m", "benchmarks.versus.material"), ROOT)
        self.given |= run_child(made, "prepare", self._written("prepare")).result["made"]
        del self.given["talks"]  # which every child would read
        done.write_text(json.dumps(self.given))

    def _written(self, name: str) -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(self.given))
        return path

    def measure(self, name: str, *, dtype: str, repeats: int) -> Row:
        """One stage, in pairs; the sides begin in turn."""
        self.given["dtype"] = dtype
        stage = PARTS[name]
        row = Row(stage.title.format_map(self.given), stage.unit, stage.note)
        if name == "core" and not self.given["num_core"]:
            return dataclasses.replace(row, problem="there is no core_eval in --data")
        for number in range(repeats):
            print(f"{name}: pair {number + 1} of {repeats}", file=sys.stderr, flush=True)
            sides = (self.ours, self.peer) if number % 2 == 0 else (self.peer, self.ours)
            found = {side.name: self._one(side, name) for side in sides}
            row.pairs.append((found["ours"], found["nanochat"]))
        return row

    def _one(self, side: Side, name: str) -> Measured:
        if name.startswith("first-step"):
            plain = name.endswith("plain")
            return self._our_first_step(plain) if side is self.ours else self._their_first_step()
        return run_child(side, name, self._written(name))

    def _their_first_step(self) -> Measured:
        options = {
            "depth": self.given["depth"],
            "head-dim": material.HEAD_DIM,
            "max-seq-len": material.CONTEXT,
            "device-batch-size": material.BATCH_ROWS,
            "total-batch-size": self.given["batch_tokens"],
            "num-iterations": 20,
            **dict.fromkeys(("eval-every", "core-metric-every", "sample-every"), -1),
        }
        command = [self.peer.command[0], "-u", "-m", "scripts.base_train"]
        command += [f"--{name}={value}" for name, value in options.items()]
        log = self.folder / "first-step.nanochat.log"
        if "nanochat" not in self._are_warm:  # once for what it compiles, which it then finds
            self._are_warm.add("nanochat")
            run_until(self.peer, command, lambda said: PEER_STEP in said, log)
        return run_until(self.peer, command, lambda said: PEER_STEP in said, log)

    def _our_first_step(self, plain: bool) -> Measured:
        """In a copy of a home in which everything up to the tokens is made."""
        ready = self.folder / "first-home"
        values = [*self.given["sets"], "corpus.source=path", f"corpus.path={self.given['few']}"]
        sets = [part for value in values for part in ("--set", value)]
        command = [sys.executable, "-m", "flows.cli", "run", "cpu", *sets]
        log = self.folder / "first-step.ours.log"
        if "ours" not in self._are_warm:  # the code may have changed since the home was made
            self._are_warm.add("ours")
            run_to_end(self._at(ready), [*command, "--until", "tokens"], log)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            home = Path(folder) / "home"
            shutil.copytree(ready, home)
            more = ["--until", "pretrain", *(["--no-prefect"] if plain else [])]
            return run_until(self._at(home), [*command, *more], lambda said: _has_step(home), log)

    def _at(self, home: Path) -> Side:
        places = {"NANOCHAT_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "DO_NOT_TRACK": "1"}
        return dataclasses.replace(self.ours, environment={**self.ours.environment, **places})


def _has_step(home: Path) -> bool:
    """Whether a training in this home has told of a step."""
    return any('"event": "step"' in path.read_text() for path in home.glob("work/*/attempt-*/metrics.jsonl"))
