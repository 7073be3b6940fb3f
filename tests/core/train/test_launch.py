"""The supervisor of real ranks: what it does when they hang, run out of memory, or out of money."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT
from processes import wait_until_no_ranks

from nanochat_core.base.child import OutOfMemoryError
from nanochat_core.base.records import read_records
from nanochat_core.base.torchrun import STORE, Nodes
from nanochat_core.train import checkpoint, heartbeat, launch
from nanochat_core.train.launch import run_booked, run_training
from nanochat_core.train.settings import TrainJob
from nanochat_core.train.timesheet import BudgetSpentError
from nanochat_core.train.worker import EXIT_CODES, is_out_of_memory

pytestmark = pytest.mark.slow
MEMORY_BYTES = 2200 << 20  # of private memory: a rank of this model takes 0.7 GB, and 2 GB more for its largest batch


def with_settings(job: TrainJob, **changes: object) -> TrainJob:
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, **changes))


@pytest.mark.torture
def test_a_rank_that_hangs_is_found_told_and_the_training_goes_on(pretrain_job, tmp_path: Path) -> None:
    job = pretrain_job(
        tmp_path, num_steps=400, num_processes=2, device_batch_rows=4, checkpoint_every_steps=20, hang_after_s=8.0
    )
    stopped: list[int] = []
    notes: list[str] = []

    def stop_rank_1(record: dict) -> None:
        if record["event"] == "step" and record["step"] == 60 and not stopped:
            stopped.append(pid_of_rank(tmp_path, 1))
            os.kill(stopped[0], signal.SIGSTOP)

    result = run_training(job, stop_rank_1, note=notes.append)
    assert result["num_steps"] == 400
    assert len(notes) == 1
    assert "no sign of life" in notes[0]
    assert "rank 1" in notes[0]
    assert "stopped" in notes[0]
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)
    log = (tmp_path / "output.log").read_text()
    assert "stacks of rank 0" in log
    assert "_agree" in log or "reduce" in log, "rank 0 was waiting for the other in a collective"
    records = read_records(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 401))
    assert [r["step"] for r in records if r["event"] == "start"][-1] >= 40, "it began anew"


def pid_of_rank(work: Path, rank: int) -> int:
    found = re.search(r'"pid": (\d+)', (work / f"heartbeat-{rank}.json").read_text())
    assert found
    return int(found[1])


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process's memory")
def test_too_little_memory_halves_the_rows_and_keeps_the_batch(pretrain_job, tmp_path: Path) -> None:
    job = pretrain_job(tmp_path, num_steps=2, device_batch_rows=4096)
    job = with_settings(job, total_batch_rows=4096, validation_rows=8)
    notes: list[str] = []

    def limit(record: dict) -> None:
        if record["event"] == "start":  # its first step takes far longer than the supervisor needs to tell us
            resource.prlimit(pid_of_rank(tmp_path, 0), resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    result = run_training(job, limit, note=notes.append)
    assert result["num_steps"] == 2
    assert "with 4096 rows per pass" in notes[0]
    assert "going on with 2048" in notes[0]
    assert all("4096 rows stays as it is" in note for note in notes)
    steps = [record for record in read_records(tmp_path / "metrics.jsonl") if record["event"] == "step"]
    assert [record["tokens"] for record in steps] == [4096 * 64, 2 * 4096 * 64]


@pytest.mark.parametrize(("asked", "chosen"), [(16, 16), (None, 16), (None, None)])
def test_memory_that_never_suffices_is_tried_down_to_one_row_and_then_an_error(
    pretrain_job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, chosen: int | None
) -> None:
    tried: list[int | None] = []

    def run_out(job: TrainJob, on_record: Callable[[dict], None], nodes: object, *, check: object) -> dict:
        if not tried and chosen is not None:
            on_record({"event": "start", "step": 0, "device_batch_rows": chosen})
        tried.append(job.runtime.device_batch_rows)  # the later ones come to no start record
        raise OutOfMemoryError("no memory is left")

    monkeypatch.setattr(launch, "_run_once", run_out)
    with pytest.raises(OutOfMemoryError):
        run_training(pretrain_job(tmp_path, device_batch_rows=asked), lambda record: None)
    assert tried == [asked, *([8, 4, 2, 1] if chosen else [])]


BLOCKED = """
import sys, threading, time
from nanochat_core.base import distributed
from nanochat_core.train import worker
import torch

