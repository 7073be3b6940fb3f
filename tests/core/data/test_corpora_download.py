"""A corpus from a network that fails in every way it can is byte for byte the corpus from one that works."""

import hashlib
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_server import Fault, HttpServer

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import CorpusConfig
from nanochat_core.data.corpora import build_corpus
from nanochat_core.data.hub import Patience
from nanochat_core.data.shards import read_documents

NAME, COMMIT = "somebody/texts", "c0ffee"
NUM_SHARDS = 12
QUICK = Patience(num_tries=60, backoff_base_s=0.001, backoff_cap_s=0.02, stall_timeout_s=0.3, max_retry_after_s=0.05)


def _shard(number):
    words = random.Random(number)
    texts = [" ".join(f"{words.randrange(10**9)}" for _ in range(60)) for _ in range(200)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


@pytest.fixture(scope="module")
def shards():
    return {f"shard_{number:05d}.parquet": _shard(number) for number in range(NUM_SHARDS)}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """The files of the corpus, and the metrics, that a server gives."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")

    def build(server, name, **settings):
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        config = CorpusConfig(**{"source": "hub", "dataset": NAME, **settings})
        out = tmp_path / name
        metrics = build_corpus(
            config, out, downloads=tmp_path / f"{name}.downloads", log=lambda text: None, patience=QUICK
        )
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}, metrics

    return build


@pytest.fixture
def honest(shards):
    with HttpServer() as server:
        server.serve_hub(NAME, COMMIT, shards)
        yield server


def _trouble(right, other):
    """One of everything that can go wrong with a shard; what belongs together stays together."""
    other = other[: len(right)].ljust(len(right), b"?")
    return [
        [Fault(after_frac=0.4, then="stall")],
        [Fault(after_frac=0.6)],
        [Fault(after_frac=0.3, then="reset")],
        [Fault(lie_bytes=5000, after_frac=0.7)],
        [Fault(lie_bytes=-100)],
        [Fault(status=429, headers={"Retry-After": "30"})],
        [Fault(status=503)],
        [Fault(status=500)],
        [Fault(status=302, headers={"Location": "/busy"})],
        [Fault(page=b"<html>sorry</html>", headers={"Content-Type": "text/html"})],
        [Fault(ignore_range=True, after_frac=0.7)],
        [Fault(pause_s=0.002, piece_bytes=4000, after_frac=0.5)],
        [Fault(change_to=other, after_frac=0.5), Fault(change_to=right, after_frac=0.2)],
        [Fault(wrong_bytes=True)],
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_fault_on_every_shard_in_any_order_changes_nothing(shards, honest, build, seed):
    undisturbed, _ = build(honest, "undisturbed")
    order = random.Random(seed)
    with HttpServer() as server:
        server.serve_hub(NAME, COMMIT, shards)
        server.always["/busy"] = Fault(status=504)
        names = list(shards)
        for name, next_name in zip(names, [*names[1:], names[0]], strict=True):
            trouble = _trouble(shards[name], shards[next_name])
            order.shuffle(trouble)
            server.script(f"/cdn/{name}", *[fault for group in trouble for fault in group])
        disturbed, metrics = build(server, "disturbed")
        assert server.faults_left() == 0
        assert len(server.log) > NUM_SHARDS * 15
    assert disturbed == undisturbed
    assert metrics["num_shards"] == NUM_SHARDS


def test_the_corpus_does_not_depend_on_where_its_bytes_came_from(shards, honest, build):
    from_hub, hub_metrics = build(honest, "hub")
    with HttpServer() as mirror:
        mirror.files.update({f"/copies/{name}": content for name, content in shards.items()})
        honest.always.update({f"/cdn/{name}": Fault(status=503) for name in shards})
        from_mirror, metrics = build(honest, "mirror", mirrors=f"{mirror.url}/copies")
        index = "".join(f'<a href="{name}">{name}</a>' for name in reversed(shards))
        mirror.files["/copies/"] = index.encode()
        from_address, _ = build(honest, "address", dataset=f"{mirror.url}/copies")
        assert metrics["shard_sources"] == {f"{mirror.url}/copies/": NUM_SHARDS}
    assert from_hub == from_mirror == from_address
    assert hub_metrics["shards_sha256"] == metrics["shards_sha256"]


def test_the_manifest_lists_every_shard_with_its_digest_in_order(shards, honest, build):
    files, metrics = build(honest, "out")
    assert json.loads(files["shards.json"])["shards"] == [
        {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
        for name, content in shards.items()
    ]
    assert metrics["shard_bytes"] == sum(map(len, shards.values()))
    assert metrics["shard_sources"] == {f"{honest.url}/datasets/{NAME}/resolve/{COMMIT}/": NUM_SHARDS}


def test_the_manifest_of_one_corpus_can_be_demanded_of_the_next(shards, honest, build, tmp_path):
    files, _ = build(honest, "first", max_shards=3)
    (tmp_path / "shards.json").write_bytes(files["shards.json"])
    again, _ = build(honest, "second", digests_file=str(tmp_path / "shards.json"), revision=COMMIT)
    assert again == files
    changed = "shard_00001.parquet"
    honest.files[f"/cdn/{changed}"] = shards["shard_00002.parquet"]
    with pytest.raises(MissingError, match=changed):
        build(honest, "third", digests_file=str(tmp_path / "shards.json"), revision=COMMIT)


def test_half_a_parquet_file_and_a_page_in_its_place_never_become_text(shards, build, tmp_path):
    """No digest and no size to compare with: only what the file itself says."""
    name = "shard_00001.parquet"
    for spoilt in (shards[name][: len(shards[name]) // 2], b"<html><body>Sorry</body></html>"):
        with HttpServer() as server:
            server.files.update({f"/{name}": content for name, content in shards.items()} | {f"/{name}": spoilt})
            server.files["/"] = "".join(f'<a href="{name}">x</a>' for name in shards).encode()
            with pytest.raises(MissingError, match="no whole parquet file"):
                build(server, "out", dataset=server.url)
    assert not (tmp_path / "out").exists()


def test_texts_are_those_of_the_shards(shards, honest, build, tmp_path):
    build(honest, "out")
    texts = [pq.read_table(io.BytesIO(content))["text"].to_pylist() for content in shards.values()]
    assert list(read_documents(tmp_path / "out/train")) == [text for shard in texts[:-1] for text in shard]
    assert list(read_documents(tmp_path / "out/validation")) == texts[-1]


def test_a_dataset_is_needed(build, honest):
    with pytest.raises(ConfigError, match=r"corpus\.dataset"):
        build(honest, "out", dataset=None)
