"""Several corpora as one: whose a shard is, what is held out everywhere, and what goes along."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.base.errors import MissingError
from nanochat_core.data.joined import join
from nanochat_core.data.shards import read_documents, read_in_turn, sources_of, write_shards


def corpus(folder, train, validation):
    write_shards(train, folder / "train")
    write_shards(validation, folder / "validation")
    return folder


def test_shards_are_called_after_their_source_and_keep_their_bytes(tmp_path):
    parts = {
        name: corpus(tmp_path / name, [f"{name} {i}" for i in range(5)], [f"{name} v"]) for name in ("own", "web.x")
    }
    lost = join(parts, tmp_path / "all")
    assert lost == {"own": (0, 0), "web.x": (0, 0)}
    for split in ("train", "validation"):
        assert sources_of(tmp_path / "all" / split) == ["own", "web.x"]
        for name, part in parts.items():
            written = tmp_path / "all" / split / f"{name}.00000.parquet"
            assert written.read_bytes() == (part / split / "00000.parquet").read_bytes()
    assert sources_of(parts["own"] / "train") == []


def test_what_one_source_holds_out_none_trains_on(tmp_path):
    parts = {
        "a": corpus(tmp_path / "a", ["one", "two", "both"], ["three"]),
        "b": corpus(tmp_path / "b", ["three", "both", "four"], ["two", "one"]),
    }
    table = pq.read_table(tmp_path / "b/train/00000.parquet")
    pq.write_table(table.append_column("score", pa.array([1, 2, 3])), tmp_path / "b/train/00000.parquet")
    assert join(parts, tmp_path / "all") == {"a": (2, 6), "b": (1, 5)}
    assert sorted(read_documents(tmp_path / "all/train")) == ["both", "both", "four"]
    kept = pq.read_table(tmp_path / "all/train/b.00000.parquet").to_pydict()
    assert (kept["text"], kept["score"]) == (["both", "four"], [2, 3]), "columns of others go along"


def test_a_source_of_which_nothing_is_left_is_refused(tmp_path):
    parts = {"a": corpus(tmp_path / "a", ["one"], ["x"]), "b": corpus(tmp_path / "b", ["three"], ["one"])}
    with pytest.raises(MissingError, match=r"corpus\.sources\.a leaves no document"):
        join(parts, tmp_path / "all")


def test_documents_come_in_turn_by_bytes(tmp_path):
    parts = {"a": corpus(tmp_path / "a", ["x" * 10] * 9, ["v"]), "b": corpus(tmp_path / "b", ["y" * 30] * 3, ["w"])}
    join(parts, tmp_path / "all")
    found = list(read_in_turn(tmp_path / "all/train"))
    assert sorted(found) == sorted(read_documents(tmp_path / "all/train"))
    counts = {letter: sum(len(text) for text in found[:6] if text[0] == letter) for letter in "xy"}
    assert abs(counts["x"] - counts["y"]) <= 30