def train(job, is_stopping):
    threading.Thread(target=time.sleep, args=(300,)).start()  # as a watchdog that waits for the other ranks
    raise torch.OutOfMemoryError("CUDA out of memory")

worker._train, distributed.stop = train, lambda: time.sleep(300)
worker.main()
"""


def test_a_rank_that_failed_waits_for_nobody(pretrain_job, tmp_path: Path) -> None:
    job = pretrain_job(tmp_path)
    Path(job.paths.work).mkdir(parents=True, exist_ok=True)
    job.save(tmp_path / "plan.json")
    done = subprocess.run([sys.executable, "-c", BLOCKED, tmp_path / "plan.json"], capture_output=True, timeout=60)
    assert done.returncode == EXIT_CODES["out_of_memory"], done.stderr
    assert json.loads((Path(job.paths.work) / "result.json").read_text())["status"] == "out_of_memory"


def test_only_a_lack_of_memory_is_taken_for_one() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def booked(job: TrainJob, sheet: Path, *, on_record: Callable[[dict], None] = lambda record: None) -> dict:
    return run_booked(
        job, on_record, Nodes(), sheet=sheet, check=lambda: None, note=lambda text: None, close=lambda: None
    )


class Enough(Exception):
    """Raised by a test to stop a training."""


def test_ranks_of_one_machine_listen_on_it_alone_and_torchrun_not_at_all(pretrain_job, tmp_path: Path) -> None:
    """SECURITY.md, "While a training runs": no store and no rendezvous has a port."""
    seen: dict[int, set[str]] = {}
    stores: set[str] = set()

    def look(record: dict) -> None:
        if record["event"] == "step":
            children = psutil.Process().children(recursive=True)  # those of other tests may be among them
            for one in (each for each in children if str(tmp_path) in " ".join(each.cmdline())):
                seen[one.pid] = {at.laddr.ip for at in one.net_connections() if at.status == psutil.CONN_LISTEN}
                stores.update(filter(None, [one.environ().get(STORE)]))
            raise Enough

    with pytest.raises(Enough):
        run_training(pretrain_job(tmp_path, num_steps=10_000, num_processes=2), look)
    assert sorted(seen.values(), key=len) == [set(), {"127.0.0.1"}, {"127.0.0.1"}], "torchrun, and two ranks with gloo"
    assert len(stores) == 1
    assert not os.path.lexists(stores.pop()), "it ended with torchrun"


def test_a_budget_that_is_spent_stops_with_a_checkpoint_and_a_higher_one_goes_on(pretrain_job, tmp_path: Path) -> None:
    job = pretrain_job(tmp_path, num_steps=1_000_000, usd_per_gpu_hour=3600.0)  # a dollar a second
    sheet = tmp_path / "timesheet.jsonl"
    began_s = time.time()

    def stop_at_20(record: dict) -> None:
        if record["event"] == "step" and record["step"] >= 20:
            raise Enough

    with pytest.raises(Enough):
        booked(job, sheet, on_record=stop_at_20)
    first_s = time.time() - began_s
    with pytest.raises(BudgetSpentError, match=r"\$[\d.,]+ are spent .* the limit is \$1\.00"):
        booked(limited(job, 1.0), sheet)
    refused_s = time.time() - began_s
    assert refused_s - first_s < 1, "it is not even started"

    steps = []
    with pytest.raises(BudgetSpentError) as stopped:
        booked(limited(job, 3 * first_s + 2), sheet, on_record=lambda record: steps.append(record["step"]))
    assert stopped.value.exit_code == 7
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    last = int(saved.name.removeprefix("step-"))
    assert last == max(steps) >= 20, "the checkpoint is of the last step taken"

    end = dataclasses.replace(job.settings.schedule, num_steps=last + 10)
    result = booked(with_settings(job, schedule=end), sheet)
    assert result["num_steps"] == last + 10
    wall_s = time.time() - began_s
    tries = result["tries"]
    in_buckets_s = sum(sum(one["buckets"].values()) for one in tries)
    assert len(tries) == 4
    assert in_buckets_s + sum(one["queue_s"] for one in tries) == pytest.approx(wall_s, rel=0.01, abs=0.3)
    assert result["gpu_s"] == pytest.approx(in_buckets_s, rel=0.01, abs=0.3)


def limited(job: TrainJob, max_cost_usd: float) -> TrainJob:
    return dataclasses.replace(job, runtime=dataclasses.replace(job.runtime, max_cost_usd=max_cost_usd))


def test_a_slow_phase_or_a_supervisor_that_slept_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_EVERY_S", 0.05)
    watch = heartbeat.Watch(tmp_path, plan=tmp_path / "plan.json")
    beat = heartbeat.Heartbeat(tmp_path, rank=0, hang_after_s=0.4)
    beat.phase("validation", 3)
    for _ in range(3):
        time.sleep(0.3)
        watch.check()
    for step in range(heartbeat.SLOW_STEPS + 2):
        beat.step(step)
        time.sleep(heartbeat.BEAT_EVERY_S)
        watch.check()
    watch._polled_s -= 1000.0  # the machine slept between two polls
    watch.check()
    with pytest.raises(heartbeat.HungError, match="rank 0"):
        poll(watch)


def poll(watch: heartbeat.Watch) -> None:
    for _ in range(200):
        time.sleep(0.1)
        watch.check()


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from nanochat_core.base.torchrun import STORE, Nodes
from nanochat_core.train.launch import run_booked
from nanochat_core.train.settings import TrainJob

def on_record(record):
    if record["event"] == "step" and record["step"] >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

nothing = lambda *_: None
job = TrainJob.load(Path(sys.argv[1]))
sheet = Path(sys.argv[3])
run_booked(job, on_record, Nodes(), sheet=sheet, check=nothing, note=nothing, close=nothing)
"""


