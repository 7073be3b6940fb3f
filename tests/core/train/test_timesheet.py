"""Every second of a training is in one bucket, however often it was killed."""

import random
import time
from typing import Any

import pytest

from nanochat_core.base.records import read_records
from nanochat_core.train.timesheet import BUCKETS, Timesheet, gpu_seconds, tries_of

Lines = list[dict[str, Any]]


class Simulated:
    """A training on a simulated clock that knows by itself what each second went into."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock_s, self.lines = 1000.0, Lines()
        self.spent = dict.fromkeys((*BUCKETS, "queue"), 0.0)
        self.step = self.saved = 0
        self.later: dict[int, float] = {}  # step -> seconds, since the last checkpoint

    def line(self, event: str, seconds: float, bucket: str, **values: Any) -> None:
        self.clock_s += seconds
        self.spent[bucket] += seconds
        self.lines.append({"event": event, "time_s": self.clock_s, **values})

    def attempt(self, num_steps: int, *, is_killed: bool) -> None:
        self.line("begin", self.random.uniform(0, 50) if self.lines else 0.0, "queue", world_size=2)
        self.line("start", 10.0, "start", step=self.saved)
        self.step = self.saved
        for _ in range(num_steps):
            self.step += 1
            if self.random.random() < 0.3:  # a sign of life in mid-step
                self.lines.append({"event": "alive", "time_s": self.clock_s + 0.5})
            self.line("step", 1.0, "train", step=self.step)
            self.later[self.step] = 1.0
            if self.random.random() < 0.2:
                self.line("checkpoint", 0.25, "checkpoint", step=self.step)
                self.saved, self.later = self.step, {}
        if is_killed:
            self.line("alive", self.random.uniform(0, 5), "lost")
            lost_s = sum(self.later.values())
            self.later = {}
            self.spent["train"] -= lost_s
            self.spent["lost"] += lost_s
        else:
            self.line("end", 0.5, "checkpoint", step=self.step)
            self.line("done", 3.0, "upload", how="completed")


@pytest.mark.parametrize("seed", range(30))
def test_the_buckets_are_those_of_the_simulation_and_add_up_to_the_wall(seed: int) -> None:
    told = Simulated(seed)
    for _ in range(3):
        told.attempt(told.random.randrange(1, 40), is_killed=True)
    told.attempt(25, is_killed=False)
    tries = tries_of(told.lines)
    found = {name: sum(one.buckets[name] for one in tries) for name in BUCKETS}
    found["queue"] = sum(one.queue_s for one in tries)
    assert found == pytest.approx(told.spent)
    assert sum(found.values()) == pytest.approx(told.clock_s - 1000.0)
    assert sum(one.gpu_s for one in tries) == pytest.approx(gpu_seconds(told.lines))
    assert gpu_seconds(told.lines) == pytest.approx(2 * (told.clock_s - 1000.0 - found["queue"]))


@pytest.mark.parametrize("seed", range(20))
def test_any_lines_in_any_order_add_up(seed: int) -> None:
    """A clock that jumps, ranks started again inside of an attempt, a sheet that ends anywhere."""
    rng = random.Random(seed)
    clock_s, lines = 0.0, [{"event": "begin", "time_s": 0.0, "world_size": 1}]
    for _ in range(60):
        clock_s += rng.uniform(-1.0, 5.0)
        event = rng.choice(["begin", "start", "step", "step", "validate", "checkpoint", "alive", "end", "done"])
        lines.append({"event": event, "time_s": clock_s, "world_size": 1, "step": rng.randrange(20), "how": "stopped"})
    for one in tries_of(lines):
        assert sum(one.buckets.values()) == pytest.approx(one.seconds)
        assert min(one.buckets.values()) >= 0


def test_a_validation_that_is_taken_again_was_lost() -> None:
    lines = [
        {"event": "begin", "time_s": 0.0, "world_size": 1},
        {"event": "start", "time_s": 2.0, "step": 0},
        {"event": "step", "time_s": 3.0, "step": 1},
        {"event": "validate", "time_s": 8.0, "step": 1},
        {"event": "begin", "time_s": 10.0, "world_size": 1},
        {"event": "start", "time_s": 12.0, "step": 1},
        {"event": "validate", "time_s": 17.0, "step": 1},
    ]
    first, second = tries_of(lines)
    assert (first.buckets["train"], first.buckets["evaluate"], first.buckets["lost"]) == (1.0, 0.0, 5.0)
    assert (second.buckets["evaluate"], second.queue_s) == (5.0, 2.0)


def test_compiling_is_what_the_first_steps_took_beyond_a_usual_one() -> None:
    clock_s, lines = (
        5.0,
        [{"event": "begin", "time_s": 0.0, "world_size": 1}, {"event": "start", "time_s": 5.0, "step": 0}],
    )
    for step in range(1, 21):
        clock_s += 31.0 if step == 1 else 1.0
        lines.append({"event": "step", "time_s": clock_s, "step": step})
    [only] = tries_of(lines)
    assert (only.buckets["compile"], only.buckets["train"], only.buckets["start"]) == (30.0, 20.0, 5.0)


def test_a_sheet_goes_on_after_a_kill_and_knows_what_was_spent(tmp_path) -> None:
    path = tmp_path / "timesheet.jsonl"
    lines = '{"event": "begin", "time_s": 10.0, "world_size": 4}\n{"event": "alive", "time_s": 25.0}\n{"event": "al'
    path.write_text(lines)  # killed in mid-write
    sheet = Timesheet(path, world_size=4)
    assert sheet.gpu_s == pytest.approx(60.0, abs=1.0)
    sheet.done("failed")
    following = Timesheet(tmp_path / "sft.jsonl", world_size=1, base=path)
    assert following.base_gpu_s == pytest.approx(60.0, abs=1.0)
    following.done("completed")
    last = Timesheet(tmp_path / "rl.jsonl", world_size=1, base=tmp_path / "sft.jsonl")
    assert last.base_gpu_s == pytest.approx(60.0, abs=1.0)


def test_records_that_a_resumed_training_repeats_are_booked_once(tmp_path) -> None:
    sheet = Timesheet(tmp_path / "timesheet.jsonl", world_size=1)
    now_s = time.time()
    records = [{"event": "start", "step": 0, "time_s": now_s - 50.0}]  # of the attempt before, in the checkpoint's log
    records += [{"event": "step", "step": step, "time_s": now_s - 50.0 + step} for step in range(1, 9)]
    records += [{"event": "start", "step": 8, "time_s": now_s + 5.0}]
    records += [{"event": "step", "step": step, "time_s": now_s + step} for step in (9, 10)]
    for record in [*records, *records]:
        sheet.record(record)
    sheet.done("failed")
    lines = read_records(sheet.path)
    assert [line["event"] for line in lines] == ["begin", "start", "step", "step", "done"]
    [only] = tries_of(lines)
    assert (only.buckets["start"], only.buckets["lost"]) == (pytest.approx(5.0, abs=0.5), 0.0)
