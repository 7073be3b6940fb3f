"""Corpora in which documents are planted that cleaning must take out, beside others that it must leave.

The cases are made after public reports. Each runs as a user's would, by the steps of the pipeline, and what is left is
compared by the texts with its expected.json.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from core.data.cases import cases, is_said

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.data.cleaning import NEAR, REMOVED, SPLITS
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

STEPS_OF = {
    "exact duplicate": ("deduplicate", ["clean.duplicates=near"]),
    "near duplicate": ("deduplicate", ["clean.duplicates=near"]),
    "holds benchmark item": ("decontaminate", ["clean.benchmarks=true"]),
    "": ("filter_quality", ["clean.quality=gopher"]),
}


class Case:
    """A case, made anew in a folder, and what a run leaves of it."""

    def __init__(self, given: Path, folder: Path) -> None:
        shutil.copytree(given.parents[1] / "tools", folder / "tools")
        shutil.copytree(given, folder / "corpora" / given.name)
        self.folder = folder / "corpora" / given.name
        self.expected: dict[str, Any] = json.loads((given / "expected.json").read_text())
        subprocess.run([sys.executable, self.folder / "generate.py"], check=True, capture_output=True)
        rows = [json.loads(line) for file in sorted(self.folder.glob("in/*.jsonl")) for line in file.open()]
        self.texts = {row["id"]: row["text"] for row in rows}

    def run(self) -> None:
        """Run the step that this case is about, and read what it made."""
        reason = self.expected["dropped"][0]["reason"]
        step, sets = next(one for word, one in STEPS_OF.items() if reason.startswith(word))
        if step == "decontaminate":
            sets = [*sets, *self._benchmark()]
        files = ["corpus.source=path", f"corpus.path={self.folder / 'in'}"]
        ref = run_until(make, plan_run(load_config("tiny", [*files, *sets])), step)[-1]
        store = workspace.current().store
        artifact = store.find(step, ref.fingerprint)
        assert artifact is not None
        made = store.fetch(artifact)
        self.said = [" ".join(ref.metrics["notes"])]
        self.left = {row["text"] for split in SPLITS for row in _rows(made / split)}
        self.removed = {row["text"]: row for row in _rows(made / REMOVED)}
        self.near = {(row["file"], row["line"]): row for row in _rows(made / NEAR)}

    def _benchmark(self) -> list[str]:
        """The case's items as those of a benchmark of the run."""
        items = [json.loads(line) for line in (self.folder / self.expected["items"]).open()]
        data = self.folder / "chat_eval/gsm8k/main"
        data.mkdir(parents=True)
        for split in ("train", "test"):
            asked = [{"question": item["question"], "answer": "#### 1"} for item in items]
            (data / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
        names = [f"benchmarks.path={data.parents[1]}", "benchmarks.names=gsm8k", "benchmarks.source=path"]
        return names

    def left_although(self, key: str) -> list[str]:
        """Of the documents under a key of what is expected, those that are there."""
        return [one["id"] for one in self.expected[key] if self.texts[one["id"]].strip() in self.left]

    def missing(self) -> list[str]:
        return [one for one in self.expected["kept"] if self.texts[one].strip() not in self.left]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def case(shared: Path, tmp_path: Path, home: Path, request: pytest.FixtureRequest) -> Case:
    [given] = [one for one in cases(shared, "corpora") if one.name.startswith(request.param)]
    made = Case(given, tmp_path / "case")
    made.run()
    return made


@pytest.mark.parametrize("case", ["k14"], indirect=True)
def test_of_equal_documents_the_first_stays(case: Case) -> None:
    assert case.missing() == []
    assert len(case.left) == case.expected["counts"]["kept"], "a copy is left"
    assert all(row["twin"] and row["score"] == 1 for row in case.removed.values())
    assert is_said([["exact duplicate"], ["60 duplicate but for blanks and signs"], [".jsonl, line"]], case.said, "")


@pytest.mark.parametrize("case", ["k15"], indirect=True)
def test_edited_copies_go_and_what_is_half_new_stays(case: Case) -> None:
    assert case.missing() == []
    assert len(case.left_although("dropped")) <= len(case.expected["dropped"]) // 50
    assert all(row["twin"] and 0.6 <= row["score"] < 0.7 for row in case.near.values())
    assert is_said([["near duplicate"], [".jsonl, line"]], case.said, "")


@pytest.mark.parametrize("case", ["k17"], indirect=True)
def test_documents_that_hold_items_go_and_their_likes_stay(case: Case) -> None:
    assert case.missing() == []
    assert case.left_although("dropped") == []
    chinese = [one["id"] for one in case.expected["either"] if one["kind"] in ("chinese", "escaped")]
    assert chinese
    assert not {*chinese} & {*case.left_although("either")}
    assert {row["rule"] for row in case.near.values()} == {"13 words that many items share"}
    assert is_said([["gsm8k 16 of 28"]], case.said, "")


@pytest.mark.parametrize("case", ["k18"], indirect=True)
def test_what_just_breaks_a_rule_goes_by_its_name_and_what_just_keeps_it_stays(case: Case) -> None:
    assert case.missing() == []
    assert case.left_although("dropped") == []
    for one in case.expected["dropped"]:
        assert one["reason"] in case.removed[case.texts[one["id"]].strip()]["rule"].split(", ")
    assert case.near
