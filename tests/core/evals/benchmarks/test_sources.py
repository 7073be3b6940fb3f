"""The data of benchmarks from a folder: either layout, and an error that names the file and the line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import BenchmarksConfig
from nanochat_core.evals.benchmarks.protocol import read_item_file
from nanochat_core.evals.benchmarks.registry import BENCHMARKS, write_items
from nanochat_core.evals.benchmarks.sources import Source, open_source

GSM8K = [{"question": f"What is {n} + {n}?", "answer": f"<<{n}+{n}={2 * n}>>\n#### {2 * n}"} for n in range(30)]
MMLU = [
    {"question": f"q{n}", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": n % 4} for n in range(9)
]
ARC = [{"id": "x", "question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}]
HUMANEVAL = [{"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    pass\n",
              "test": "def check(f): f()", "entry_point": "f"}]  # fmt: skip
FILES = {
    "gsm8k/main/test": GSM8K,
    "mmlu/all/test": MMLU,
    "arc/ARC-Easy/test": ARC,
    "humaneval/test": HUMANEVAL,
}
HUB_FILES = {
    "openai/gsm8k/main/test": GSM8K,
    "mmlu/all/test": MMLU,
    "ai2_arc/ARC-Easy/test": ARC,
    "openai_humaneval/openai_humaneval/test": HUMANEVAL,
}
NAMES = "gsm8k,mmlu,arc_easy,humaneval,spelling_bee"


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    for name, rows in FILES.items():
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    return tmp_path / "data"


def items_of(folder, out, **settings):
    config = BenchmarksConfig(source="path", path=str(folder), **{"names": NAMES, **settings})
    metrics = write_items(config, out, seed=3)
    return metrics, read_item_file(out / "items.jsonl")


def test_a_folder_in_the_hubs_layout_gives_the_same_items(folder, tmp_path):
    for name, rows in HUB_FILES.items():
        path = tmp_path / f"hub/{name}-00000-of-00002.parquet"
        path.parent.mkdir(parents=True)
        half = (len(rows) + 1) // 2
        pq.write_table(pa.Table.from_pylist(rows[:half]), path)
        pq.write_table(pa.Table.from_pylist(rows[half:], schema=pq.read_schema(path)),
                       path.with_name("test-00001-of-00002.parquet"))  # fmt: skip
    assert items_of(tmp_path / "hub", tmp_path / "a")[1] == items_of(folder, tmp_path / "b")[1]


def test_a_limited_look_draws_by_the_seed_and_says_so(folder, tmp_path):
    metrics, items = items_of(folder, tmp_path / "a", max_per_benchmark=9)
    counts = {name: (count["num_items"], count["is_limited"]) for name, count in metrics["benchmarks"].items()}
    assert counts == {
        "gsm8k": (9, True), "mmlu": (9, False), "arc_easy": (1, False), "humaneval": (1, False),
        "spelling_bee": (9, True),
    }  # fmt: skip
    assert metrics["num_items"] == len(items) == 29
    assert items_of(folder, tmp_path / "b", max_per_benchmark=9)[1] == items
    config = BenchmarksConfig(source="path", path=str(folder), names=NAMES, max_per_benchmark=9)
    write_items(config, tmp_path / "c", seed=4)
    assert read_item_file(tmp_path / "c/items.jsonl") != items
    assert json.loads((tmp_path / "a/prepared.json").read_text())["benchmarks"] == metrics["benchmarks"]


def test_what_is_not_asked_is_known_as_well_in_the_same_order(folder, tmp_path):
    """It may not be trained on either."""
    _, asked = items_of(folder, tmp_path / "a", max_per_benchmark=9)
    _, whole = items_of(folder, tmp_path / "b")
    every = read_item_file(tmp_path / "a/every.jsonl")
    assert every == whole
    assert len(every) > len(asked)
    assert asked == [item for item in every if item in asked]


def test_words_are_the_folders_own_where_it_has_a_list(folder, tmp_path):
    words = [a + b + c + d for a in "abcd" for b in "efgh" for c in "ijkl" for d in "mnop"]
    (folder / "words_alpha.txt").write_text("\r\n".join([*words, "x", "it's", "ä"]))
    metrics, items = items_of(folder, tmp_path / "out", names="spelling_bee")
    assert metrics["origins"]["words"].endswith("words_alpha.txt")
    assert all(any(word in item.question.lower() for word in words) for item in items)


@pytest.mark.parametrize(
    ("name", "file", "row", "said"),
    [
        ("gsm8k", "gsm8k/main/test", {"question": "q"}, "'answer'"),
        ("gsm8k", "gsm8k/main/test", {"question": "q", "answer": "no number"}, "####"),
        ("gsm8k", "gsm8k/main/test", {"question": 5, "answer": "#### 1"}, "'question'"),
        ("mmlu", "mmlu/all/test", {"question": "q", "choices": ["a"], "answer": 0}, "'choices'"),
        ("mmlu", "mmlu/all/test", {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 4}, "'answer'"),
        ("arc_easy", "arc/ARC-Easy/test", {"question": "q", "choices": ["a"], "answerKey": "A"}, "'choices'"),
        ("arc_easy", "arc/ARC-Easy/test", {**ARC[0], "answerKey": "3"}, "'3'"),
        ("humaneval", "humaneval/test", {"prompt": "def f():"}, "'canonical_solution'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(folder, tmp_path, name, file, row, said):
    with (folder / f"{file}.jsonl").open("a") as opened:
        opened.write("\n" + json.dumps(row) + "\n")
    number = len(FILES[file]) + 2
    with pytest.raises(MissingError, match=rf"test\.jsonl, line {number}: .*{said}"):
        items_of(folder, tmp_path / "out", names=name)


@pytest.mark.parametrize("line", ["{", "[]", "5"])
def test_a_line_that_is_no_object_is_named(folder, tmp_path, line):
    (folder / "gsm8k/main/test.jsonl").write_text(line)
    with pytest.raises(MissingError, match=r"test\.jsonl, line 1"):
        items_of(folder, tmp_path / "out", names="gsm8k")


def test_what_is_missing_is_named_and_nothing_is_made_of_no_rows(folder, tmp_path):
    with pytest.raises(MissingError, match=r"mmlu/all/auxiliary_train\.jsonl"):
        BENCHMARKS["mmlu"].read(Source(folder), "train")
    with pytest.raises(MissingError, match="ARC-Challenge"):
        items_of(folder, tmp_path / "out", names="arc_challenge")
    (folder / "gsm8k/main/test.jsonl").write_text("\n")
    with pytest.raises(MissingError, match="no items"):
        items_of(folder, tmp_path / "out", names="gsm8k")
    (folder / "gsm8k/main/test.jsonl").unlink()
    (folder / "gsm8k/main/test.parquet").write_bytes(b"no parquet")
    with pytest.raises(MissingError, match=r"test\.parquet"):
        items_of(folder, tmp_path / "out", names="gsm8k")


def test_a_source_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        open_source("path", None)
    with pytest.raises(MissingError):
        open_source("path", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"benchmarks\.source = none"):
        BENCHMARKS["gsm8k"].read(open_source("none", None), "train")


def test_the_hub_is_asked_and_its_absence_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match="openai/gsm8k/main/test cannot be read"):
        BENCHMARKS["gsm8k"].read(open_source("hub", None), "test")
