"""Every document of a corpus says which file and line it is from, whatever kind of file that is."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.config import CorpusConfig
from nanochat_core.data import documentation
from nanochat_core.data.corpora import build_corpus
from nanochat_core.data.placed import PlacedText
from nanochat_core.data.shards import write_shards
from nanochat_core.data.texts import read_texts


def test_the_place_of_a_document_leads_to_its_text_in_every_kind_of_file(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    texts = [f"the text of number {number}" for number in range(9)]
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps({"text": text}) for text in texts))
    (folder / "b.json").write_text(json.dumps([{"text": text} for text in ["", *texts]]).replace("number", "item"))
    pq.write_table(pa.table({"text": [None, *(f"{text} in parquet" for text in texts)]}), folder / "c.parquet")
    (folder / "notes.txt").write_text("\n\n a note of one line\n")
    with gzip.open(folder / "z.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "packed"}))
    out = tmp_path / "out"
    config = CorpusConfig(source="path", path=str(folder), validation_docs=4)
    build_corpus(config, out, downloads=tmp_path / "downloads", log=lambda text: None, least_bytes=1 << 20)
    shards = [*out.glob("*/*.parquet")]
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    assert len(rows) == 29
    places = {row["text"]: (row["file"], row["line"]) for row in rows}
    assert places["the text of number 3"] == ("a.jsonl", 7)
    assert places["the text of item 3"] == ("b.json", 5)
    assert places["the text of number 3 in parquet"] == ("c.parquet", 5)
    assert places["a note of one line"] == ("notes.txt", 3)
    assert places["packed"] == ("z.jsonl.gz", 1)


def test_a_piece_of_a_long_text_file_starts_at_its_line(tmp_path):
    path = tmp_path / "book.txt"
    paragraphs = [f"paragraph {number}\nhas\nlines {'and words ' * (number % 7)}" for number in range(200)]
    path.write_text("\n\n\n".join(paragraphs))
    lines = path.read_text().split("\n")
    pieces = list(read_texts(path, "text", part_chars=500))
    assert len(pieces) > 10
    for text, file, line in pieces:
        assert file == "book.txt"
        # a piece may be cut in the middle of a line, and then starts with the rest of it
        assert lines[line - 1].endswith(text.split("\n")[0])


def test_a_page_of_documentation_leads_to_its_source():
    page = next(page for page in documentation.pages() if page.file.endswith("classes/function.py"))
    source = (documentation._installed() / page.file).read_text().split("\n")
    name = page.text.split("\n")[0].split("(")[0].rpartition(".")[2]
    assert page.line == 1 or name in source[page.line - 1]


def test_a_name_in_other_bytes_and_an_unknown_place_can_be_written(tmp_path):
    write_shards([PlacedText("a", os.fsdecode(b"caf\xe9.txt"), 1), "b"], tmp_path)
    rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    assert rows == [{"text": "a", "file": "caf\ufffd.txt", "line": 1}, {"text": "b", "file": None, "line": None}]
