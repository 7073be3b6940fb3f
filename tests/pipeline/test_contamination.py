"""A benchmark item among the user's conversations never gets into training."""

import json
from pathlib import Path

import numpy as np
import pytest

from nanochat_core import workspace
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

ASKED = "A farmer has seventeen sheep and buys {} more at the market: how many sheep are there now?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Benchmark data with three test questions, and conversations of which two hold the second one."""
    gsm8k = tmp_path / "chat_eval/gsm8k/main"
    gsm8k.mkdir(parents=True)
    for split, numbers in (("train", (1, 2)), ("test", (30, 40, 50))):
        rows = [
            {"question": ASKED.format(n), "answer": f"17 + {n} = <<17+{n}={17 + n}>>\n#### {17 + n}"} for n in numbers
        ]
        (gsm8k / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [ASKED.format(40), "Read this: " + ASKED.format(40).upper()]
    other = [f"What is the capital of country number {n}?" for n in range(20)]
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "I do not know."}]}
        for text in [*held, *other]
    ]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.slow
def test_what_holds_an_item_is_left_out_and_counted(prepared_home: Path, folder: Path, micro_sets: list[str]) -> None:
    more = ["sft.source=path", f"sft.path={folder}/talk.jsonl", "sft.gsm8k_repeats=1"]
    data = ["benchmarks.source=path", f"benchmarks.path={folder}/chat_eval", "benchmarks.names=gsm8k"]
    plan = plan_run(load_config("tiny", [*micro_sets, *more, *data]))
    corpus = make(STEPS["corpus"], plan)
    tokenizer = make(STEPS["tokenizer"], plan, corpus, None)
    items = make(STEPS["benchmarks"], plan)
    assert items is not None
    assert items.metrics["num_items"] == 3
    clean = make(STEPS["conversations"], plan, tokenizer, items)
    store = workspace.current().store
    artifact = store.find("conversations", clean.fingerprint)
    assert artifact is not None
    report = json.loads((store.fetch(artifact) / "log/contamination.json").read_text())
    assert report["gsm8k"]["num_contaminated"] == 1
    assert clean.metrics["left_out_as_benchmark_items"] == 2

    unchecked = plan_run(load_config("tiny", [*micro_sets, *more[:2], data[1]]))
    assert make(STEPS["benchmarks"], unchecked) is None
    everything = make(STEPS["conversations"], plan_run(load_config("tiny", [*micro_sets, *more[:2]])), tokenizer, None)
    assert everything.metrics["conversations"] == 21  # of 22, the twentieth is for validation
    assert np.load(store.fetch(artifact) / "train.mask.npy").sum() == clean.metrics["targets"]
