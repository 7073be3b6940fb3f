"""What a run is fine-tuned on: each source as often as the settings say, and no test question anywhere."""

import gzip
import json
import lzma
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data.conversations import notes_of
from nanochat_core.pipeline.mixture import load_mixture
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


def talks(name, count):
    roles = ("user", "assistant")
    return [{"messages": [{"role": role, "content": f"{name} {number}"} for role in roles]} for number in range(count)]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    """The user's conversations, SmolTalk in the hub's layout, and two benchmarks."""
    for split in ("train", "test"):
        gsm8k = [{"question": f"gsm {split} {n}", "answer": f"<<1+{n}={n + 1}>>.\n#### {n + 1}"} for n in range(7)]
        write_lines(tmp_path / f"eval/gsm8k/main/{split}.jsonl", gsm8k)
    for split in ("auxiliary_train", "test"):
        mmlu = [
            {"question": f"mmlu {split} {n}", "subject": "", "choices": list("wxyz"), "answer": 1} for n in range(9)
        ]
        write_lines(tmp_path / f"eval/mmlu/all/{split}.jsonl", mmlu)
    write_lines(tmp_path / "mine/train.jsonl", talks("mine", 45))
    write_lines(tmp_path / "identity.jsonl", talks("identity", 3))
    for split, count in (("train", 60), ("test", 12)):
        path = tmp_path / f"smoltalk/data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(talks(f"smol {split}", count)), path)
    return tmp_path


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def load(data, *sets):
    return load_mixture(plan_run(load_config("tiny", [f"benchmarks.path={data}/eval", *sets])))


def kinds(conversations):
    """How many there are by the first two words of the question."""
    counts = Counter()
    for conversation in conversations:
        text = conversation["messages"][0]["content"].removeprefix("Multiple Choice question: ")
        counts[" ".join(word for word in text.split()[:2] if not word.isdecimal())] += 1
    return dict(counts)


def test_nanochats_mixture_has_every_source_as_often_as_it_should(data):
    mix = load(
        data, "sft.source=mix", f"sft.smoltalk={data}/smoltalk", "sft.num_smoltalk=50", "sft.mmlu_repeats=3",
        "sft.gsm8k_repeats=4", f"sft.identity_path={data}/identity.jsonl", "sft.num_spellings=11",
        "benchmarks.source=path",
    )  # fmt: skip
    assert kinds(mix.train) == {"smol train": 50, "mmlu auxiliary_train": 27, "gsm train": 28, "identity": 6,
                                "Spell the": 11}  # fmt: skip
    assert kinds(mix.validation) == {"smol test": 12}
    assert mix.questions == []
    smol = {c["messages"][0]["content"] for c in mix.train if c["messages"][0]["content"].startswith("smol")}
    assert len(smol) == 50


def test_additions_go_into_the_users_own_conversations(data):
    sets = ["sft.source=path", f"sft.path={data}/mine", "sft.gsm8k_repeats=4", "sft.num_letter_counts=5"]
    mix = load(data, *sets, "benchmarks.source=path")
    counts = kinds(mix.train)
    assert counts.pop("mine") == 43
    assert counts.pop("gsm train") == 28
    assert sum(counts.values()) == 5
    assert kinds(mix.validation) == {"mine": 2}
    parts = next(c["messages"][1]["content"] for c in mix.train if c["messages"][0]["content"] == "gsm train 3")
    assert [part["type"] for part in parts] == ["python", "python_output", "text"]
    again = load(data, *sets, "benchmarks.source=path")
    assert list(again.train) == list(mix.train)
    assert list(load(data, *sets, "benchmarks.source=path", "seed=7").train) != list(mix.train)


def test_held_out_files_are_validation_and_never_training(data):
    write_lines(data / "mine/val.jsonl", talks("held", 4))
    mix = load(data, "sft.source=path", f"sft.path={data}/mine")
    assert kinds(mix.train) == {"mine": 45}
    assert kinds(mix.validation) == {"held": 4}


def test_smoltalk_without_a_test_split_gives_every_twentieth(data):
    (data / "smoltalk/data/test-00000-of-00001.parquet").unlink()
    mix = load(data, "sft.source=mix", f"sft.smoltalk={data}/smoltalk", "sft.num_smoltalk=40")
    assert kinds(mix.train) == {"smol train": 38}
    assert kinds(mix.validation) == {"smol train": 2}
    held = {c["messages"][0]["content"] for c in mix.validation}
    assert not held & {c["messages"][0]["content"] for c in mix.train}


def test_what_is_missing_is_said(data):
    with pytest.raises(ConfigError, match=r"benchmarks\.source"):
        load(data, "sft.source=path", f"sft.path={data}/mine", "sft.gsm8k_repeats=1")
    (data / "eval/mmlu/all/auxiliary_train.jsonl").unlink()
    with pytest.raises(MissingError, match=r"mmlu/all/auxiliary_train\.jsonl"):
        load(data, "sft.source=path", f"sft.path={data}/mine", "sft.mmlu_repeats=1", "benchmarks.source=path")
    with pytest.raises(MissingError, match="cannot be read"):
        load(data, "sft.source=mix", f"sft.smoltalk={data}/absent")
    write_lines(data / "identity.jsonl", [{"messages": [{"role": "user"}]}])
    with pytest.raises(MissingError, match=r"identity\.jsonl, line 1"):
        list(load(data, "sft.source=path", f"sft.path={data}/mine", f"sft.identity_path={data}/identity.jsonl").train)


