"""The ledger adds up, whatever the log says, and the critical path is the longest chain."""

import itertools
import random

import pytest

from nanochat_core.config import RuntimeConfig
from nanochat_core.plan import GPUS
from nanochat_core.report.attempts import Attempt, attempts
from nanochat_core.report.ledger import critical_path, machine_rate, run_ledger, step_buckets, window
from nanochat_core.report.ledger_rows import ledger_rows


def _records(*, begin_s: float, first: int = 1, last: int = 20, step_s: float = 2.0, before_s: float = 0.0):
    """One attempt: its first step compiles for 30 s more; one validation of 5 s and one checkpoint of 1 s."""
    clock, train_s = begin_s, before_s
    yield {"event": "start", "time_s": clock, "step": first - 1, "world_size": 8}
    for step in range(first, last + 1):
        seconds = step_s + (30.0 if step == first else 0.0)
        clock, train_s = clock + seconds, train_s + seconds
        yield {"event": "step", "time_s": clock, "step": step, "step_ms": 1e3 * seconds, "train_s": train_s}
    yield {"event": "validate", "time_s": clock + 5, "step": last, "validate_s": 5.0}
    yield {"event": "checkpoint", "time_s": clock + 6, "step": last, "save_s": 1.0}


def test_an_attempt_tells_steps_from_compiling():
    (found,) = attempts(_records(begin_s=100.0))
    assert (found.train_s, found.compile_s, found.validate_s, found.checkpoint_s) == pytest.approx((40, 30, 5, 1))
    assert (found.started_at_s, found.ended_at_s, found.world_size) == (100.0, 176.0, 8)


def test_a_resumed_attempt_counts_only_its_own_steps():
    records = [*_records(begin_s=0.0, last=10), *_records(begin_s=500.0, first=11, before_s=50.0)]
    first, second = attempts(records)
    assert first.train_s == second.train_s == pytest.approx(20.0)


def test_a_log_without_a_start_or_clock_is_one_attempt():
    (found,) = attempts([{"event": "step", "step": 1, "step_ms": 500.0, "train_s": 0.5}])
    assert (found.train_s, found.started_at_s) == (0.5, None)
    assert attempts([]) == []


def test_buckets_of_a_training_name_what_the_log_has_and_leave_the_rest_to_the_start():
    found = attempts(_records(begin_s=100.0))
    buckets = step_buckets("pretrain", 100.0, found, ended_at_s=180.0)
    assert buckets == pytest.approx({"train": 40, "evaluate": 5, "checkpoint": 1, "upload": 4, "lost": 0, "start": 50})


def test_time_between_the_last_kept_record_and_a_restart_is_lost():
    found = attempts([*_records(begin_s=0.0, last=10), *_records(begin_s=200.0, first=11, before_s=50.0)])
    assert step_buckets("pretrain", 500.0, found)["lost"] == pytest.approx(200.0 - 56.0)


def test_buckets_always_add_up_to_the_steps_seconds():
    rng = random.Random(4)
    for _ in range(200):
        tries = [
            Attempt(world_size=1, started_at_s=rng.choice([None, rng.uniform(0, 50)]), ended_at_s=rng.uniform(50, 90),
                    train_s=rng.uniform(0, 60), compile_s=1.0, validate_s=rng.uniform(0, 9), checkpoint_s=rng.random())
            for _ in range(rng.randrange(4))
        ]  # fmt: skip
        seconds = rng.choice([0.0, rng.uniform(0, 400)])
        step = rng.choice(["pretrain", "sft", "corpus", "evaluate_core", "benchmark_chat", "unheard_of"])
        buckets = step_buckets(step, seconds, tries, ended_at_s=rng.choice([None, rng.uniform(0, 200)]))
        assert sum(buckets.values()) == pytest.approx(seconds)
        assert min(buckets.values()) >= 0


def test_a_step_without_a_log_is_one_bucket(ref):
    assert step_buckets("evaluate_core", 9.0, []) == {"evaluate": 9.0}
    assert step_buckets("corpus", 9.0, []) == {"steps": 9.0}


@pytest.fixture
def graph(ref):
    """a -> b -> d -> e and a -> c -> e, with c the slow one."""
    a = ref("a", seconds=1.0, is_cached=True)
    b, c = ref("b", seconds=2.0, inputs={"a": a}), ref("c", seconds=10.0, inputs={"a": a}, is_cached=True)
    d = ref("d", seconds=3.0, inputs={"b": b})
    return [a, b, c, d, ref("e", seconds=1.0, inputs={"c": c, "d": d})]


def test_the_critical_path_is_the_longest_chain_in_any_order_of_the_refs(graph):
    for order in itertools.permutations(graph):
        assert critical_path(order) == ["a", "c", "e"]
    assert critical_path(graph, seconds=lambda ref: 0.0 if ref.is_cached else ref.seconds) == ["a", "b", "d", "e"]
    assert critical_path([]) == []


def test_made_and_reused_are_counted_apart(graph):
    ledger = run_ledger(graph, RuntimeConfig())
    assert (ledger.seconds(is_cached=False), ledger.seconds(is_cached=True)) == (6.0, 11.0)
    assert ledger.critical_s == 12.0
    for is_cached in (False, True):
        buckets = {name for step in ledger.steps for name in step.buckets}
        total = sum(ledger.bucket_s(name, is_cached=is_cached) for name in buckets)
        assert total == ledger.seconds(is_cached=is_cached)


