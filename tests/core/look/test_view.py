"""What a look at a run shows is what it learns from: rows, their documents, and the lines that those are from."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_text import BAD_FILE, BAD_LINE, TALKS, Planted

from nanochat_core.base.errors import MissingError
from nanochat_core.data.loader import BatchOrder
from nanochat_core.data.shards import row_groups
from nanochat_core.look import lineage
from nanochat_core.look.documents import Documents
from nanochat_core.look.lineage import spikes
from nanochat_core.look.run_data import RunData
from nanochat_core.look.scores import _by_frequency
from nanochat_core.look.talks import TalkRows
from nanochat_core.look.view import DataView

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def view(planted: Planted) -> DataView:
    return DataView(RunData.open(planted.store, planted.run_id))


def test_the_highest_spike_leads_to_the_planted_document_its_file_and_line(view: DataView, planted: Planted) -> None:
    found = view.spikes("pretrain")
    highest, first = found["highest"], found["highest"]["documents"][0]
    assert found["spikes"][0]["above_others"] > 3
    assert (first["file"], first["line"], first["text"]) == (BAD_FILE, BAD_LINE, planted.bad)
    assert highest["measure"] == "the run's model"
    assert first["adds"] > 3 * max(each["adds"] for each in highest["documents"][1:])
    assert found["spikes"][0]["loss"] == dict(view.curves["pretrain"])[highest["step"]]


def test_the_steps_of_an_epoch_learn_from_every_row_once(view: DataView) -> None:
    rows = view.rows("text", "train")
    steps = len(rows) // 4
    learnt = [row for step in range(1, steps + 1)
              for row in lineage.rows_at(view.run, step, training="pretrain", rows=rows.rows)]  # fmt: skip
    assert len(set(learnt)) == len(learnt) == 4 * steps
    seed = json.loads(view.run.log("pretrain", "plan.json"))["settings"]["seed"]
    order = BatchOrder(num_rows=len(rows), total_batch_rows=4, seed=seed)
    assert learnt[:4] == order.rows_at(0).tolist()  # the loader's step 0 is the log's step 1


def test_every_stretch_of_every_row_is_those_tokens_of_that_document(view: DataView) -> None:
    rows, tokenizer = view.rows("text", "train"), view.run.tokenizer
    covered: dict[int, list[tuple[int, int]]] = {}
    for row in range(len(rows)):
        ids, shown = rows.read(row)[0], rows.show(row)
        assert "".join(shown.texts[1:4]) or shown.special[1]
        assert sum(part.length for part in shown.stretches) == len(ids)
        for part in shown.stretches:
            whole = [tokenizer.bos, *tokenizer.encode(view.document("train", part.document)["text"])]
            assert part.of_tokens == len(whole)
            mine = ids[part.start : part.start + part.length].tolist()
            assert mine == [tokenizer.bos] * bool(part.offset) + whole[part.offset : part.until]
            covered.setdefault(part.document, []).append((part.offset, part.length - bool(part.offset)))
    assert len(covered) == view.documents()["num_documents"]


def test_rows_of_several_sources_that_were_cleaned_lead_to_their_documents(planted: Planted) -> None:
    view = DataView(RunData.open(planted.store, planted.cleaned_id))
    rows, tokenizer = view.rows("text", "train"), view.run.tokenizer
    sources = set()
    for row in range(len(rows)):
        shown = rows.show(row)
        sources.add(shown.source)
        for part in shown.stretches:
            whole = [tokenizer.bos, *tokenizer.encode(view.document("train", part.document)["text"])]
            mine = shown.ids[part.start : part.start + part.length]
            assert mine == [tokenizer.bos] * bool(part.offset) + whole[part.offset : part.until]
            assert part.file.startswith(f"{shown.source}/")
    assert sources == {"docs", "own"}
    assert view.documents(search="My own note 7,", file="own/")["documents"][0]["line"] == 11


def test_what_was_removed_is_shown_with_its_rule_its_place_and_its_twin(planted: Planted) -> None:
    view = DataView(RunData.open(planted.store, planted.cleaned_id))
    found = view.removed(rule="exact duplicate")
    assert [(each["file"], each["line"]) for each in found["documents"]] == [("own/mine.jsonl", n) for n in (1, 2, 3)]
    for each in found["documents"]:
        kept = view.documents(search=each["text"][:200])["documents"][0]
        assert kept["text"] == each["text"]
        assert f"line {kept['line']}" in each["twin"]
    assert found["steps"]["deduplicate"]["exact duplicate"] == 3
    assert view.removed(rule="exact duplicate", most=2)["next"] == 2
    assert view.removed(search="nobody wrote this")["documents"] == []
    assert all(each["is_kept"] for each in view.removed(near=True)["documents"])


def test_a_text_from_before_places_were_kept_is_shown_without_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "00000.parquet")
    found = Documents(row_groups(tmp_path))
    assert (found[1].text, found[1].file, found[1].line, found.place(1)) == ("two", "", 0, ("", 0))
    assert [each.number for each in found.search("TWO")[0]] == [1]
    assert found.search("two", file="a")[0] == []


def test_conversations_from_before_places_were_kept_are_told_by_where_they_begin(
    view: DataView, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = view.rows("conversations", "train")
    assert isinstance(rows, TalkRows)
    known = [[turn.text for turn in talk.turns] for row in range(len(rows)) for talk in rows.talks(row)]
    monkeypatch.setattr(rows, "_places", None)
    told = [[turn.text for turn in talk.turns] for row in range(len(rows)) for talk in rows.talks(row)]
    assert told == known


def test_a_search_finds_documents_by_text_and_file_and_goes_on_where_it_stopped(
    view: DataView, planted: Planted
) -> None:
    found = view.documents(search=planted.bad[3:7])
    assert [(each["file"], each["line"]) for each in found["documents"]] == [(BAD_FILE, BAD_LINE)]
    assert (
        view.documents(search="NETWORKX", most=3)["documents"] == view.documents(search="networkx", most=3)["documents"]
    )
    listed, start = [], 0
    while start is not None:
        page = view.documents(search="networkx", file="a.jsonl", start=start, most=5)
        listed += [each["line"] for each in page["documents"]]
        start = page["next"]
    assert listed == [*range(1, 17)]


def test_a_conversation_says_what_is_learnt_and_its_line(view: DataView) -> None:
    found = view.conversations(most=200)["conversations"]
    by_line = {each["stretch"]["line"]: each["turns"] for each in found if not each["stretch"]["offset"]}
    for line, turns in by_line.items():
        talk = TALKS[(line - 1) % len(TALKS)]
        said = [turn["text"] for turn in turns if turn["speaker"]]
        for message in talk.get("messages", []):
            assert any(message["content"][:20] in text for text in said)
    secret = next(turns for line, turns in by_line.items() if (line - 1) % len(TALKS) == 1)
    learnt = [(turn["speaker"], turn["num_learnt"] > 0) for turn in secret if turn["speaker"]]
    assert learnt == [("user", False), ("assistant", False), ("user", False), ("assistant", True)]
    parts = [each for each in found if (each["stretch"]["line"] - 1) % len(TALKS) == 2]
    offsets = sorted(
        each["stretch"]["offset"] for each in parts if each["stretch"]["line"] == parts[0]["stretch"]["line"]
    )
    assert offsets[:3] == [0, 64, 128]


def test_words_frequencies_find_the_planted_document_where_the_model_is_too_large(
    view: DataView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanochat_core.look.scores.MOST_FLOPS", 0.0)
    rows = view.rows("text", "train")
    assert all(np.isnan(nats[0]) for nats in _by_frequency(view.run, rows, [0, 1]))
    highest = view.spikes("pretrain")["highest"]
    assert highest["measure"] == "token frequencies"
    assert (highest["documents"][0]["file"], highest["documents"][0]["line"]) == (BAD_FILE, BAD_LINE)


def test_a_jump_counts_above_what_came_before_it() -> None:
    falling = [(step, 10.0 / step) for step in range(1, 60)]
    assert spikes(falling) == []
    spiked = [(step, loss + (0.5 if step == 40 else 0.0)) for step, loss in falling]
    assert next(iter(spikes(spiked))).step == 40


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda view: view.step("pretrain", 0), "has no step 0"),
        (lambda view: view.step("pretrain", 10_000), "has no step 10,000"),
        (lambda view: view.step("sft", 1), "has no sft"),
        (lambda view: view.row("text", "train", -1), "no train row -1"),
        (lambda view: view.row("text", "test", 0), "no rows of"),
        (lambda view: view.document("train", 10_000), "no document 10,000"),
        (lambda view: view.removed(), "no step of"),
        (lambda view: view.spikes("sft"), "has left no curve"),
    ],
)
def test_what_is_not_there_is_named(view: DataView, ask, said: str) -> None:
    with pytest.raises(MissingError, match=said):
        ask(view)
