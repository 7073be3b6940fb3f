"""What a dataset on the hub or at a web address has: listings, digests, tokens, and what a refusal says."""

import hashlib
import io
import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_server import Fault, HttpServer

from nanochat_core.base.errors import ConfigError, CorruptError, HardwareError, MissingError
from nanochat_core.config import CorpusConfig
from nanochat_core.data.corpora import fetch_shards
from nanochat_core.data.hub import Listed, Patience, index_listing, matching, read_digests

NAME, COMMIT, TOKEN = "somebody/texts", "c0ffee", "hf_averysecrettoken"
FILES = f"/datasets/{NAME}/resolve/{COMMIT}"
QUICK = Patience(num_tries=3, backoff_base_s=0.001, connect_timeout_s=1.0, stall_timeout_s=0.3)


def _parquet(number):
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [f"{number}: document {i}" for i in range(50)]}), sink)
    return sink.getvalue()


SHARDS = {f"data/shard_{number:05d}.parquet": _parquet(number) for number in range(5)}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in SHARDS.items()}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_OIDC_RESOURCE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def server(monkeypatch):
    with HttpServer() as server:
        server.serve_hub(NAME, COMMIT, SHARDS, page_files=2)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def mirror():
    with HttpServer() as server:
        server.files.update({f"/{name}": content for name, content in SHARDS.items()})
        yield server


@pytest.fixture
def fetch(tmp_path):
    def fetch(dataset=NAME, *, log=None, progress=None, patience=QUICK, **settings):
        config = CorpusConfig(source="hub", dataset=dataset, **settings)
        return fetch_shards(
            config,
            downloads=tmp_path / "downloads",
            log=log or (lambda text: None),
            progress=progress,
            patience=patience,
        )

    return fetch


def _is_right(fetched):
    assert [shard.name for shard in fetched] == list(SHARDS)
    assert {shard.name: shard.path.read_bytes() for shard in fetched} == SHARDS
    return {shard.name: shard.sha256 for shard in fetched} == SHA256


def test_all_pages_of_a_listing_are_read_and_every_shard_comes_in_order(server, fetch):
    assert _is_right(fetch())
    assert len([request for request in server.log if "/tree/" in request.path]) == 3


def test_the_token_goes_to_the_hub_and_nowhere_else(server, mirror, fetch, tmp_path, capfd):
    server.redirects[f"{FILES}/data/shard_00001.parquet"] = f"{mirror.url}/data/shard_00001.parquet"
    server.always[f"{FILES}/data/shard_00002.parquet"] = Fault(status=503)
    said = []
    assert _is_right(fetch(mirrors=mirror.url, log=said.append))
    assert mirror.log
    assert {request.authorization for request in mirror.log} == {None}
    assert {request.authorization for request in server.log if "/cdn/" not in request.path} == {f"Bearer {TOKEN}"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in written)
    assert TOKEN not in "".join([*said, *capfd.readouterr()])


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_gated_dataset_says_what_to_do_and_does_not_show_the_token(
    server, fetch, monkeypatch, tmp_path, status, token
):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))
    told = {"X-Error-Message": f"Access to this dataset is restricted for {TOKEN}"}
    server.always[f"/api/datasets/{NAME}/revision/main"] = Fault(status=status, headers=told)
    with pytest.raises(MissingError, match=f"{status}.*Access to this dataset is restricted") as error:
        fetch()
    assert "HF_TOKEN was sent" in error.value.hint if token else "set HF_TOKEN" in error.value.hint
    assert token is None or TOKEN not in error.value.message
    assert len(server.log) == 1


def test_a_dataset_that_does_not_exist_is_named(server, fetch):
    with pytest.raises(MissingError, match=r"somebody/else.*404"):
        fetch("somebody/else")


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(page=b"<html>"), Fault(after_frac=0.5), Fault(page=b"\xff")]
)
def test_a_listing_is_asked_for_again(server, fetch, fault):
    tree = f"/api/datasets/{NAME}/tree/{COMMIT}?recursive=true"
    server.script(f"/api/datasets/{NAME}/revision/main", fault)
    server.script(tree, fault, server.always[tree])
    server.script(tree, server.always[tree])
    assert _is_right(fetch())


def test_an_address_that_does_not_answer_is_said_once(server, fetch):
    server.always[f"/api/datasets/{NAME}/revision/main"] = Fault(status=503)
    with pytest.raises(MissingError, match="503") as error:
        fetch()
    assert error.value.message.count("/revision/main") == 1