def test_attempts_before_the_step_began_are_not_in_its_seconds(ref):
    records = [*_records(begin_s=0.0, last=10), *_records(begin_s=200.0, first=11, before_s=50.0)]
    made = ref("pretrain", seconds=80.0, metrics={"device": "cpu"})
    found = {"pretrain": attempts(records)}
    for windows in (None, {"pretrain": (190.0, 270.0)}):
        (step,) = run_ledger([made], RuntimeConfig(), attempts=found, windows=windows).steps
        assert step.buckets["train"] == pytest.approx(20.0)
        assert step.earlier_s == pytest.approx(56.0)
    (whole,) = run_ledger([made], RuntimeConfig(), attempts=found, windows={"pretrain": (-1.0, 270.0)}).steps
    assert whole.earlier_s == 0.0


@pytest.mark.parametrize(
    ("device", "runtime", "usd"),
    [
        ("cpu", RuntimeConfig(usd_per_gpu_hour=9.0), 0.0),
        ("mps", RuntimeConfig(), 0.0),
        ("NVIDIA H100 80GB HBM3", RuntimeConfig(), 8 * GPUS["H100"][2]),
        ("NVIDIA GeForce RTX 4090", RuntimeConfig(), 8 * GPUS["RTX4090"][2]),
        ("NVIDIA H100 80GB HBM3", RuntimeConfig(usd_per_gpu_hour=2.5), 20.0),
        ("NVIDIA Tomorrow", RuntimeConfig(), None),
        ("NVIDIA Tomorrow", RuntimeConfig(usd_per_gpu_hour=2.5), 20.0),
    ],
)
def test_the_price_is_that_of_the_machine_that_trained(ref, device, runtime, usd):
    rate = machine_rate([ref("pretrain", metrics={"device": device})], runtime, num_gpus=8)
    assert rate.usd_per_hour == usd
    assert rate.usd(1800.0) == (None if usd is None else usd / 2)


def test_dollars_follow_the_number_of_processes_in_the_log(ref, plan):
    found = {"pretrain": [vars(attempt) for attempt in attempts(_records(begin_s=100.0))]}
    refs = [ref("pretrain", seconds=3600.0, metrics={"device": "NVIDIA H100"}),
            ref("report", seconds=0.0, metrics={"attempts": found})]  # fmt: skip
    rows = ledger_rows(plan, refs)
    assert rows.total.made_usd == f"${8 * GPUS['H100'][2]:.2f}"
    assert rows.step_usd["pretrain"] == rows.total.made_usd


def test_a_window_needs_both_times():
    assert window({"started_at": "2026-11-22T11:00:00+00:00", "finished_at": "2026-11-22T11:01:00+00:00"}) == (
        1795345200.0, 1795345260.0,
    )  # fmt: skip
    assert window({"finished_at": "2026-11-22T11:01:00+00:00"}) is None


def test_steps_side_by_side_are_told_as_time_saved(graph, plan):
    rows = ledger_rows(plan, graph, seconds=4.0)
    assert "Steps that ran side by side saved 2.0 s." in rows.sentences
    assert rows.total.made == "4.0 s"


def _try(*, begin_s: float, seconds: float, lost_s: float = 0.0) -> dict:
    buckets = {"start": 5.0, "compile": 3.0, "train": seconds - 10.0 - lost_s, "evaluate": 1.0, "checkpoint": 1.0,
               "upload": 0.0, "lost": lost_s}  # fmt: skip
    return {
        "world_size": 8,
        "started_at_s": begin_s,
        "ended_at_s": begin_s + seconds,
        "queue_s": 0.0,
        "buckets": buckets,
    }


def test_a_timesheet_tells_of_every_attempt_and_the_step_has_its_own(ref):
    tries = [_try(begin_s=0.0, seconds=60.0, lost_s=20.0), _try(begin_s=100.0, seconds=40.0)]
    made = ref("pretrain", seconds=45.0, metrics={"device": "NVIDIA H100", "tries": tries})
    for windows in (None, {"pretrain": (97.0, 142.0)}):
        ledger = run_ledger([made], RuntimeConfig(), windows=windows)
        (step,) = ledger.steps
        assert sum(step.buckets.values()) == pytest.approx(45.0)
        assert (step.buckets["train"], step.buckets["compile"]) == (30.0, 3.0)
        assert (ledger.earlier_s, ledger.lost_s) == (60.0, 20.0)
    (whole,) = run_ledger([made], RuntimeConfig(), windows={"pretrain": (-1.0, 142.0)}).steps
    assert sum(whole.buckets.values()) == pytest.approx(45.0), "two clocks: never more than the step took"
    assert whole.earlier_s == 0.0


def test_gpu_time_counts_the_attempts_before_this_run(ref, plan):
    tries = [_try(begin_s=0.0, seconds=3600.0), _try(begin_s=4000.0, seconds=3600.0)]
    metrics = {"device": "NVIDIA H100", "tries": tries}
    attempt = {"world_size": 8, "started_at_s": 4000.0, "ended_at_s": 7600.0, "train_s": 1.0, "compile_s": 0.0,
               "validate_s": 0.0, "checkpoint_s": 0.0}  # fmt: skip
    refs = [ref("pretrain", seconds=3600.0, metrics=metrics),
            ref("report", seconds=0.0, metrics={"attempts": {"pretrain": [attempt]}})]  # fmt: skip
    usd = 2 * 8 * GPUS["H100"][2]
    assert any(f"16 h 00 min of GPU time, ${usd:.2f}" in sentence for sentence in ledger_rows(plan, refs).sentences)