def test_only_the_builtin_mix_has_questions_of_its_own(data):
    mix = load(data, "sft.num_documentation=0", "sft.num_arithmetic=50", "sft.num_spelling=5", "sft.num_identity=5")
    assert {question.benchmark for question in mix.questions} == {"arithmetic", "identity", "letters", "spelling"}
    assert load(data, "sft.source=path", f"sft.path={data}/mine").questions == []


def mine(data, *, sets=()):
    return load(data, "sft.source=path", f"sft.path={data}/mine", *sets)


def write_all_kinds(folder, rows):
    """A conversation each in the kinds of files that people bring."""
    text = [json.dumps(row) for row in rows]
    write_lines(folder / "a.jsonl", rows[:1])
    (folder / "B.JSONL").write_text(text[1])
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(text[2].encode()))
    (folder / "d.json").write_text(f"[{text[3]},\n {text[4]}]")
    (folder / "e.jsonl.xz").write_bytes(lzma.compress(f"{text[5]}\n\n{text[6]}".encode()))
    (folder / "sub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[7:]), folder / "sub" / "f.parquet")


def test_conversations_of_every_kind_of_file_are_read_and_the_rest_is_named(data):
    folder = data / "all"
    folder.mkdir()
    write_all_kinds(folder, talks("talk", 12))
    (folder / "faq.ods").write_text("q,a")
    (folder / "info.json").write_text('{"license": "MIT"}')
    mix = load(data, "sft.source=path", f"sft.path={folder}")
    assert kinds(list(mix.train) + list(mix.validation)) == {"talk": 12}
    assert mix.notes[0] == (
        "conversations: 1 of B.JSONL (messages), 1 of a.jsonl (messages), 1 of c.jsonl.gz (messages), "
        "2 of d.json (messages), 2 of e.jsonl.xz (messages), 5 of sub/f.parquet (messages)"
    )
    assert notes_of(str(folder)) == [
        "sft.path: left out faq.ods (.ods is not read); info.json (its first value is no conversation)"
    ]


def test_what_is_wrong_in_a_packed_file_is_named_by_its_place(data):
    (data / "mine" / "b.json").write_text(json.dumps([*talks("b", 2), {"threads": []}]))
    with pytest.raises(MissingError, match=r"b\.json, item 3: there is no list `messages`; it has threads"):
        mine(data)


@pytest.mark.parametrize(
    ("name", "is_held_out"),
    [("val.jsonl", True), ("sub/test/x.jsonl", True), ("TEST.jsonl", True), ("my.dev.jsonl", True),
     ("testament.jsonl", False), ("values.jsonl", False), ("valid_train.jsonl", False), ("contest.jsonl", False)],
)  # fmt: skip
def test_conversations_are_held_out_by_whole_words_of_names(data, name, is_held_out):
    write_lines(data / "mine" / name, talks("held", 4))
    mix = mine(data)
    assert (kinds(mix.validation) == {"held": 4}) == is_held_out
    assert any(f"validation is {name}" in note for note in mix.notes) == is_held_out


def test_empty_turns_are_left_out_counted_and_the_first_is_named(data):
    empty = [
        [("user", "q"), ("assistant", "")],
        [("user", "  "), ("assistant", "a")],
        [("user", "q"), ("assistant", [])],
        [("user", "q"), ("assistant", None)],
        [("user", None), ("assistant", "a")],
        [("user", "q")],
        [("system", ""), ("user", "q s"), ("assistant", "a")],
        [("system", None), ("user", "q s"), ("assistant", "a b")],
    ]
    rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in empty]
    write_lines(data / "mine/extra.jsonl", rows)
    mix = mine(data)
    assert kinds(list(mix.train) + list(mix.validation)) == {"mine": 45, "q s": 2}
    assert all(conversation["messages"][0]["role"] == "user" for conversation in mix.train)
    said = next(note for note in mix.notes if note.startswith("left out"))
    assert "5 with an empty turn (the first: " in said
    assert "extra.jsonl, line 1)" in said
    assert "1 without an answer to learn from" in said


@pytest.mark.parametrize("answers", [[], [""], [" \n"], [None]])
def test_conversations_without_one_answer_are_refused(data, answers):
    said = [{"role": "assistant", "content": answer} for answer in answers]
    rows = [{"messages": [{"role": "user", "content": f"q {n}"}, *said]} for n in range(30)]
    write_lines(data / "mine/train.jsonl", rows)
    with pytest.raises(MissingError, match="not one of 30 conversations has an answer to learn from"):
        mine(data)


def test_no_conversation_is_learnt_and_validated_on(data):
    write_lines(data / "mine/train.jsonl", talks("mine", 20) * 2)
    mix = mine(data)
    held = {talk["messages"][0]["content"] for talk in mix.validation}
    assert held == {"mine 19"}
    assert "mine 19" not in {talk["messages"][0]["content"] for talk in mix.train}
    assert len(mix.train) == 38
    write_lines(data / "mine/train.jsonl", talks("mine", 1) * 30)
    with pytest.raises(MissingError, match="all are the same"):
        mine(data)


def test_few_conversations_hold_one_out_and_one_alone_is_refused(data):
    write_lines(data / "mine/train.jsonl", talks("mine", 6))
    mix = mine(data)
    assert (kinds(mix.train), kinds(mix.validation)) == ({"mine": 5}, {"mine": 1})
    assert "validation is 1 of 6 conversations, spread over all" in mix.notes
    write_lines(data / "mine/train.jsonl", talks("mine", 1))
    with pytest.raises(MissingError, match="1 conversation cannot"):
        mine(data)
