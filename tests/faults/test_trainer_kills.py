"""The trainer under many kills: whoever dies and whenever, no rank survives and the weights come out the same.

Each life of a training ends with a SIGKILL of one of its ranks, of torchrun where there are several, or of what
supervises them, some at a random step and some at a random moment of the start; after a few lives it may run to its
end, and what it made is compared with what an unbroken run makes. The short version is tests/pipeline/test_resume.py.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MICRO, OFTEN, ROOT
from processes import ranks_of, torchruns_of, wait_until_no_ranks

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.records import read_records
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact

pytestmark = [pytest.mark.torture, pytest.mark.slow]
NUM_KILLS = int(os.environ.get("NANOCHAT_FAULTS_KILLS", "14"))  # of each of the four trainings: 56
LIVES = 5  # kills before a training may end
LONGER = (OFTEN, "pretrain.max_tokens=40960", "sft.num_arithmetic=400")  # about 80 steps each
TIMEOUT_S = 400.0  # for anything to happen: patience on a busy machine
NO_RANKS_S = 60.0  # a supervisor's ranks save first; the matrix has the 15 s that are promised
START_S = 8.0  # moments of a start are drawn from this time
VICTIMS = ("a rank", "torchrun", "the supervisor")


@pytest.fixture(scope="module")
def sets(small_corpus: Path) -> list[str]:
    return [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}", *LONGER]


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory, sets: list[str]) -> Iterator[Path]:
    """A home with an unbroken pretraining, and what fine-tuning needs."""
    home = tmp_path_factory.mktemp("trainer") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(home))
        patch.setenv("NANOCHAT_STORE", str(home / "store"))
        run_until(make, plan_run(load_config("tiny", sets)), "conversations")
        yield home


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("step", ["pretrain", "sft"])
def test_many_kills_change_no_digest_and_leave_no_rank(
    step: str, num_processes: int, trained_home: Path, tmp_path: Path, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained_home, home, symlinks=True)
    monkeypatch.setenv("NANOCHAT_HOME", str(home))
    monkeypatch.setenv("NANOCHAT_STORE", str(home / "store"))
    chosen = [*sets, f"runtime.num_processes={num_processes}", f"runtime.device_batch_rows={4 // num_processes}"]
    seed = int(os.environ.get("NANOCHAT_FAULTS_SEED", "1"))
    draw = random.Random(f"{seed} {step} {num_processes}")
    if step == "pretrain":
        discard(newest("pretrain"))
    expected = finish(chosen, step)
    killed: Counter[str] = Counter()
    num_compared = num_resumed = 0
    while killed.total() < NUM_KILLS:
        discard(newest(step))
        for _ in range(min(LIVES, NUM_KILLS - killed.total())):
            victim = one_life(home, step, chosen, draw)
            killed[victim] += victim != ""
            wait_until_no_ranks(home, timeout_s=NO_RANKS_S)
        made = finish(chosen, step)
        num_compared += 1
        num_resumed += num_starts(newest(step)) > 1
        assert made == expected, f"after {dict(killed)}, drawn with seed {seed}"
    assert num_resumed, "no training went on from a checkpoint"
    print(
        f"\n| {step} | {num_processes} | {killed.total()} | "
        + " | ".join(str(killed[victim]) for victim in VICTIMS)
        + f" | {num_compared} | {num_resumed} | 0 | 0 |"
    )


def newest(step: str) -> Artifact:
    return workspace.current().store.artifacts(step)[0]


def discard(artifact: Artifact) -> None:
    workspace.current().store.discard(artifact)


def finish(sets: list[str], step: str) -> dict[str, str]:
    """Train to the end; digests of the results by file."""
    run_until(make, plan_run(load_config("tiny", sets)), step)
    return {name: entry.sha256 for name, entry in newest(step).files.items() if not name.startswith("log/")}


def num_starts(artifact: Artifact) -> int:
    folder = workspace.current().store.fetch(artifact, ["log/metrics.jsonl"])
    return sum(record["event"] == "start" for record in read_records(folder / "log/metrics.jsonl"))


def one_life(home: Path, step: str, sets: list[str], draw: random.Random) -> str:
    """Start the run, and kill one of its processes at a random moment; the victim, or nothing if the run was faster."""
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", "--until", step, *options]
    supervisor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if draw.random() < 0.6:
            wait_for_step(home, step, supervisor, ahead=draw.randint(0, 25))
        else:
            wait_for(lambda: bool(ranks_of(home)), supervisor)
            time.sleep(draw.uniform(0, START_S))
        victims = {"a rank": ranks_of(home), "torchrun": torchruns_of(home), "the supervisor": [supervisor.pid]}
        victim = draw.choice([each for each in VICTIMS if each != "torchrun" or victims[each]])
        found = victims[victim]
        is_over = supervisor.poll() is not None or not found
        if is_over:
            return ""
        os.kill(draw.choice(sorted(found)), signal.SIGKILL)
        return victim if supervisor.wait(TIMEOUT_S) != 0 else ""
    except ProcessLookupError:  # it ended at that moment
        return ""
    finally:
        supervisor.kill()
        supervisor.wait()


def wait_for_step(home: Path, step: str, supervisor: "subprocess.Popen[bytes]", *, ahead: int) -> None:
    """Until the training is so many steps further than where this life began."""

    def reached() -> bool:
        logs = list(home.glob(f"work/{step}-*/attempt-*/metrics.jsonl"))
        records = read_records(max(logs, key=lambda path: path.parent.name)) if logs and ranks_of(home) else []
        begun = max((number for number, record in enumerate(records) if record["event"] == "start"), default=None)
        return begun is not None and sum(record["event"] == "step" for record in records[begun:]) >= ahead

    wait_for(reached, supervisor)


def wait_for(is_right, supervisor: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_right() and supervisor.poll() is None:
        assert time.monotonic() < deadline, f"nothing happened in {TIMEOUT_S} s"
        time.sleep(0.02)
