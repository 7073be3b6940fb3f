"""Accuracies, CORE and the files, against numbers worked by hand."""

import json
import math

import pytest

from nanochat_core.base.intervals import wilson_interval
from nanochat_core.evals.core.bundle import Benchmark
from nanochat_core.evals.core.published import PUBLISHED
from nanochat_core.evals.core.results import (
    Accuracy,
    Outcome,
    centered,
    core_of,
    headline,
    summary,
    write_results,
)


def _benchmark(label, baseline):
    return Benchmark(
        label=label,
        kind="multiple_choice",
        data="x",
        num_fewshot=0,
        delimiter=" ",
        baseline_percent=baseline,
        category="world knowledge",
    )


THREE = [
    Accuracy(_benchmark("a", 50), 80, 100),  # 0.8: centred (0.8 - 0.5) / 0.5 = 0.6; error 0.04, centred 0.08
    Accuracy(_benchmark("b", 0), 9, 25),  # 0.36: centred 0.36; error sqrt(0.36 0.64 / 25) = 0.096
    Accuracy(_benchmark("c", 25), 16, 100),  # 0.16: centred (0.16 - 0.25) / 0.75 = -0.12; error sqrt(0.1344) / 10
]


def test_core_of_three_benchmarks_by_hand():
    assert [entry.centered for entry in THREE] == pytest.approx([0.6, 0.36, -0.12])
    assert [entry.standard_error for entry in THREE] == pytest.approx([0.04, 0.096, 0.0366606])
    assert THREE[0].centered_error == pytest.approx(0.08)
    assert THREE[2].centered_error == pytest.approx(0.0488808)
    core, error = core_of(THREE)
    assert core == pytest.approx((0.6 + 0.36 - 0.12) / 3)
    assert error == pytest.approx(math.sqrt(0.08**2 + 0.096**2 + 0.0488808**2) / 3)


def test_guessing_is_zero_and_perfection_one():
    for baseline in (0, 25, 40.3, 62):
        assert centered(baseline / 100, baseline) == pytest.approx(0)
        assert centered(1.0, baseline) == pytest.approx(1)


def _summary(accuracies):
    return summary(accuracies, max_per_benchmark=None, missing=[], bundle_digest="d" * 64)


def test_only_all_benchmarks_with_all_items_are_complete():
    whole = [Accuracy(_benchmark(entry.label, entry.baseline_percent), 1, entry.num_items) for entry in PUBLISHED]
    short = Accuracy(whole[0].benchmark, 1, whole[0].num_items - 1)
    assert _summary(whole)["is_complete"]
    assert not _summary(whole[1:])["is_complete"]
    assert not _summary([short, *whole[1:]])["is_complete"]
    assert not _summary([*whole, THREE[0]])["is_complete"]


def test_the_files_hold_every_item_and_the_numbers_that_follow(tmp_path):
    outcomes = [
        Outcome("a", 0, True, 1, 1, [2.5, 0.12345678], 3),
        Outcome("a", 1, False, 0, 1, [math.inf, 1.0], 3),
        Outcome("b", 0, True, None, None, [0.5], 7),
    ]
    content = _summary(THREE)
    write_results(tmp_path, content, outcomes)
    assert json.loads((tmp_path / "core.json").read_text()) == content
    assert [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()] == [
        {"benchmark": "a", "index": 0, "is_right": True, "gold": 1, "chosen": 1, "losses": [2.5, 0.123457]},
        {"benchmark": "a", "index": 1, "is_right": False, "gold": 0, "chosen": 1, "losses": [None, 1.0]},
        {"benchmark": "b", "index": 0, "is_right": True, "gold": None, "chosen": None, "num_tokens": 7},
    ]
    assert content["benchmarks"]["a"] == {
        "accuracy": 0.8,
        "standard_error": pytest.approx(0.04),
        "interval_95": list(wilson_interval(0.8, 100)),
        "centered": pytest.approx(0.6),
        "baseline_percent": 50,
        "num_items": 100,
        "num_fewshot": 0,
        "type": "multiple_choice",
        "category": "world knowledge",
    }
    assert headline(content) == {
        "core": pytest.approx(0.28),
        "core_standard_error": content["standard_error"],
        "num_benchmarks": 3,
        "num_items": 225,
        "is_complete": False,
        "max_per_benchmark": None,
        "benchmarks": {
            label: {"accuracy": entry["accuracy"], "centered": entry["centered"]}
            for label, entry in content["benchmarks"].items()
        },
    }
