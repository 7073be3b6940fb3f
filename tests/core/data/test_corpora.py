"""Corpora from files: no validation document is trained on, and every file that cannot be read is named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import CorpusConfig
from nanochat_core.data import shards
from nanochat_core.data.corpora import build_corpus, notes_of
from nanochat_core.data.flaws import mended

PRETRAIN = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "pretrain"


def _texts(first, last):
    return [f"document {number} says something of its own" for number in range(first, last)]


def _parquet(path, texts, column="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: texts}), path, row_group_size=7)


def _jsonl(path, texts, column="text"):
    content = "".join(json.dumps({column: text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def notes():
    """What a person is told."""
    return []


@pytest.fixture
def build(tmp_path, notes):
    """(training documents, validation documents, counts) of the corpus that a path or a setting gives."""

    def build(path=None, least_bytes=1, **settings):
        out = tmp_path / "out"
        notes.clear()
        config = CorpusConfig(**{"source": "path", "path": str(path) if path else None, **settings})
        counts = build_corpus(config, out, downloads=tmp_path / "downloads", log=notes.append, least_bytes=least_bytes)
        train, validation = (list(shards.read_documents(out / split)) for split in ("train", "validation"))
        assert counts == counts | {
            "train_docs": len(train),
            "train_bytes": sum(len(text.encode()) for text in train),
            "validation_docs": len(validation),
            "validation_bytes": sum(len(text.encode()) for text in validation),
        }
        assert not set(train) & set(validation)
        assert counts["notes"] == notes
        return train, validation, json.loads((out / "log/origin.json").read_text())

    return build


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    return folder


def test_the_last_file_is_validation(build, folder):
    _parquet(folder / "c.parquet", _texts(20, 30))
    _parquet(folder / "a.parquet", _texts(0, 10))
    _parquet(folder / "b.parquet", _texts(10, 20))
    train, validation, origin = build(folder)
    assert train == _texts(0, 20)
    assert validation == _texts(20, 30)
    assert [file["name"] for file in origin["files"]] == ["a.parquet", "b.parquet", "c.parquet"]


def test_every_kind_of_file_is_read(build, folder):
    _parquet(folder / "1.parquet", _texts(0, 5))
    _jsonl(folder / "2.jsonl", _texts(5, 10))
    _jsonl(folder / "3.jsonl.gz", _texts(10, 15))
    (folder / "4.txt").write_text("one text file\nis one document\n")
    (folder / "5.txt.gz").write_bytes(gzip.compress("gezippt, auch é".encode()))
    (folder / "6.jsonl").write_bytes(b'{"text": "validation", "other": 5}\r\n\n')
    (folder / "notes.rst").write_text("is not read")
    train, validation, _ = build(folder)
    assert train == [*_texts(0, 15), "one text file\nis one document", "gezippt, auch é"]
    assert validation == ["validation"]


def test_a_glob_and_sub_folders_are_read_in_order_of_name(build, folder):
    _parquet(folder / "b" / "1.parquet", _texts(10, 20))
    _parquet(folder / "a" / "2.parquet", _texts(0, 10))
    assert build(folder)[:2] == (_texts(0, 10), _texts(10, 20))
    assert build(folder / "**" / "*.parquet")[:2] == (_texts(0, 10), _texts(10, 20))


def test_a_validation_document_that_is_also_in_training_is_left_out_there(build, folder):
    _parquet(folder / "a.parquet", [*_texts(0, 10), *_texts(20, 22), *_texts(0, 2)])
    _parquet(folder / "b.parquet", _texts(20, 30))
    train, validation, _ = build(folder)
    assert train == [*_texts(0, 10), *_texts(0, 2)]
    assert validation == _texts(20, 30)


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 40), min_size=20, max_size=80),
    cut=st.integers(1, 19),
    validation_docs=st.integers(1, 30),
    is_one_file=st.booleans(),
)
def test_no_validation_document_is_trained_on_however_duplicates_fall(
    tmp_path_factory, numbers, cut, validation_docs, is_one_file
):
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"text {number}" for number in [*numbers, 100, 101]]
    if is_one_file:
        _jsonl(folder / "a.jsonl", texts)
    else:
        _jsonl(folder / "a.jsonl", [*texts[:cut], "only here"])
        _jsonl(folder / "b.jsonl", texts[cut:])
    config = CorpusConfig(source="path", path=str(folder), validation_docs=validation_docs)
    try:
        build_corpus(config, folder / "out", downloads=folder / "downloads", log=lambda text: None)
    except MissingError:
        return  # every training document was also in validation
    train = set(shards.read_documents(folder / "out" / "train"))
    validation = set(shards.read_documents(folder / "out" / "validation"))
    assert not train & validation
    assert train | validation == {*texts, *([] if is_one_file else ["only here"])}


def test_one_file_gives_documents_from_all_over_it_to_validation(build, folder):
    _jsonl(folder / "one.jsonl", _texts(0, 1000))
    train, validation, _ = build(folder / "one.jsonl", validation_docs=10)
    assert validation == [_texts(0, 1000)[number] for number in range(50, 1000, 100)]
    assert len(train) == 990


def test_one_small_file_gives_a_tenth_at_most(build, folder):
    _jsonl(folder / "one.jsonl", _texts(0, 35))
    assert len(build(folder)[1]) == 3
    _jsonl(folder / "one.jsonl", _texts(0, 2))
    assert [len(part) for part in build(folder)[:2]] == [1, 1]


@pytest.mark.parametrize("texts", [[], ["the only document"], ["", "  \n", "x"]])
def test_a_corpus_of_no_or_one_document_is_refused(build, folder, texts):
    _jsonl(folder / "one.jsonl", texts)
    with pytest.raises(MissingError, match=r"needs both|one\.jsonl \(empty\)"):
        build(folder)


@pytest.mark.parametrize("last", [[], [""], [None]])
def test_a_last_file_without_text_makes_no_validation(build, folder, notes, last):
    _jsonl(folder / "a.jsonl", _texts(0, 50))
    _jsonl(folder / "b.jsonl", last)
    train, validation, _ = build(folder)
    assert (len(train), len(validation)) == (45, 5)
    assert "5 of 50 documents, spread over all" in notes[0]


def test_a_last_file_that_holds_all_the_others_is_no_validation(build, folder, notes):
    _jsonl(folder / "a.jsonl", _texts(0, 50))
    _jsonl(folder / "b.jsonl", _texts(0, 51))
    train, validation, _ = build(folder)
    assert len(validation) == 10
    assert set(train) == set(_texts(0, 51)) - set(validation), "no text is in both"
    assert "10 of 101 documents, spread over all" in notes[0]


def test_a_held_out_file_without_text_is_refused_and_named(build, folder):
    _jsonl(folder / "a.jsonl", _texts(0, 50))
    _jsonl(folder / "test.jsonl", [None])
    with pytest.raises(MissingError, match="0 validation") as error:
        build(folder)
    assert "test.jsonl" in error.value.hint


def test_max_bytes_stops_the_training_text_and_leaves_validation_whole(build, folder):
    _jsonl(folder / "a.jsonl", ["aaaa", "éé", "cc", "d"])
    _jsonl(folder / "b.jsonl", ["validation"])
    for max_bytes, expected in ((4, ["aaaa"]), (7, ["aaaa"]), (8, ["aaaa", "éé"]), (100, ["aaaa", "éé", "cc", "d"])):
        train, validation, _ = build(folder, max_bytes=max_bytes)
        assert train == expected
        assert validation == ["validation"]


@pytest.mark.parametrize(
    ("max_shards", "kept"), [(1, "a"), (2, "a"), (3, "ab"), (4, "abc"), (5, "abcd"), (6, "abcd"), (50, "abcd")]
)
def test_max_shards_keeps_the_last_one_as_validation(build, folder, max_shards, kept):
    for name in "abcde":
        _jsonl(folder / f"{name}.jsonl", [name])
    train, validation, _ = build(folder, max_shards=max_shards)
    assert "".join(train) == kept
    assert validation == ["e"]


def test_the_origin_names_the_files_that_were_read_and_no_others(build, folder):
    for name in "abcde":
        _jsonl(folder / f"{name}.jsonl", [name])
    origin = build(folder, max_shards=3)[2]
    assert [file["name"] for file in origin["files"]] == ["a.jsonl", "b.jsonl", "e.jsonl"]


def test_the_same_files_give_the_same_bytes(folder, tmp_path):
    for name in "ab":
        _jsonl(folder / f"{name}.jsonl", [f"{name} {number}" for number in range(2500)])
    config = CorpusConfig(source="path", path=str(folder))
    for out in (tmp_path / "1", tmp_path / "2"):
        build_corpus(config, out, downloads=tmp_path, log=lambda text: None)
    names = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(names) == 3
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


def test_a_parquet_file_without_the_column_names_those_it_has(build, folder):
    _parquet(folder / "a.parquet", _texts(0, 20), column="content")
    with pytest.raises(MissingError, match=r"no column 'text'; it has content") as error:
        build(folder)
    assert error.value.hint == "--set corpus.text_column=content"
    assert len(build(folder, text_column="content")[0]) == 18


def test_a_column_of_numbers_is_refused(build, folder):
    _parquet(folder / "a.parquet", list(range(20)))
    with pytest.raises(MissingError, match="int"):
        build(folder)


def test_missing_and_empty_values_of_a_parquet_file_are_left_out(build, folder):
    _parquet(folder / "a.parquet", ["a", None, "", "b"])
    _parquet(folder / "b.parquet", ["c"])
    assert build(folder)[:2] == (["a", "b"], ["c"])


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_parquet_file_cut_anywhere_is_named(build, folder, keep):
    _parquet(folder / "a.parquet", _texts(0, 500))
    _parquet(folder / "b.parquet", _texts(500, 510))
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(MissingError, match=r"a\.parquet"):
        build(folder)


def test_a_parquet_file_with_damaged_pages_is_refused_or_read_and_never_a_traceback(build, folder):
    _parquet(folder / "b.parquet", _texts(500, 510))
    refused = []
    for position in range(4, 2000, 97):
        _parquet(folder / "a.parquet", _texts(0, 300))
        content = bytearray((folder / "a.parquet").read_bytes())
        content[position : position + 8] = b"\xff" * 8
        (folder / "a.parquet").write_bytes(bytes(content))
        try:
            build(folder)
        except MissingError as error:
            refused.append(error.message)
    assert refused, "no damage was noticed: it was done in the wrong places"
    assert [message for message in refused if "a.parquet" not in message] == []


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_bytes_that_are_no_utf8_are_named_with_their_place(build, folder, name):
    line = '{"text": "café"}\n' if name == "a.jsonl" else "café\n"
    (folder / name).write_bytes(line.encode("latin-1"))
    _jsonl(folder / "b.jsonl", ["x"])
    with pytest.raises(MissingError, match="0xe9") as error:
        build(folder)
    assert name in error.value.message
    assert "iconv" in error.value.hint


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"{", "not JSON"), (b"plain words", "not JSON"), (b"5", "int"), (b"[]", "list"), (b'{"body": "x"}', "body"),
        (b'{"text": 5}', "text"), (b'{"text": ["x"]}', "text"), (b"[" * 100_000, "line 3"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_line_that_is_no_document_is_named(build, folder, line, named):
    (folder / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    _jsonl(folder / "b.jsonl", ["x"])
    with pytest.raises(MissingError, match="line 3") as error:
        build(folder)
    assert named in error.value.message


def test_a_lone_surrogate_in_json_becomes_the_replacement_character(build, folder):
    (folder / "a.jsonl").write_bytes(b'{"text": "half an emoji: \\ud83d"}\n{"text": "whole: \\ud83d\\ude42"}\n')
    _jsonl(folder / "b.jsonl", ["x"])
    assert build(folder)[0] == ["half an emoji: \ufffd", "whole: 🙂"]


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_gzip_file_cut_anywhere_is_named(build, folder, keep):
    _jsonl(folder / "a.jsonl.gz", _texts(0, 100))
    content = (folder / "a.jsonl.gz").read_bytes()
    (folder / "a.jsonl.gz").write_bytes(content[: int(keep * len(content))])
    _jsonl(folder / "b.jsonl", ["x"])
    with pytest.raises(MissingError, match=r"a\.jsonl\.gz" if keep else "needs both"):
        build(folder)


def test_a_plain_file_called_gz_is_named(build, folder):
    (folder / "a.txt.gz").write_text("not packed")
    _jsonl(folder / "b.jsonl", ["x"])
    with pytest.raises(MissingError, match=r"a\.txt\.gz"):
        build(folder)


def test_absent_and_empty_paths_are_refused(build, folder, tmp_path):
    for path in (folder, tmp_path / "absent", tmp_path / "*.parquet"):
        with pytest.raises(MissingError, match=r"corpus\.path"):
            build(path)
    with pytest.raises(ConfigError):
        build(None)
    with pytest.raises(ConfigError):
        build(source="hub")


def test_documents_longer_than_a_shard_and_a_row_group_are_kept_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TEXT_BYTES", 1000)
    texts = ["x" * 2500, *_texts(0, 40), "é" * 700]
    assert shards.write_shards(texts, tmp_path / "out") == (42, sum(len(text.encode()) for text in texts))
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 2
    assert list(shards.read_documents(tmp_path / "out")) == texts


@pytest.mark.skipif(not PRETRAIN.is_dir(), reason=f"no real text at {PRETRAIN}")
def test_real_text_comes_through_unchanged_but_for_mojibake(build, folder):
    for number, name in enumerate(("shard_00000.parquet", "shard_00007.parquet")):
        source = pq.ParquetFile(PRETRAIN / name)
        pq.write_table(source.read_row_group(0), folder / f"{number}.parquet")
    train, validation, _ = build(folder)
    texts, held_out = (
        [mended(text) or text for text in pq.read_table(folder / f"{number}.parquet")["text"].to_pylist()]
        for number in range(2)
    )
    assert validation == held_out
    assert train == [text for text in texts if text not in held_out]
    assert len(train) > 900


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (["train.jsonl", "test.jsonl"], ["test.jsonl"]),
        (["TRAIN.jsonl", "Valid.jsonl"], ["Valid.jsonl"]),
        (["my.train.jsonl", "my.dev.jsonl"], ["my.dev.jsonl"]),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation-00000-of-00001.jsonl"],
         ["validation-00000-of-00001.jsonl"]),
        (["data/train/x.jsonl", "data/test/a.jsonl", "data/val/b.jsonl"], ["data/test/a.jsonl", "data/val/b.jsonl"]),
        (["train.jsonl", "notes.jsonl"], ["notes.jsonl"]),  # the last one that is not for training by its name
        (["training_notes.jsonl", "testament.jsonl", "validated.jsonl"], ["validated.jsonl"]),  # the last file
        (["contest.jsonl", "devices.jsonl", "latest.jsonl"], ["latest.jsonl"]),
        (["test1.jsonl", "test2.jsonl", "test3.jsonl"], ["test3.jsonl"]),  # all say so: they set nothing apart
        (["train/test_cases.jsonl", "b.jsonl", "valid/train_of_thought.jsonl"], ["valid/train_of_thought.jsonl"]),
    ],
)  # fmt: skip
def test_names_of_splits_decide_where_they_are_whole_words(build, folder, notes, names, held_out):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _jsonl(folder / name, [f"{name} {number}" for number in range(3)])
    train, validation, _ = build(folder)
    assert {text.split()[0] for text in validation} == set(held_out)
    assert {text.split()[0] for text in train} == set(names) - set(held_out)
    assert notes[0].startswith(f"validation is {', '.join(sorted(held_out))}, ")


def test_a_folder_of_small_files_holds_out_documents_of_all(build, folder, notes):
    for number in range(200):
        (folder / f"{number:03}.txt").write_text(f"note {number} " * 20)
    train, validation, _ = build(folder, least_bytes=2048)
    assert (len(train), len(validation)) == (180, 20)
    assert notes[0].startswith("validation is 20 of 200 documents, spread over all")
    assert build(folder, least_bytes=100)[1] == [("note 199 " * 20).strip()]


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_one_long_text_file_is_cut_at_blank_lines_and_nothing_of_it_is_lost(build, folder, ending):
    paragraphs = [f"Paragraph {number} " + "of some words " * 20 for number in range(600)]
    book = "\n\n".join(map(str.strip, paragraphs))
    (folder / f"book{ending}").write_bytes(gzip.compress(book.encode()) if ending.endswith("gz") else book.encode())
    train, validation, _ = build(folder)
    assert len(validation) >= 5
    documents = sorted([*train, *validation], key=lambda text: int(text.split()[1]))
    assert "\n\n".join(documents) == book


def test_what_is_dropped_is_counted_and_said(build, folder, notes):
    _jsonl(folder / "a.jsonl", ["one", None, "", " \n", "held", "two", "held", "three"])
    _jsonl(folder / "b.jsonl", ["held", None])
    assert build(folder)[0] == ["one", "two", "three"]
    assert "documents: 1 of b.jsonl, 5 of a.jsonl" in notes
    assert "left out: 4 empty documents, 2 training documents that are also in validation" in notes
    build(folder, max_bytes=6)
    assert "corpus.max_bytes = 6 ends the training text after 2 documents" in notes
    with pytest.raises(MissingError) as error:
        build(folder, max_bytes=2)
    assert "max_bytes = 2" in error.value.hint


def test_a_description_in_json_beside_the_text_is_left_out_by_name(build, folder):
    _jsonl(folder / "a.jsonl", _texts(0, 20))
    (folder / "b.json").write_text(json.dumps([{"text": text} for text in _texts(20, 30)]))
    (folder / "c.json").write_text(
        json.dumps({"text": "one object"}) + "\n" + json.dumps({"text": "another"}, indent=1)
    )
    (folder / "dataset_infos.json").write_text('{"splits": {"train": 5}}')
    train, validation, _ = build(folder)
    assert train == _texts(0, 30)
    assert validation == ["one object", "another"]
    config = CorpusConfig(source="path", path=str(folder))
    assert notes_of(config) == ["corpus.path: left out dataset_infos.json (its first value has no field 'text')"]
    with pytest.raises(MissingError, match="no field 'text'; it has splits"):
        build(folder / "dataset_infos.json")


def _column(kind):
    texts = _texts(0, 40)
    return {
        "large_string": lambda: pa.array(texts, pa.large_string()),
        "string_view": lambda: pa.array(texts, pa.string_view()),
        "dictionary": lambda: pa.array(texts).dictionary_encode(),
        "binary": lambda: pa.array([text.encode() for text in texts]),
    }[kind]()


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary", "binary"])
def test_text_of_every_arrow_type_is_read(build, folder, kind):
    pq.write_table(pa.table({"text": _column(kind)}), folder / "a.parquet", row_group_size=7)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "b.parquet")
    train, validation, _ = build(folder)
    assert sorted([*train, *validation]) == sorted(_texts(0, 40))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([["x"]] * 20, "list"),
        ([{"en": "x"}] * 20, "struct"),
        ([1.5] * 20, "double"),
        ([b"\xff\xfe"] * 20, "UTF8|UTF-8"),
    ],
)
def test_a_column_that_holds_no_text_is_refused_with_its_type(build, folder, values, named):
    pq.write_table(pa.table({"text": values}), folder / "a.parquet")
    with pytest.raises(MissingError, match=named):
        build(folder)


def test_the_hint_for_a_missing_column_names_one_of_text(build, folder):
    pq.write_table(pa.table({"id": [1] * 20, "body": ["x"] * 20}), folder / "a.parquet")
    with pytest.raises(MissingError, match="it has id, body") as error:
        build(folder)
    assert error.value.hint == "--set corpus.text_column=body"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_field_in_another_is_named_with_a_dot(build, folder, kind):
    rows = [{"content": {"title": "t", "body": text}} for text in _texts(0, 20)] + [{"content": None}]
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    train, validation, _ = build(folder, text_column="content.body")
    assert sorted(train + validation) == sorted(_texts(0, 20))
    with pytest.raises(MissingError, match=r"content \(with title, body\)") as error:
        build(folder)
    assert error.value.hint.startswith("--set corpus.text_column=content.")


def test_a_field_whose_name_has_a_dot_is_that_field(build, folder):
    (folder / "a.jsonl").write_text('{"a.b": "one", "a": {"b": "other"}}\n' * 1 + '{"a.b": "two"}\n')
    train, validation, _ = build(folder, text_column="a.b")
    assert sorted(train + validation) == ["one", "two"]


def test_a_list_in_a_file_of_lines_is_read_as_a_list(build, folder):
    (folder / "a.jsonl").write_text(json.dumps([{"text": text} for text in _texts(0, 20)], indent=1))
    assert sum(map(len, build(folder)[:2])) == 20


def test_what_tables_write_for_nothing_is_no_text(build, folder):
    _jsonl(folder / "a.jsonl", ["one", "nan", "None", "null", "\u200b", " \ufeff ", "two"])
    (folder / "a.jsonl").open("a").write('{"text": NaN}\n')
    train, validation, _ = build(folder)
    assert sorted(train + validation) == ["one", "two"]


def test_a_folder_of_descriptions_alone_is_refused(build, folder):
    for name in ("info", "state"):
        (folder / f"{name}.json").write_text('{"rows": 3}')
    with pytest.raises(MissingError, match=r"holds no text: info\.json"):
        build(folder)


def test_all_files_that_are_no_utf8_are_named_at_once(build, folder):
    (folder / "a.txt").write_bytes("schön".encode("utf-16"))
    (folder / "b.txt").write_bytes("schön für alle".encode("latin-1"))
    _jsonl(folder / "c.jsonl", _texts(0, 5))
    with pytest.raises(MissingError, match=r"2 files .*a\.txt.*b\.txt") as error:
        build(folder)
    assert "iconv -f utf-16 -t utf-8 a.txt" in error.value.hint
    assert "iconv -f latin1 -t utf-8 b.txt" in error.value.hint


@pytest.mark.parametrize("content", [b"%PDF-1.4\n%\xe2\xe3", b"text\0text" * 9])
def test_what_is_no_text_is_refused_whatever_its_ending(build, folder, content):
    (folder / "a.txt").write_bytes(content)
    _jsonl(folder / "c.jsonl", _texts(0, 5))
    with pytest.raises(MissingError, match=r"a\.txt (is a PDF|has bytes of zero)"):
        build(folder)


def test_the_card_of_a_data_set_is_no_text_of_it(build, folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Texts")
    _jsonl(folder / "a.jsonl", _texts(0, 20))
    assert sum(map(len, build(folder)[:2])) == 20
    assert "README.md (the card of a data set)" in notes_of(CorpusConfig(source="path", path=str(folder)))[0]
    (folder / "README.md").write_text("# Notes of my own")
    assert sum(map(len, build(folder)[:2])) == 21


def test_markdown_is_text_as_it_is_written_and_lines_may_end_in_any_way(build, folder):
    (folder / "a.md").write_bytes(b"# Title\r\n\r\n- one\r- two\r")
    _jsonl(folder / "c.jsonl", _texts(0, 5))
    assert "# Title\n\n- one\n- two" in build(folder)[0]


def test_duplicates_and_flaws_are_said_and_files_without_text_named(build, folder, notes):
    _jsonl(folder / "a.jsonl", [*_texts(0, 20), "caf\ufffd"])
    _jsonl(folder / "a.jsonl.gz", _texts(0, 20))
    _parquet(folder / "b.parquet", [None])
    _jsonl(folder / "valid.jsonl", ["held out"])
    assert len(build(folder)[0]) == 41
    assert "20 training documents are the same as an earlier one (duplicates); they stay" in notes
    assert "documents: 1 of valid.jsonl, 21 of a.jsonl, 20 of a.jsonl.gz, 0 of b.parquet" in notes
    assert "noticed: of 42 documents 1 with U+FFFD, where letters were lost (the first: a.jsonl, line 21)" in notes
