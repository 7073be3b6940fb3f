"""The ledger adds up, whatever the log says, and the critical path is the longest chain."""

import itertools
import random

import pytest

from nanochat_core.accounting.ledger import critical_path, ledger_rows, machine_rate, run_ledger, window
from nanochat_core.config import RuntimeConfig
from nanochat_core.plan import GPUS


def test_a_step_without_attempts_is_one_bucket(ref):
    names = ("evaluate_core", "corpus", "pretrain", "unheard_of")
    ledger = run_ledger([ref(name, seconds=9.0, metrics={}) for name in names], RuntimeConfig())
    found = [step.buckets for step in ledger.steps]
    assert found == [{"evaluate": 9.0}, {"steps": 9.0}, {"start": 9.0}, {"steps": 9.0}]


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
    metrics = {"device": "NVIDIA H100", "tries": [_try(begin_s=0.0, seconds=3600.0)]}
    rows = ledger_rows(plan, [ref("pretrain", seconds=3600.0, metrics=metrics)])
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


def test_buckets_always_add_up_to_the_steps_seconds(ref):
    rng = random.Random(4)
    for _ in range(200):
        begins = sorted(rng.uniform(0, 400) for _ in range(rng.randrange(4)))
        tries = [_try(begin_s=begin_s, seconds=rng.uniform(11, 60)) for begin_s in begins]
        made = ref("sft", seconds=rng.choice([0.0, rng.uniform(0, 400)]), metrics={"tries": tries})
        window = rng.choice([None, (rng.uniform(0, 400), 500.0)])
        (step,) = run_ledger([made], RuntimeConfig(), windows={"sft": window} if window else None).steps
        assert sum(step.buckets.values()) == pytest.approx(made.seconds)
        assert min(step.buckets.values()) >= 0


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
    refs = [ref("pretrain", seconds=3600.0, metrics=metrics)]
    usd = 2 * 8 * GPUS["H100"][2]
    assert any(f"16 h 00 min of GPU time, ${usd:.2f}" in sentence for sentence in ledger_rows(plan, refs).sentences)
