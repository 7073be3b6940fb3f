"""The local cache of a remote store: verified at each read, held under its cap, safe for those who still read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_core.store import Artifact, views


def cached(cache: Path) -> set[bytes]:
    return {path.read_bytes()[:1] for path in (cache / "blobs").rglob("*") if path.is_file()}


def blob(letter: str) -> bytes:
    return letter.encode() * 1000


@pytest.fixture
def artifacts(memory_bench) -> dict[str, Artifact]:
    return {letter: memory_bench.publish({letter: blob(letter)}, fingerprint=letter) for letter in "abcd"}


def release_views() -> None:
    """As if the process that held the views had ended."""
    while views._held:
        os.close(views._held.popitem()[1])


def test_a_damaged_copy_in_the_cache_is_fetched_again(memory_bench, artifacts):
    path = memory_bench.store.fetch(artifacts["a"]) / "a"
    path.resolve().chmod(0o644)
    for content in (b"wrong", blob("b"), b""):
        path.resolve().write_bytes(content)
        assert (memory_bench.store.fetch(artifacts["a"]) / "a").read_bytes() == blob("a")
        path.resolve().chmod(0o644)
    path.resolve().unlink()
    assert (memory_bench.store.fetch(artifacts["a"]) / "a").read_bytes() == blob("a")


def test_a_good_copy_is_not_fetched_again(memory_bench, artifacts, monkeypatch):
    memory_bench.store.fetch(artifacts["a"])
    kind = type(memory_bench.store._files)
    original, calls = kind.get, []
    monkeypatch.setattr(kind, "get", lambda files, key, local: calls.append(key) or original(files, key, local))
    assert (memory_bench.store.fetch(artifacts["a"]) / "a").read_bytes() == blob("a")
    assert calls == []
    memory_bench.open("other").fetch(artifacts["a"])  # a cache without a copy: this is what fetching looks like
    assert len(calls) == 1


def test_a_transfer_that_went_wrong_once_is_repeated(memory_bench, artifacts, monkeypatch):
    kind = type(memory_bench.store._files)
    original, calls = kind.get, []

    def torn_first(self, key: str, local: Path) -> bool:
        calls.append(key)
        found = original(self, key, local)
        if len(calls) == 1:
            local.write_bytes(local.read_bytes()[:-1])
        return found

    monkeypatch.setattr(kind, "get", torn_first)
    assert (memory_bench.open("other").fetch(artifacts["a"]) / "a").read_bytes() == blob("a")
    assert len(calls) == 2


def test_longest_unused_copies_go_when_the_cap_is_reached(memory_bench, artifacts):
    store = memory_bench.open("small", cache_max_bytes=2500)
    for letter in "ab":
        view = store.fetch(artifacts[letter])
        os.utime((view / letter).resolve(), (1, ord(letter)))
        release_views()
    store.fetch(artifacts["a"])  # used again: b is now the oldest
    release_views()
    store.fetch(artifacts["c"])
    assert cached(memory_bench.tmp_path / "small") == {b"a", b"c"}


def test_what_a_living_process_reads_is_not_evicted(memory_bench, artifacts):
    store = memory_bench.open("small", cache_max_bytes=1500)
    first = store.fetch(artifacts["a"])
    store.fetch(artifacts["b"])
    store.fetch(artifacts["c"])
    assert (first / "a").read_bytes() == blob("a")


def test_what_another_process_read_is_free_as_soon_as_it_was_killed(memory_bench, artifacts):
    cache = memory_bench.tmp_path / "small"
    store = memory_bench.open("small", cache_max_bytes=1500)
    view = store.fetch(artifacts["a"])
    release_views()
    lock = view.with_suffix(".lock")
    hold = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        store.fetch(artifacts["b"])
        assert cached(cache) == {b"a", b"b"}
    finally:
        holder.kill()
        holder.communicate()
    release_views()
    store.fetch(artifacts["c"])
    assert cached(cache) == {b"c"}


def test_an_artifact_larger_than_the_cap_is_served_whole(memory_bench, caplog):
    files = {letter: blob(letter) for letter in "wxyz"}
    store = memory_bench.open("small", cache_max_bytes=1500)
    view = store.fetch(memory_bench.publish(files))
    assert {name: (view / name).read_bytes() for name in files} == files
    assert "over its cap" in caplog.text


def test_views_that_nobody_used_for_long_go_away(memory_bench, artifacts):
    view = memory_bench.store.fetch(artifacts["a"])
    release_views()
    os.utime(view.with_suffix(".lock"), (1, 1))
    memory_bench.store.fetch(artifacts["b"])
    assert not view.exists()
    assert not view.with_suffix(".lock").exists()
    assert (memory_bench.store.fetch(artifacts["a"]) / "a").read_bytes() == blob("a")


def test_leftovers_of_killed_downloads_are_swept(memory_bench, artifacts):
    old, new = (memory_bench.tmp_path / "cache/tmp" / name for name in ("1-old", "2-new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    memory_bench.store.fetch(artifacts["a"])
    assert not old.exists()
    assert new.exists()


def test_a_folder_store_is_read_in_place(folder_bench):
    view = folder_bench.store.fetch(folder_bench.publish({"a": b"x"}))
    assert (view / "a").resolve().is_relative_to(folder_bench.url)
    assert not (folder_bench.tmp_path / "cache/blobs").exists()


def test_what_was_just_published_is_not_downloaded(memory_bench, monkeypatch):
    artifact = memory_bench.publish({"a": blob("a"), "sub/b": blob("b")})
    monkeypatch.setattr(type(memory_bench.store._files), "get", lambda *_: pytest.fail("downloaded"))
    view = memory_bench.store.fetch(artifact)
    assert (view / "sub/b").read_bytes() == blob("b")
    assert not os.access(view / "a", os.W_OK) or os.getuid() == 0
    assert (view / "a").stat().st_mode & 0o777 == 0o444


def test_publishing_keeps_the_cache_under_its_cap(memory_bench):
    memory_bench.store = memory_bench.open("small", cache_max_bytes=2500)
    for letter in "abc":
        memory_bench.publish({letter: blob(letter)}, fingerprint=letter)
        path = next(
            p
            for p in (memory_bench.tmp_path / "small/blobs").rglob("*")
            if p.is_file() and p.read_bytes()[:1] == letter.encode()
        )
        os.utime(path, (1, ord(letter)))
    assert cached(memory_bench.tmp_path / "small") == {b"b", b"c"}
    memory_bench.publish({letter: blob(letter) for letter in "wxyz"}, fingerprint="large")
    assert len(cached(memory_bench.tmp_path / "small")) == 2, "what does not fit is left out"


def test_publishing_does_not_push_out_what_a_living_process_reads(memory_bench, artifacts):
    memory_bench.store = memory_bench.open("small", cache_max_bytes=1500)
    view = memory_bench.store.fetch(artifacts["a"])
    memory_bench.publish({"n": blob("n")}, fingerprint="n")
    assert (view / "a").read_bytes() == blob("a")
    assert cached(memory_bench.tmp_path / "small") == {b"a"}


def test_a_cache_that_cannot_be_written_does_not_fail_the_publishing(memory_bench, monkeypatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nanochat_core.store.cache.copy_hashed", full)
    artifact = memory_bench.publish({"a": blob("a")})
    assert memory_bench.open("other").find("tokens", "f1") == artifact
    assert "does without" in caplog.text