def test_a_branch_that_moved_does_not_change_a_download_that_has_begun(server, fetch):
    server.always["/cdn/data/shard_00003.parquet"] = Fault(status=503)
    with pytest.raises(MissingError, match="503"):
        fetch()
    server.always.pop("/cdn/data/shard_00003.parquet")
    server.files[f"/api/datasets/{NAME}/revision/main"] = json.dumps({"sha": "another"}).encode()
    server.log.clear()
    assert _is_right(fetch())
    assert not [request for request in server.log if "/api/" in request.path or "another" in request.path]


def test_shards_that_are_whole_are_not_asked_for_again_and_damaged_ones_are(server, fetch):
    first = fetch()
    content = bytearray(first[1].path.read_bytes())
    content[50] ^= 1
    first[1].path.write_bytes(bytes(content))
    server.log.clear()
    assert fetch() == first
    assert {request.path for request in server.log if "/cdn/" in request.path} == {f"/cdn/{first[1].name}"}


def test_bytes_without_the_digest_that_the_hub_lists_never_become_a_shard(server, fetch, tmp_path):
    server.always["/cdn/data/shard_00002.parquet"] = Fault(wrong_bytes=True)
    with pytest.raises(CorruptError, match=SHA256["data/shard_00002.parquet"]):
        fetch()
    assert not [path for path in (tmp_path / "downloads").glob("*.parquet") if "00002" in path.name]


def test_a_mirror_with_wrong_bytes_is_said_so_and_the_rest_comes_from_elsewhere(server, mirror, fetch):
    server.always.update({f"/cdn/{name}": Fault(status=500) for name in SHARDS})
    with HttpServer() as bad:
        bad.files.update({f"/{name}": _parquet("wrong") for name in SHARDS})
        said = []
        fetched = fetch(mirrors=f"{bad.url}, {mirror.url}", log=said.append)
        asked = len(bad.log)
    assert _is_right(fetched)
    assert {shard.url.rpartition("/data/")[0] for shard in fetched} == {mirror.url}
    assert asked <= 5
    assert len([line for line in said if f"{bad.url} is left out" in line]) <= 1


def test_a_digests_file_needs_no_listing_and_no_hub(mirror, fetch, tmp_path, monkeypatch):
    with HttpServer() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    lines = [f"{sha256}  {name}" for name, sha256 in SHA256.items()]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    assert _is_right(fetch(mirrors=mirror.url, digests_file=str(tmp_path / "SHA256SUMS")))


