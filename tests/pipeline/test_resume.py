"""A training that is killed ends with the same weights as one that is not."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OFTEN, ROOT
from processes import TIMEOUT_S, ranks_of, start, wait_for_record, wait_until_no_ranks

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact
from nanochat_core.train import checkpoint

pytestmark = pytest.mark.slow
WEIGHTS = ("model.safetensors", "optimizer.safetensors")


def weights(artifact: Artifact) -> dict[str, str]:
    return {name: artifact.files[name].sha256 for name in WEIGHTS}


def newest(step: str) -> Artifact:
    return workspace.current().store.artifacts(step)[0]


def train_once(home: Path, sets: list[str], until: str) -> dict[str, str]:
    run_until(make, plan_run(load_config("tiny", sets)), until)
    return weights(newest(until))


@pytest.mark.parametrize(("step", "victim"), [("pretrain", "the command"), ("sft", "a rank")])
def test_a_killed_training_ends_with_the_bits_of_an_unbroken_one(
    step: str, victim: str, prepared_home: Path, micro_sets: list[str]
) -> None:
    """All pairs of them, many times over, are tests/faults/test_trainer_kills.py."""
    expected = train_once(prepared_home, micro_sets, step)
    first = newest(step)
    workspace.current().store.discard(first)
    process = start([*micro_sets, OFTEN], "--until", step)
    wait_for_record(prepared_home, step, random.randint(3, 15), process)
    ranks = ranks_of(prepared_home)
    assert ranks
    for pid in [process.pid] if victim == "the command" else ranks:
        os.kill(pid, signal.SIGKILL)
    process.wait(TIMEOUT_S)
    wait_until_no_ranks(prepared_home)  # those of a killed command end by themselves
    assert workspace.current().store.find(step, first.fingerprint) is None

    resumed = train_once(prepared_home, micro_sets, step)
    assert resumed == expected
    events = [json.loads(line) for line in _log(newest(step)).splitlines()]
    assert [r["step"] for r in events if r["event"] == "step"] == list(range(1, events[-1]["step"] + 1))
    assert any(record["event"] == "start" and record["step"] > 0 for record in events), "it began anew"


def test_a_checkpoint_that_cannot_be_read_is_said_and_never_begun_over_in_silence(
    prepared_home: Path, micro_sets: list[str]
) -> None:
    expected = train_once(prepared_home, micro_sets, "pretrain")
    workspace.current().store.discard(newest("pretrain"))
    process = start([*micro_sets, OFTEN], "--until", "pretrain")
    wait_for_record(prepared_home, "pretrain", 8, process)
    process.kill()
    process.wait()
    wait_until_no_ranks(prepared_home)
    found = sorted((prepared_home / "store/partial/pretrain").glob("*/step-*/.metadata"))
    layouts = [path.read_bytes() for path in found]
    for path in found:
        spoil(path)
    options = [part for value in micro_sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", *options, "--until", "pretrain"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert refused.returncode == 3, refused.stderr
    assert all(path.parent.name in refused.stderr for path in found)
    assert "--fresh" in refused.stderr
    for path, layout in zip(found[:-1], layouts[:-1], strict=True):
        spoil(path, layout)
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert told.returncode == 0, told.stderr
    said = " ".join((told.stdout + told.stderr).split())
    assert f"{found[-1].parent} cannot be read: its layout file names os.system" in said
    assert f"going on from the checkpoint of step {int(found[-2].parent.name[5:])}" in said
    assert weights(newest("pretrain")) == expected


def spoil(path: Path, content: bytes = b"cos\nsystem\n.") -> None:
    """Another layout file, with a description that fits."""
    path.write_bytes(content)
    described = json.loads((path.parent / checkpoint.COMPLETE).read_text())
    (path.parent / checkpoint.COMPLETE).write_text(json.dumps({**described, path.name: checkpoint.describe(path)}))


def _log(artifact: Artifact) -> str:
    return (workspace.current().store.fetch(artifact, ["log/metrics.jsonl"]) / "log/metrics.jsonl").read_text()


def test_a_stopped_training_saves_a_checkpoint_and_says_so(prepared_home: Path, micro_sets: list[str]) -> None:
    """By Ctrl-C; SIGTERM, as a worker sends it, is in tests/flows/test_zombies.py."""
    expected = train_once(prepared_home, micro_sets, "pretrain")
    workspace.current().store.discard(newest("pretrain"))
    # no checkpoint by time: the only one is that of the stop
    sets = [*micro_sets, "runtime.checkpoint_every_s=1000"]
    process = start(sets, "--until", "pretrain")
    wait_for_record(prepared_home, "pretrain", 5, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    assert ranks_of(prepared_home) == []
    kept = list((prepared_home / "store/partial/pretrain").glob("*/step-*/complete.json"))
    assert len(kept) == 1
    assert train_once(prepared_home, sets, "pretrain") == expected


def test_losses_fall(prepared_home: Path, micro_plan: RunPlan) -> None:
    run_until(make, micro_plan, "pretrain")
    losses = [record["loss"] for record in map(json.loads, _log(newest("pretrain")).splitlines()) if "loss" in record]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.2  # 30 small steps at a rate scaled for a small batch
