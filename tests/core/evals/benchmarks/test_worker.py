"""The worker as it is run: files and headlines in their fixed form, alone and on two ranks."""

import json
import subprocess
import sys

import pytest

from nanochat_core.base.torchrun import torchrun
from nanochat_core.config import BenchmarksConfig, GPTConfig
from nanochat_core.evals.benchmarks.registry import write_items
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import save_model
from nanochat_core.tokenizer.tokenizer import Tokenizer

WORKER = "nanochat_core.evals.benchmarks.worker"
KEYS = {
    "title", "kind", "accuracy", "standard_error", "interval_95", "baseline", "centered", "num_right", "num_asked",
    "num_too_long", "pass_at_k", "is_limited",
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A model without training, and a few items of three benchmarks."""
    folder = tmp_path_factory.mktemp("job")
    Tokenizer([bytes([value]) for value in range(256)]).save(folder)
    model = GPT(GPTConfig(sequence_len=256, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, n_embd=32))
    model.init_weights(0)
    save_model(folder, model)
    data = folder / "data"
    gsm8k = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(5)]
    mmlu = [{"question": f"q{n}", "subject": "s", "choices": list("abcd"), "answer": n % 4} for n in range(6)]
    mmlu.append({**mmlu[0], "question": "a long one " * 40})
    code = {
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(f): f()",
        "entry_point": "f",
    }
    for name, rows in {"gsm8k/main": gsm8k, "mmlu/all": mmlu, "humaneval": [code]}.items():
        (data / name).mkdir(parents=True)
        (data / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BenchmarksConfig(source="path", path=str(data), names="gsm8k,mmlu,humaneval", max_per_benchmark=7)
    write_items(config, folder / "items", seed=0)
    return folder


def run(job, out, *, num_processes=1, **settings):
    (out / "work").mkdir(parents=True)
    plan = {
        "model": str(job), "tokenizer": str(job), "items": str(job / "items"), "out": str(out),
        "work": str(out / "work"), "device": "cpu", "num_threads": 1, "dtype": "fp32", "batch_tokens": 4096,
        "num_samples": 1, "temperature": 0.8, "max_answer_tokens": 8, "seed": 5, "allow_unsafe_code": True, **settings,
    }  # fmt: skip
    path = out / "plan.json"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-m", WORKER, str(path)]
    if num_processes > 1:
        command = torchrun(WORKER, str(path), num_processes=num_processes)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = json.loads((out / "work/result.json").read_text())
    assert (done.returncode, result["status"]) == (0, "completed"), done.stderr
    outcomes = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    return result, json.loads((out / "benchmarks.json").read_text()), outcomes


@pytest.mark.slow
def test_files_and_headlines_agree_and_two_ranks_give_the_same(job, tmp_path):
    result, written, outcomes = run(job, tmp_path / "one", num_samples=2)
    assert list(written) == ["chat_core", "chat_core_standard_error", "benchmarks"]
    assert result["chat_core"] == written["chat_core"]
    for name, scores in written["benchmarks"].items():
        assert set(scores) == KEYS
        assert {key: scores[key] for key in result["benchmarks"][name]} == result["benchmarks"][name]
        ours = [outcome for outcome in outcomes if outcome["benchmark"] == name]
        assert len(ours) == scores["num_asked"]
        assert sum(outcome["is_right"] for outcome in ours) == scores["num_right"]
    assert [name for name, scores in written["benchmarks"].items() if scores["pass_at_k"]] == ["gsm8k", "humaneval"]
    assert {name: scores["num_too_long"] for name, scores in written["benchmarks"].items()} == {
        "gsm8k": 0, "mmlu": 1, "humaneval": 0,
    }  # fmt: skip
    assert all(
        set(outcome) == {"benchmark", "id", "sample", "question", "expected", "answer", "is_right"}
        for outcome in outcomes
    )
    _, again, same = run(job, tmp_path / "two", num_samples=2, num_processes=2)
    assert (again, same) == (written, outcomes)
    records = [json.loads(line) for line in (tmp_path / "one/work/metrics.jsonl").read_text().splitlines()]
    assert {record["event"] for record in records} == {"progress"}
    assert any(record["text"].startswith("GSM8K") for record in records)


@pytest.mark.slow
def test_a_base_model_is_asked_choices_only(job, tmp_path):
    result, written, outcomes = run(job, tmp_path, kinds=["choice"])
    assert list(result["benchmarks"]) == list(written["benchmarks"]) == ["mmlu"]
    assert {outcome["benchmark"] for outcome in outcomes} == {"mmlu"}