def test_given_digests_are_checked_for_a_folder_as_well(fetch, tmp_path):
    for name, content in SHARDS.items():
        (tmp_path / "dataset" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dataset" / name).write_bytes(content)
    entries = [{"name": name, "sha256": sha256, "num_bytes": len(SHARDS[name])} for name, sha256 in SHA256.items()]
    (tmp_path / "shards.json").write_text(json.dumps({"shards": entries}))
    assert _is_right(fetch(str(tmp_path / "dataset"), digests_file=str(tmp_path / "shards.json")))
    (tmp_path / "dataset/data/shard_00001.parquet").write_bytes(_parquet("another"))
    (tmp_path / "downloads/data%2Fshard_00001.parquet").unlink()
    with pytest.raises(CorruptError, match="is right"):
        fetch(str(tmp_path / "dataset"), digests_file=str(tmp_path / "shards.json"))


@pytest.mark.parametrize(
    "text", ["", "abc  name", f"{'0' * 64}  ../up.parquet", "{}", '{"shards": [{"name": 1}]}', "x"]
)
def test_a_digests_file_that_makes_no_sense_is_refused(text, tmp_path):
    (tmp_path / "digests").write_text(text)
    with pytest.raises(ConfigError, match="digests_file"):
        read_digests(str(tmp_path / "digests"))
    with pytest.raises(ConfigError, match="digests_file"):
        read_digests(str(tmp_path / "absent"))


def test_digests_are_read_as_sha256sum_writes_them(tmp_path):
    (tmp_path / "digests").write_text(f"{'A' * 64}  ./a b.parquet\n\n{'b' * 64} *data/c.parquet\n")
    assert read_digests(str(tmp_path / "digests")) == [
        Listed("a b.parquet", None, "a" * 64),
        Listed("data/c.parquet", None, "b" * 64),
    ]


def test_a_web_folder_is_listed_by_the_links_on_its_page(mirror, fetch):
    mirror.files["/data/"] = (
        b'<html><a href="../">up</a> <a href="shard_00001.parquet"></a> <A HREF="/data/shard_00000.parquet?raw=1">0</A>'
        b'<a href="https://elsewhere.invalid/shard_00009.parquet">9</a> <a href="notes.txt">n</a> <a>x</a></html>'
    )
    fetched = fetch(f"{mirror.url}/data")
    assert [shard.name for shard in fetched] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert fetched[0].path.read_bytes() == SHARDS["data/shard_00000.parquet"]
    assert {request.authorization for request in mirror.log} == {None}


def test_names_of_links_are_unquoted_and_fetched_quoted(mirror, fetch):
    mirror.files["/odd names/"] = b'<a href="a%20%231.parquet">a</a><a href="%C3%A9.parquet">e</a>'
    mirror.files["/odd names/a #1.parquet"], mirror.files["/odd names/é.parquet"] = _parquet(1), _parquet(2)
    fetched = fetch(f"{mirror.url}/odd%20names/")
    assert [shard.name for shard in fetched] == ["a #1.parquet", "é.parquet"]


def test_links_above_the_folder_are_not_its_files():
    page = '<a href="/">root</a><a href="sub/">folder</a><a href="/other/x.parquet">x</a><a href="a.parquet#top">a</a>'
    assert index_listing("https://host/data", page) == [Listed("a.parquet")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.parquet", ["a.parquet", "en/b.parquet", "en/x/c.parquet"]),
        ("en/*.parquet", ["en/b.parquet"]),
        ("en/**/*.parquet", ["en/b.parquet", "en/x/c.parquet"]),
        ("b.*", ["en/b.parquet"]),
        ("*.txt", []),
    ],
)
def test_a_pattern_chooses_names_as_a_glob_would(pattern, found):
    names = ["en/x/c.parquet", "a.parquet", "en/b.parquet", "a.parquet", "README.md"]
    assert [file.name for file in matching(map(Listed, names), pattern)] == found


@pytest.mark.parametrize("address", ["https://user:password@host/data", "https://host/data?key=secret"])
@pytest.mark.parametrize("setting", ["dataset", "mirrors"])
def test_secrets_in_an_address_are_refused(fetch, setting, address):
    with pytest.raises(ConfigError) as error:
        fetch(**{"dataset": NAME, setting: address})
    assert "password" not in error.value.message.replace("a password", "")


def test_a_mirror_that_is_no_web_address_is_refused(server, fetch):
    with pytest.raises(ConfigError, match="s3://bucket"):
        fetch(mirrors="s3://bucket/data")


def test_shards_that_no_disk_can_hold_are_refused_before_the_first_is_asked_for(server, fetch):
    tree = f"/api/datasets/{NAME}/tree/{COMMIT}?recursive=true"
    entries = [
        {"type": "file", "path": name, "oid": "", "size": 10**18, "lfs": {"oid": sha256, "size": 10**18}}
        for name, sha256 in SHA256.items()
    ]
    server.files[tree] = json.dumps(entries).encode()
    server.always.pop(tree)
    with pytest.raises(HardwareError, match="bytes are missing") as error:
        fetch()
    assert "downloads" in error.value.message
    assert not [request for request in server.log if FILES in request.path]


def test_one_shard_that_nobody_has_ends_the_others_at_once(server, fetch):
    for name in SHARDS:
        server.always[f"/cdn/{name}"] = Fault(after_frac=0.5, then="stall")
    server.always["/cdn/data/shard_00004.parquet"] = Fault(status=404)
    started = time.monotonic()
    with pytest.raises(MissingError, match=r"shard_00004\.parquet was refused: 404"):
        fetch(patience=Patience(stall_timeout_s=60.0))
    assert time.monotonic() - started < 10.0


def test_progress_reaches_the_whole_and_is_told_from_the_thread_that_asked(server, fetch):
    seen = []
    server.always.update({f"/cdn/{name}": Fault(pause_s=0.1, piece_bytes=100) for name in SHARDS})
    fetch(progress=lambda done, total, text: seen.append((done, total, text, threading.current_thread())))
    whole = sum(map(len, SHARDS.values()))
    assert seen
    assert {total for _, total, _, _ in seen} == {whole}
    assert {thread for *_, thread in seen} == {threading.main_thread()}
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert len(seen) > 1
    assert seen[-1][0] == whole
    assert "/s" in seen[-1][2]