@pytest.mark.torture
def test_the_buckets_add_up_to_the_wall_after_three_kills_of_the_supervisor(pretrain_job, tmp_path: Path) -> None:
    job = pretrain_job(tmp_path, num_steps=2000, checkpoint_every_steps=150, validate_every_steps=400)
    job.save(tmp_path / "job.json")
    sheet = tmp_path / "timesheet.jsonl"
    began_s = time.time()
    for kill_at in (400, 900, 1300):
        command = [sys.executable, "-c", KILLED_AT, str(tmp_path / "job.json"), str(kill_at), str(sheet)]
        assert subprocess.run(command, cwd=ROOT, timeout=280).returncode == -signal.SIGKILL
        wait_until_no_ranks(tmp_path)  # in a pipeline each attempt has a folder of its own; here they share one
        time.sleep(1.0)
    tries = booked(job, sheet)["tries"]
    wall_s = time.time() - began_s
    assert len(tries) == 4
    in_buckets_s = sum(sum(one["buckets"].values()) for one in tries)
    waited_s = sum(one["queue_s"] for one in tries)
    start_s = tries[0]["started_at_s"] - began_s  # of the first supervisor's own process
    assert in_buckets_s + waited_s + start_s == pytest.approx(wall_s, rel=0.01)
    assert waited_s >= 3.0
    assert tries[3]["buckets"]["lost"] == 0
    told = read_records(tmp_path / "metrics.jsonl")
    train_s = sum(one["buckets"]["train"] + one["buckets"]["compile"] for one in tries)
    assert train_s == pytest.approx(sum(r["step_ms"] / 1e3 for r in told if r["event"] == "step"), rel=0.2)
