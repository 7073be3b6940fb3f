"""Publishing and reading back, the same laws for every kind of store."""

import os
import stat
import threading
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.store import Store

FILES = {"a.bin": b"first", "sub/b.bin": b"second file", "empty": b""}
ODD_NAMES = [
    "with space",
    "per%20cent",
    "plus+sign",
    "a=b&c",
    "ünï¢ode",
    "日本語.txt",
    "q?x#y",
    ".hidden",
    "a'b\"c",
    "x" * 200,
]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_published_artifact_is_found_and_fetched_as_it_was(bench):
    artifact = bench.publish(FILES, metrics={"loss": 1.25})
    found = bench.store.find("tokens", "f1")
    assert found == artifact
    assert found.metrics == {"loss": 1.25}
    assert contents(bench.store.fetch(found)) == FILES


def test_another_process_with_another_cache_sees_the_same(bench):
    artifact = bench.publish(FILES)
    other = bench.open("other-cache")
    assert other.find("tokens", "f1") == artifact
    assert contents(other.fetch(artifact, ["a.bin"])) == {"a.bin": b"first"}


def test_objects_lie_where_the_design_says(bench):
    artifact = bench.publish({"a.bin": b"first"})
    sha256 = artifact.files["a.bin"].sha256
    assert bench.objects() == [f"blobs/sha256/{sha256[:2]}/{sha256}", "steps/tokens/f1.json"]


def test_content_digest_ignores_who_made_it_and_when(bench):
    one = bench.publish(FILES, fingerprint="f1", provenance={"finished_at": "2026-01-01"})
    two = bench.publish(FILES, fingerprint="f2", provenance={"finished_at": "2026-01-02"}, metrics={"loss": 2.0})
    assert one.digest == two.digest
    assert bench.publish({**FILES, "a.bin": b"First"}, fingerprint="f3").digest != one.digest
    renamed = {"b.bin": b"first", "sub/b.bin": b"second file", "empty": b""}
    assert bench.publish(renamed, fingerprint="f4").digest != one.digest


def test_equal_files_are_stored_once(bench):
    bench.publish({"a": b"same", "b": b"same"}, fingerprint="f1")
    bench.publish({"c": b"same"}, fingerprint="f2")
    assert len([key for key in bench.objects() if key.startswith("blobs/")]) == 1


def test_odd_file_names_survive(bench):
    files = {name: name.encode() for name in ODD_NAMES} | {"sub folder/ü%/x": b"deep"}
    assert contents(bench.store.fetch(bench.publish(files))) == files


@pytest.mark.parametrize("name", ["new\nline", "bell\a", os.fsdecode(b"not-utf8-\xff")])
def test_a_name_that_some_storage_cannot_hold_is_refused(folder_bench, name):
    with pytest.raises(ConfigError, match="cannot be stored"):
        folder_bench.publish({name: b"x"})


def test_a_link_to_a_folder_is_refused_rather_than_left_out(folder_bench):
    made = folder_bench.folder({"a": b"x"})
    (made / "link").symlink_to(made)
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        folder_bench.store.publish(
            made, step="s", fingerprint="f", inputs={}, config={}, code={}, packages={}, metrics={}, provenance={}
        )


def test_a_metric_that_is_not_a_number_fails_before_anything_is_stored(bench):
    with pytest.raises(ConfigError, match="nan"):
        bench.publish(FILES, metrics={"loss": float("nan")})
    assert bench.objects() == []


def test_unknown_file_name_is_an_error_that_lists_the_known_ones(bench):
    with pytest.raises(MissingError) as caught:
        bench.store.fetch(bench.publish(FILES), ["nope"])
    assert "sub/b.bin" in caught.value.hint


def test_a_fetched_folder_is_read_only(bench):
    view = bench.store.fetch(bench.publish(FILES))
    assert stat.S_IMODE(view.stat().st_mode) == 0o555
    assert stat.S_IMODE((view / "sub/b.bin").stat().st_mode) == 0o444


def test_blobs_of_a_folder_are_read_only_files(folder_bench):
    artifact = folder_bench.publish(FILES)
    for entry in artifact.files.values():
        path = Path(folder_bench.url, "blobs/sha256", entry.sha256[:2], entry.sha256)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_artifacts_come_newest_first_and_by_step(bench):
    for number in (2, 3, 1):
        bench.publish(FILES, fingerprint=f"f{number}", provenance={"finished_at": f"2026-01-0{number}"})
    bench.publish(FILES, step="other", provenance={"finished_at": "2026-01-09"})
    assert [a.fingerprint for a in bench.store.artifacts("tokens")] == ["f3", "f2", "f1"]
    assert [a.step for a in bench.store.artifacts()] == ["other", "tokens", "tokens", "tokens"]


