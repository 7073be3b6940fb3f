"""Text as people have it: every reader takes a mark and CRLF, and names what is no UTF-8."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.deploy import read as read_yaml
from nanochat_core.base.errors import ConfigError, CorruptError, MissingError, NanochatError
from nanochat_core.base.text import MARK, decode, typed, typed_lines
from nanochat_core.cli.serve import _read_token
from nanochat_core.data.hub import read_digests
from nanochat_core.data.rows import FileRows
from nanochat_core.data.texts import read_texts
from nanochat_core.data.words import words_of_file
from nanochat_core.evals.core.bundle import _items, _table, _tasks
from nanochat_core.model.import_checkpoint import _read_config
from nanochat_core.presets import load_config
from nanochat_core.record.problems import read_json


def texts_of(path):
    return [document.text for document in read_texts(path, "text")]


CONFIG = {"sequence_len": 8, "vocab_size": 9, "n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8}
READERS = {  # a file's name: its content, and who reads it
    "a.txt": ("one é\ntwo\n", texts_of),
    "a.jsonl": ('{"text": "é"}\n\n{"text": "b"}\n', texts_of),
    "chat.jsonl": ('{"messages": "é"}\n{"messages": "b"}\n', lambda path: list(FileRows([path]))),
    "words_alpha.txt": ("\n".join(f"word{chr(97 + i)}" for i in range(26)) + "\né\n", words_of_file),
    "mine.toml": ('# é\n[corpus]\ntext_column = "b"\n[pretrain]\ndepth = 4\n', lambda path: load_config(str(path))),
    "token.txt": ("0123456789abcdef\n", _read_token),
    "digests.txt": (f"{'a' * 64} *0.jsonl\n{'b' * 64}  é.jsonl\n", lambda path: read_digests(str(path))),
    "shards.json": (json.dumps({"shards": [{"name": "x", "sha256": "a" * 64}]}), lambda path: read_digests(str(path))),
    "core.yaml": ("# é\nicl_tasks:\n- label: a\n", _tasks),
    "eval_meta_data.csv": ("Eval Task,Task Category,Random baseline\né,b,25\n", _table),
    "items.jsonl": ('{"context": "é", "continuation": "c"}\n', lambda path: list(_items(path, "language_modeling"))),
    "config.json": (json.dumps({"model_config": CONFIG}), _read_config),
    "pools.yaml": ("work_pools:\n- name: é\n", read_yaml),
}
names = pytest.mark.parametrize("name", READERS)


@names
def test_a_mark_and_crlf_are_no_text(name, tmp_path):
    content, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(content.encode())
    plain = read(path)
    path.write_bytes((MARK + content.replace("\n", "\r\n")).encode())
    assert repr(read(path)) == repr(plain)


@names
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_utf16_and_utf32_are_refused_by_name(name, encoding, tmp_path):
    content, read = READERS[name]
    (tmp_path / name).write_bytes(content.encode(encoding))
    with pytest.raises(NanochatError, match=r"UTF-(16|32)") as error:
        read(tmp_path / name)
    assert name in error.value.message
    assert f"{error.value.message} {error.value.hint}".count("iconv") == 1
    assert error.value.exit_code in (2, 3)


@names
def test_bytes_that_are_no_utf8_are_refused_by_file(name, tmp_path):
    content, read = READERS[name]
    (tmp_path / name).write_bytes(content.encode() + b"\xe9\n")
    with pytest.raises(NanochatError, match="not UTF-8: byte 0xe9") as error:
        read(tmp_path / name)
    assert name in error.value.message


def test_a_line_of_latin1_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(MissingError, match=r"a\.jsonl, line 2 is not UTF-8: byte 0xe9 at offset 10"):
        texts_of(tmp_path / "a.jsonl")
    with pytest.raises(MissingError, match=r"a\.jsonl, line 2 is not UTF-8"):
        list(FileRows([tmp_path / "a.jsonl"]))


@names
@pytest.mark.parametrize(
    ("raw", "kind"),
    [(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
     (gzip.compress(b"{}", mtime=0), "packed by gzip"), (b"PK\x03\x04\x14\0", "a zip archive")],
)  # fmt: skip
def test_what_is_no_text_whatever_its_name_is_named(name, raw, kind, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(NanochatError, match=kind) as error:
        READERS[name][1](tmp_path / name)
    assert name in error.value.message


def test_the_quotes_of_windows_have_its_code_page_in_the_hint(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "\u201ca\u201d"}'.encode("cp1252"))
    with pytest.raises(MissingError, match="byte 0x93") as error:
        texts_of(tmp_path / "a.jsonl")
    assert "iconv -f cp1252" in str(error.value.hint)


def test_files_that_were_joined_have_their_marks_in_the_middle(tmp_path):
    line = (MARK + '{"text": "a"}\r\n').encode()
    (tmp_path / "a.jsonl").write_bytes(line * 3 + MARK.encode())
    assert texts_of(tmp_path / "a.jsonl") == ["a"] * 3
    assert list(FileRows([tmp_path / "a.jsonl"])) == [{"text": "a"}] * 3


def test_the_mark_at_the_start_of_a_document_is_no_text_of_it(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": MARK + "a" + MARK}))
    pq.write_table(pa.table({"text": [MARK + "a" + MARK, None]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert texts_of(tmp_path / name) == ["a" + MARK]


def test_a_null_is_an_empty_document_in_every_kind_of_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "a"}\n{"text": ""}\n')
    pq.write_table(pa.table({"text": [None, "a", ""]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.jsonl") == texts_of(tmp_path / "a.parquet") == ["a"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_a_file_is_read_whatever_bytes_are_in_its_folders_name(name, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
    else:
        with pa.CompressedOutputStream(str(tmp_path / name), "zstd") as file:
            file.write(b'{"text": "a"}')
    (tmp_path / name).rename(folder / name)
    assert texts_of(folder / name) == ["a"]
    assert list(FileRows([folder / name])) == [{"text": "a"}]


def test_parquet_with_strings_that_are_no_utf8_names_its_file(tmp_path):
    table = pa.table({"text": pa.array([b"a", b"caf\xe9"]).view(pa.binary())})
    table = pa.table({"text": pa.StringArray.from_buffers(2, *table["text"].chunk(0).buffers()[1:])})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(MissingError, match=r"a\.parquet"):
        texts_of(tmp_path / "a.parquet")


def test_the_evidence_of_a_bundle_is_as_we_wrote_it():
    with pytest.raises(CorruptError, match="byte order mark"):
        read_json(MARK.encode() + b"{}", where="record.json")
    with pytest.raises(CorruptError, match="UTF-16"):
        read_json("{}".encode("utf-16"), where="record.json")


@given(st.text())
def test_utf8_comes_through_whatever_it_says(text):
    raw = text.encode("utf-8", "replace")
    if "\0" not in text:
        assert decode(raw, "a file") == raw.decode().removeprefix(MARK)
    assert typed(raw.decode()) == raw.decode().removeprefix(MARK)


@given(st.binary())
def test_whatever_is_typed_can_be_written_down(raw):
    told = typed(raw.decode("utf-8", "surrogateescape"))
    assert told.encode() is not None, "no surrogate is left"
    assert told == raw.decode("utf-8", "replace").removeprefix(MARK)
    assert typed(raw.decode("ascii", "surrogateescape")) == told, "what LC_ALL=C makes of an argument"


def test_lines_from_a_pipe_are_read_as_far_as_they_can_be():
    lines = [MARK.encode() + b"a\r\n", b"caf\xe9\n", b"\xff\xfe\n"]
    assert list(typed_lines(lines, "standard input")) == ["a\r\n", "caf\ufffd\n", "\ufffd\ufffd\n"]
    with pytest.raises(ConfigError, match="standard input is UTF-16"):
        list(typed_lines(["a\r\n".encode("utf-16")], "standard input"))
