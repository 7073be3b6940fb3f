"""What decides a training's bits and is in no key is taken over by `reproduce`, or said; then a tolerance decides."""

from typing import Any

import pytest

from nanochat_core.pipeline.ingredients import Evidence
from nanochat_core.pipeline.reproduce import _compare, _legs


def line(step: str, *inputs: str, **metrics: Any) -> dict[str, Any]:
    return {"step": step, "inputs": dict.fromkeys(inputs, "d"), "digest": "d", "metrics": metrics, "has_log": True}


RECORDED: Evidence = {
    "config": {"runtime": {"num_processes": 1, "num_nodes": 1}},
    "steps": [
        line("corpus"),
        line("tokens", "corpus"),
        line("pretrain", "tokens", bits_per_byte=2.0, device="cpu", dtype="bfloat16", tries=[{"world_size": 1}]),
        line("evaluate_base", "tokens", "pretrain", bits_per_byte=2.0),
        line("report", "pretrain", "evaluate_base"),
    ],
}


def trained(**changes: Any) -> Evidence:
    """The evidence with another account of how its base model was trained."""
    lines = [
        {**line, "metrics": {**line["metrics"], **changes}} if line["step"] == "pretrain" else line
        for line in RECORDED["steps"]
    ]
    return {**RECORDED, "steps": lines}


def by(*processes: int) -> list[dict[str, Any]]:
    return [{"world_size": number} for number in processes]


def test_a_training_is_made_again_with_as_many_processes() -> None:
    told: list[str] = []
    assert _legs(RECORDED, note=told.append) == [("report", None)]
    assert told == []
    assert _legs(trained(tries=by(3)), note=told.append) == [("tokens", None), ("pretrain", 3), ("report", None)]
    assert told.pop() == "pretrain is made by 3 processes, as it was"
    assert _legs(trained(tries=by(1, 2)), note=told.append) == [("report", None)]
    assert told.pop() == "pretrain went on with another number of processes (1 and 2): its bits may differ"
    elsewhere = trained(tries=by(8), device="NVIDIA H100 80GB HBM3")
    assert _legs(elsewhere, note=told.append) == [("tokens", None), ("pretrain", 1), ("report", None)]
    assert told.pop().startswith("pretrain was made by 8 processes, and there are ")


@pytest.mark.parametrize(
    ("then", "now", "apart", "reason", "is_good"),
    [
        ({}, {}, 0.5, "", False),
        ({"tries": by(2)}, {}, 0.009, "processes: 2 -> 1", True),
        ({"tries": by(2)}, {}, 0.011, "processes: 2 -> 1", False),
        ({"tries": by(2), "dtype": "float32"}, {"dtype": "float32"}, 9e-5, "processes: 2 -> 1", True),
        ({"tries": by(2), "dtype": "float32"}, {"dtype": "float32"}, 2e-4, "processes: 2 -> 1", False),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}, 0.005, "dtype: bfloat16 -> float32", True),
        ({"device": "NVIDIA H100"}, {"device": "cpu"}, 0.005, "device: NVIDIA H100 -> cpu", True),
        ({"tries": by(1, 2)}, {"tries": by(1, 2)}, 0.005, "processes: 1 and 2", True),
    ],
)
def test_where_bits_may_differ_it_is_said_and_the_model_is_judged(
    then: dict[str, Any], now: dict[str, Any], apart: float, reason: str, is_good: bool
) -> None:
    recorded = trained(**{"tries": by(1), **then})
    again = {"started_at": "2026", "steps": [made_again(step, now, apart) for step in recorded["steps"]]}

    class Made:
        runs, run = (lambda self: ["again"]), (lambda self, run_id: again)

    corpus, tokens, model, score, report = _compare(recorded, Made())
    assert corpus.is_equal
    assert tokens.is_equal
    assert not tokens.reason
    for one in (model, score):
        assert not one.is_equal
        assert (one.reason, one.is_good) == (reason, is_good), "what follows from the model is judged like it"
    assert (report.reason, report.is_good, report.apart) == (reason, bool(reason), None)


def made_again(step: dict[str, Any], now: dict[str, Any], apart: float) -> dict[str, Any]:
    """From the model on with other bits, and that much worse."""
    if step["step"] in ("corpus", "tokens"):
        return step
    metrics = {**step["metrics"]}
    if "bits_per_byte" in metrics:
        metrics["bits_per_byte"] *= 1 + apart
    return {**step, "digest": "x", "metrics": {**metrics, **({"tries": by(1), **now} if "tries" in metrics else {})}}