def test_two_publishers_of_one_step_are_both_fine(bench):
    results, barrier = [], threading.Barrier(4)

    def publish(number: int) -> None:
        store = bench.open(f"cache-{number}")
        folder = bench.folder({"shared": b"s" * 1000, "own": b"%d" % number})
        barrier.wait()
        results.append(
            store.publish(
                folder, step="s", fingerprint="f", inputs={}, config={}, code={}, packages={}, metrics={}, provenance={}
            )
        )

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = bench.store.find("s", "f")
    assert winner in results
    for artifact in results:  # also the others stay readable for those who published them
        assert contents(bench.store.fetch(artifact))["shared"] == b"s" * 1000


def test_an_empty_store_has_nothing_and_is_not_an_error(bench):
    assert bench.store.find("tokens", "f1") is None
    assert bench.store.artifacts() == []
    assert bench.store.refs() == []
    assert bench.store.runs() == []
    assert bench.store.partial("tokens", "f1").names() == []


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a b", "x" * 300])
def test_a_step_that_would_leave_its_folder_is_refused(memory_bench, key):
    with pytest.raises(ConfigError, match="cannot be part of a key"):
        memory_bench.store.find(key, "f1")


def test_newest_version_of_a_ref_is_meant_unless_one_is_named(bench):
    one, two = bench.publish({"a": b"1"}, fingerprint="f1"), bench.publish({"a": b"2"}, fingerprint="f2")
    bench.store.set_ref("best", "v10", one)
    bench.store.set_ref("best", "v9", two)
    assert bench.store.ref("best") == two
    assert bench.store.ref("best", "v10") == one
    assert [(ref.name, ref.version) for ref in bench.store.refs()] == [("best", "v10"), ("best", "v9")]


def test_the_beginning_of_a_version_means_the_only_one_that_begins_so(bench):
    one, two = bench.publish({"a": b"1"}, fingerprint="f1"), bench.publish({"a": b"2"}, fingerprint="f2")
    for version, artifact in (("3f1c", one), ("3f2d", two), ("3f", one)):
        bench.store.set_ref("best", version, artifact)
    assert bench.store.ref("best", "3f2") == two
    assert bench.store.ref("best", "3f") == one, "a whole one is no beginning"
    with pytest.raises(MissingError, match="best@3 is the beginning of 3 refs"):
        bench.store.ref("best", "3")
    with pytest.raises(MissingError, match=r"no ref best@3f1c\.json"):
        bench.store.ref("best", "3f1c.json")
    assert bench.store.pin("best@3f2").target == "best@3f2d"
    bench.store.pin("best@3f1")
    with pytest.raises(MissingError, match="best@3f is the beginning of 2 pins"):
        bench.store.unpin("best@3f")
    assert [pin.target for pin in bench.store.unpin("best@3f1")] == ["best@3f1c"]
    assert [pin.target for pin in bench.store.unpin("best")] == ["best@3f2d"]


def test_a_missing_ref_names_the_known_ones(bench):
    bench.store.set_ref("best", "v1", bench.publish(FILES))
    for name, version in (("worst", None), ("best", "v2")):
        with pytest.raises(MissingError) as caught:
            bench.store.ref(name, version)
        assert "best@v1" in caught.value.hint


def test_a_ref_never_means_other_content_than_it_was_set_to(bench):
    bench.store.set_ref("baseline", "v1", bench.publish({"a": b"1"}))
    bench.publish({"a": b"2"})
    with pytest.raises(CorruptError, match="now has"):
        bench.store.ref("baseline")


def test_a_ref_means_the_same_result_whatever_its_log_says(bench):
    bench.store.set_ref("baseline", "v1", bench.publish({"a": b"1", "log/seconds": b"2"}))
    again = bench.publish({"a": b"1", "log/seconds": b"3"})
    assert bench.store.ref("baseline") == again


def test_run_records_are_kept_by_id(bench):
    bench.store.put_run("run-2", {"steps": [1, 2]})
    bench.store.put_run("run-1", {"steps": []})
    bench.store.put_run("run-2", {"steps": [1, 2, 3]})
    assert bench.store.runs() == ["run-1", "run-2"]
    assert bench.store.run("run-2") == {"steps": [1, 2, 3]}
    with pytest.raises(MissingError) as caught:
        bench.store.run("run-3")
    assert "run-2, run-1" in caught.value.hint


def test_a_file_of_several_parts_survives(s3_bench):
    content = os.urandom(40 << 20)
    artifact = s3_bench.publish({"big": content})
    assert (s3_bench.store.fetch(artifact) / "big").read_bytes() == content
    assert s3_bench.store.verify(artifact) == []


def test_file_url_and_plain_folder_are_the_same_store(folder_bench, tmp_path):
    artifact = folder_bench.publish(FILES)
    store = Store.open(f"file://{folder_bench.url}", cache_folder=tmp_path / "c")
    assert store.url == folder_bench.url
    assert store.find("tokens", "f1") == artifact
