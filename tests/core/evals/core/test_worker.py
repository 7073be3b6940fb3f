"""The worker as it is run: a process of its own, alone or as two ranks."""

import json
import sys

import pytest

from nanochat_core.base.child import run_child
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.records import read_records
from nanochat_core.base.torchrun import torchrun
from nanochat_core.evals.core.bundle import read_bundle
from nanochat_core.evals.core.prompts import write_prompts
from nanochat_core.model.weights import save_model

MODULE = "nanochat_core.evals.core.worker"


@pytest.fixture
def plan(bundle_folder, bpe, make_model, tmp_path):
    """A plan on the small bundle, and its folders."""
    write_prompts(
        read_bundle(bundle_folder), bpe, tmp_path / "prompts", max_per_benchmark=None, progress=lambda done, total: None
    )
    save_model(tmp_path / "model", make_model())
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    folders = {name: str(tmp_path / name) for name in ("model", "prompts", "out", "work")}
    return {**folders, "device": "cpu", "num_threads": 1, "dtype": "fp32", "batch_tokens": 256}


def _run(plan, tmp_path, num_processes):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-m", MODULE, str(path)]
    if num_processes > 1:
        command = torchrun(MODULE, str(path), num_processes=num_processes)
    result = run_child(command, tmp_path / "work", on_record=lambda record: None, environment={})
    outcomes = [json.loads(line) for line in (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()]
    return result, json.loads((tmp_path / "out" / "core.json").read_text()), outcomes


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(plan, tmp_path):
    alone, core, outcomes = _run(plan, tmp_path, 1)
    records = read_records(tmp_path / "work" / "metrics.jsonl")
    together, core_of_two, outcomes_of_two = _run(plan, tmp_path, 2)
    assert alone == together
    assert core == core_of_two
    assert alone["core"] == core["core"]
    assert alone["num_items"] == len(outcomes) == len(outcomes_of_two) == 20
    for one, other in zip(outcomes, outcomes_of_two, strict=True):
        assert other.pop("losses", []) == pytest.approx(one.pop("losses", []), abs=2e-5)
        assert one == other
    for label, entry in core["benchmarks"].items():
        marks = [outcome["is_right"] for outcome in outcomes if outcome["benchmark"] == label]
        assert entry["accuracy"] == sum(marks) / len(marks)
    assert {record["event"] for record in records} == {"progress"}
    assert (records[-1]["done"], records[-1]["total"]) == (20, 20)


@pytest.mark.slow
def test_prompts_of_another_vocabulary_are_refused(plan, make_model, tmp_path):
    save_model(tmp_path / "model", make_model(vocab_size=900))
    with pytest.raises(ConfigError, match="1024"):
        _run(plan, tmp_path, 1)
