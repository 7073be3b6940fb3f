"""Datasets in the hub's layout, from a folder: whole shards once each, digests recorded, broken fetches taken up."""

import gzip
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.config import CorpusConfig
from nanochat_core.data import shards
from nanochat_core.data.corpora import build_corpus, fetch_shards
from nanochat_core.data.hub import dataset_url


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    for number in range(6):
        _parquet(folder / f"shard_{number:05d}.parquet", number)
    (folder / "README.md").write_text("a dataset")
    return folder


def _parquet(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [f"{number}: document {i}" for i in range(5)]}), path)


def _fetch(folder, downloads, **settings):
    config = CorpusConfig(source="hub", dataset=str(folder), **settings)
    return fetch_shards(config, downloads=downloads, log=lambda text: None)


def _build(folder, tmp_path, **settings):
    config = CorpusConfig(source="hub", dataset=str(folder), **settings)
    out = tmp_path / "out"
    build_corpus(config, out, downloads=tmp_path / "downloads", log=lambda text: None)
    return *(list(shards.read_documents(out / split)) for split in ("train", "validation")), json.loads(
        (out / "shards.json").read_text()
    )


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_shards_arrive_in_order_with_their_digests(dataset, tmp_path):
    fetched = _fetch(dataset, tmp_path / "downloads")
    assert [shard.path.name for shard in fetched] == [f"shard_{number:05d}.parquet" for number in range(6)]
    for shard in fetched:
        source = dataset / shard.path.name
        assert shard.path.read_bytes() == source.read_bytes()
        assert (shard.sha256, shard.num_bytes) == (_sha256(source), source.stat().st_size)
        assert shard.url.endswith(str(source))


def test_the_corpus_records_digests_and_holds_the_last_shard_out(dataset, tmp_path):
    train, validation, origin = _build(dataset, tmp_path)
    assert [text[0] for text in train] == list("0000011111222223333344444")
    assert {text[0] for text in validation} == {"5"}
    assert {file["name"]: file["sha256"] for file in origin["shards"]} == {
        path.name: _sha256(path) for path in dataset.glob("*.parquet")
    }


@pytest.mark.parametrize(("max_shards", "kept"), [(1, "05"), (2, "05"), (3, "015"), (6, "012345"), (99, "012345")])
def test_max_shards_keeps_the_last(dataset, tmp_path, max_shards, kept):
    fetched = _fetch(dataset, tmp_path / "downloads", max_shards=max_shards)
    assert "".join(shard.path.stem[-1] for shard in fetched) == kept


def test_a_fetch_that_was_interrupted_goes_on(dataset, tmp_path):
    downloads = tmp_path / "downloads"
    before = _fetch(dataset, downloads)
    times = {path.name: path.stat().st_mtime_ns for path in downloads.glob("*.parquet")}
    (downloads / "shard_00001.parquet").unlink()  # never finished ...
    (downloads / "shard_00001.parquet.record.json").unlink()
    (downloads / "shard_00001.parquet.part").write_bytes(b"half of it")  # ... but begun
    content = bytearray((downloads / "shard_00002.parquet").read_bytes())
    content[9] ^= 1  # as long as it was, with other bytes
    (downloads / "shard_00002.parquet").write_bytes(bytes(content))
    (downloads / "shard_00003.parquet").write_bytes(bytes(content[:50]))  # cut short
    (downloads / "shard_00004.parquet.record.json").unlink()  # killed before the record
    assert _fetch(dataset, downloads) == before
    for path in downloads.glob("*.parquet"):
        assert path.read_bytes() == (dataset / path.name).read_bytes()
    untouched = {"shard_00000.parquet", "shard_00005.parquet"}
    assert all((downloads / name).stat().st_mtime_ns == times[name] for name in untouched)
    assert not list(downloads.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b'{"url": "x", "sha', b"{}", b"[]", b"null"])
def test_a_torn_record_means_fetching_again(dataset, tmp_path, content):
    before = _fetch(dataset, tmp_path / "downloads")
    (tmp_path / "downloads" / "shard_00002.parquet.record.json").write_bytes(content)
    assert _fetch(dataset, tmp_path / "downloads") == before


def test_a_finished_fetch_does_not_need_the_source_to_be_read_again(dataset, tmp_path):
    before = _fetch(dataset, tmp_path / "downloads")
    for path in dataset.glob("*.parquet"):
        path.write_bytes(b"")
    assert _fetch(dataset, tmp_path / "downloads") == before


def test_shards_in_sub_folders_are_found(tmp_path):
    for number, name in enumerate(("data/en/a.parquet", "data/en/b.parquet", "z.parquet")):
        _parquet(tmp_path / "dataset" / name, number)
    train, validation, _ = _build(tmp_path / "dataset", tmp_path)
    assert {text[0] for text in train} == {"0", "1"}
    assert {text[0] for text in validation} == {"2"}


def test_shards_of_one_name_in_two_sub_folders_stay_two(tmp_path):
    for number, name in enumerate(("default/test/0000.parquet", "default/train/0000.parquet", "more/0000.parquet")):
        _parquet(tmp_path / "dataset" / name, number)
    train, validation, origin = _build(tmp_path / "dataset", tmp_path)
    assert {text[0] for text in validation} == {"0"}, "the folder's name says what it is"
    assert {text[0] for text in train} == {"1", "2"}
    assert len({file["sha256"] for file in origin["shards"]}) == 3


def test_a_pattern_chooses_the_shards(dataset, tmp_path):
    (dataset / "notes.jsonl").write_text('{"text": "x"}\n')
    assert len(_fetch(dataset, tmp_path / "downloads", dataset_files="shard_0000[12].parquet")) == 2


def test_jsonl_shards_can_be_named(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for number in range(3):
        line = json.dumps({"text": f"{number}"}) + "\n"
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    assert _build(folder, tmp_path, dataset_files="*.jsonl.gz")[:2] == (["0", "1"], ["2"])


@pytest.mark.parametrize("suffix", ["csv", "arrow"])
def test_shards_of_a_kind_that_is_not_read_are_refused(tmp_path, suffix):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.{suffix}").write_text(f'{{"text": "file {number} of documents is no document"}}')
    with pytest.raises(NanochatError):
        _build(folder, tmp_path, dataset_files=f"*.{suffix}")


def test_a_dataset_of_jsonl_is_read_through_the_datasets_library(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    texts = [f"document {number} of a dataset without parquet" for number in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train, validation, origin = _build(folder, tmp_path)
    assert sorted([*train, *validation]) == sorted(texts)
    assert len(validation) == 4
    assert [shard["name"] for shard in origin["shards"]] == ["00000.parquet"]


def test_a_dataset_of_jsonl_without_the_column_is_refused(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(MissingError, match="text"):
        _build(folder, tmp_path)


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingError, match="absent"):
        _fetch(tmp_path / "absent", tmp_path / "downloads")
    with pytest.raises(MissingError, match="nobody/nothing"):
        _fetch("nobody/nothing", tmp_path / "downloads")
    with pytest.raises(MissingError, match="nonsense"):
        _fetch("nonsense://nobody/nothing", tmp_path / "downloads")


def test_an_empty_dataset_is_refused(tmp_path):
    (tmp_path / "dataset").mkdir()
    with pytest.raises(MissingError):
        _fetch(tmp_path / "dataset", tmp_path / "downloads")


def test_names_are_hub_datasets_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_url("owner/name") == "hf://datasets/owner/name"
    assert dataset_url("https://host/data") == "https://host/data"
    assert dataset_url("./owner/name") == "owner/name"
    assert dataset_url("/owner/name") == "/owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert dataset_url("owner/name") == "owner/name"
