"""One run under several seeds is refused, however it was dressed up; runs of two seeds are not."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from core.record.synthetic import core_files, plan_with, step_records

from nanochat_core.record.copies import check_copies
from nanochat_core.record.evidence import Evidence
from nanochat_core.store.manifest import Artifact, FileEntry

Records = list[dict[str, Any]]
LONG = "pretrain.max_tokens=102400"  # 200 steps


def artifact(step: str, *, weights: str = "", **metrics: Any) -> Artifact:
    files = {"model.safetensors": FileEntry(sha256=weights, num_bytes=1)} if weights else {}
    return Artifact(step=step, fingerprint="", files=files, inputs={}, config={}, code={}, packages={},
                    metrics=metrics, provenance={})  # fmt: skip


def run(seed: int, *, rows: int = 400) -> Evidence:
    """A run as its seed makes it: losses, times and weights of its own."""
    noise = random.Random(seed)
    plan = plan_with(f"seed={seed}", LONG)
    records = step_records(
        plan, step_ms=lambda step: noise.uniform(90, 110), bits=lambda step: 2 + 1 / step + noise.gauss(0, 1e-4)
    )
    manifests = {
        "pretrain": artifact("pretrain", weights=f"weights {seed}"),
        "tokens": artifact("tokens", train_rows=rows),
    }
    outcomes = core_files(0.3, seed=seed)[1]
    return Evidence(f"run-{seed}", {}, plan=plan, manifests=manifests, records=records, outcomes=outcomes)


def copied(one: Evidence, other: Evidence, *names: str, by: Callable[[float], float] = lambda value: value) -> Evidence:
    """`other` with the fields of `one`'s log under these names, each changed by `by`."""
    other.records = [
        {**record, **{name: by(source[name]) for name in names if name in source}}
        for record, source in zip(other.records, one.records, strict=True)
    ]
    return other


def said(one: Evidence, other: Evidence) -> list[str]:
    return [problem.text for problem in check_copies([one, other], file="record.json")]


def test_two_seeds_have_nothing_in_common() -> None:
    assert said(run(1), run(2)) == []


def test_equal_weights_are_of_one_run() -> None:
    one, other = run(1), run(2)
    other.manifests["pretrain"] = one.manifests["pretrain"]
    [only] = said(one, other)
    assert only.startswith("run-1 and run-2 have the same weights")


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-7, 5e-6])
@pytest.mark.parametrize(
    ("name", "text"),
    [("loss", "the same losses"), ("bits_per_byte", "the same validations"), ("step_ms", "took the same times")],
)
def test_equal_numbers_and_such_with_other_last_digits_are_of_one_run(name: str, text: str, noise: float) -> None:
    draw = random.Random(3)
    scale = {"loss": 1.0, "bits_per_byte": 0.5, "step_ms": 0.1}[name]
    other = copied(run(1), run(2), name, by=lambda value: value * (1 + scale * draw.uniform(-noise, noise)))
    assert any(text in line for line in said(run(1), other))


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_losses_that_move_together_are_of_one_run_though_each_is_another(noise: float, factor: float) -> None:
    draw = random.Random(3)
    other = copied(run(1), run(2), "loss", by=lambda value: value * factor * (1 + draw.gauss(0, noise)))
    assert any("the same losses" in line or "of the same draws of data" in line for line in said(run(1), other))


def test_where_each_step_sees_all_rows_losses_may_move_together() -> None:
    other = copied(run(1, rows=8), run(2, rows=8), "loss", by=lambda value: value * 1.01)
    assert said(run(1, rows=8), other) == []


def test_a_part_of_a_copy_is_a_copy() -> None:
    one, other = run(1), run(2)
    other.records[: len(other.records) // 3] = one.records[: len(one.records) // 3]
    assert any("the same losses" in line for line in said(one, other))


def test_equal_losses_in_core_are_of_one_run() -> None:
    one, other = run(1), run(2)
    other.outcomes = one.outcomes
    assert any("the same losses in CORE" in line for line in said(one, other))
