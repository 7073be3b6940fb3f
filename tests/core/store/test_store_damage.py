"""No wrong byte is served: every kind of damage to every object is found, and the step can run again."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.store import Artifact

FILES = {"a.bin": b"A" * 5000, "sub/b.bin": b"B" * 5000}

PUBLISH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from nanochat_core.store import Store, filesystem

url, folder, cache, survive = sys.argv[1:]
left = int(survive)

def deadly(kind, name):
    original = getattr(kind, name)
    def wrapped(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return original(*args, **kwargs)
    setattr(kind, name, wrapped)

if "://" in url:
    from nanochat_core.store import s3
    deadly(s3.S3Files if url.startswith("s3:") else filesystem.Files, "put")
    deadly(filesystem.Files, "write")
else:
    deadly(os, "replace")
Store.open(url, cache_folder=Path(cache)).publish(
    Path(folder), step="tokens", fingerprint="f1",
    inputs={}, config={}, code={}, packages={}, metrics={}, provenance={},
)
"""


@pytest.fixture
def artifact(bench) -> Artifact:
    return bench.publish(FILES)


def blob_key(artifact: Artifact, name: str) -> str:
    sha256 = artifact.files[name].sha256
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def test_a_damaged_blob_is_never_served_and_the_step_can_run_again(bench, artifact, damage):
    damage(bench, blob_key(artifact, "a.bin"))
    with pytest.raises(CorruptError) as caught:
        bench.open("fresh").fetch(artifact)
    message = str(caught.value)
    assert "a.bin of tokens" in message
    assert artifact.files["a.bin"].sha256 in message
    assert "\n" not in message
    assert "run again" in caught.value.hint
    assert bench.store.verify(artifact) == ["a.bin"]

    bench.store.discard(artifact)
    assert bench.store.find("tokens", "f1") is None
    again = bench.publish(FILES)
    assert again.digest == artifact.digest
    assert (bench.open("fresh").fetch(again) / "a.bin").read_bytes() == FILES["a.bin"]
    assert bench.store.verify(again) == []


def test_an_undamaged_file_of_a_damaged_artifact_can_still_be_read(bench, artifact, damage):
    damage(bench, blob_key(artifact, "a.bin"))
    view = bench.open("fresh").fetch(artifact, ["sub/b.bin"])
    assert (view / "sub/b.bin").read_bytes() == FILES["sub/b.bin"]


@pytest.mark.parametrize("kind", ["delete", "truncate"])
def test_a_manifest_without_all_of_its_blobs_counts_as_absent(bench, artifact, kind, caplog):
    key = blob_key(artifact, "a.bin")
    bench.delete(key) if kind == "delete" else bench.overwrite(key, b"short")
    assert bench.store.find("tokens", "f1") is None
    assert "counts as absent" in caplog.text
    assert "a.bin" in caplog.text


def test_a_damaged_manifest_counts_as_absent_and_can_be_published_over(bench, artifact, damage):
    bench.publish({"c": b"C"}, fingerprint="f2")
    damage(bench, "steps/tokens/f1.json")
    assert bench.store.find("tokens", "f1") is None
    assert [a.fingerprint for a in bench.store.artifacts()] == ["f2"]
    assert bench.publish(FILES) == bench.store.find("tokens", "f1")


def test_a_damaged_ref_is_an_error_and_not_another_artifact(folder_bench, damage):
    one, two = folder_bench.publish(FILES), folder_bench.publish({"c": b"C"}, fingerprint="f2")
    folder_bench.store.set_ref("best", "v1", one)
    folder_bench.store.set_ref("best", "v2", two)
    damage(folder_bench, "refs/best/v2.json")
    with pytest.raises(MissingError):
        folder_bench.store.ref("best", "v2")
    assert [ref.version for ref in folder_bench.store.refs()] == ["v1"]


def test_a_damaged_run_record_is_not_served(folder_bench, damage):
    folder_bench.store.put_run("r1", {"seconds": 1})
    folder_bench.store.put_run("r2", {"seconds": 2})
    damage(folder_bench, "runs/r1.json")
    with pytest.raises(MissingError):
        folder_bench.store.run("r1")


def test_every_single_bit_of_a_manifest_is_guarded(memory_bench):
    artifact = memory_bench.publish({"a": b"1"}, metrics={"loss": 1.5}, provenance={"git_commit": "abc"})
    content = artifact.to_json()
    for position in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        try:
            read = Artifact.from_json(bytes(damaged), where="manifest")
        except MissingError:
            continue
        assert read == artifact  # only white space changed


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "./a"])
def test_a_manifest_cannot_name_a_file_outside_its_folder(memory_bench, name):
    artifact = memory_bench.publish({"a": b"1"})
    evil = dataclasses.replace(artifact, files={name: artifact.files["a"]})
    with pytest.raises(CorruptError, match="impossible file"):
        Artifact.from_json(evil.to_json(), where="manifest")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"seal": "x", "a": NaN}'])
def test_a_manifest_that_is_no_manifest_is_a_clear_error(content):
    with pytest.raises(CorruptError, match=r"some/manifest\.json"):
        Artifact.from_json(content, where="some/manifest.json")


def test_a_manifest_of_a_later_version_asks_for_an_update(memory_bench):
    fields = json.loads(memory_bench.publish({"a": b"1"}).to_json())
    from nanochat_core.store.manifest import seal_json

    del fields["seal"]
    with pytest.raises(ConfigError, match="newer release") as caught:
        Artifact.from_json(seal_json({**fields, "format": 2}), where="m")
    assert "update" in caught.value.hint


def test_links_of_a_view_that_somebody_changed_are_put_right(bench, artifact):
    view = bench.store.fetch(artifact)
    view.chmod(0o755)
    (view / "a.bin").unlink()
    (view / "a.bin").symlink_to(view / "sub/b.bin")
    assert (bench.store.fetch(artifact) / "a.bin").read_bytes() == FILES["a.bin"]


@pytest.mark.parametrize("survive", [0, 1, 2])
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_killed_while_publishing_leaves_nothing_that_readers_see(kind, survive, request, tmp_path):
    bench = request.getfixturevalue(f"{kind}_bench")
    made = bench.folder(FILES)
    command = [sys.executable, "-c", PUBLISH_AND_DIE, bench.url, str(made), str(tmp_path / "victim"), str(survive)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert bench.store.find("tokens", "f1") is None
    assert bench.store.artifacts() == []
    assert len([key for key in bench.objects() if key.startswith("blobs/")]) <= survive
    again = bench.publish(FILES)
    assert bench.store.find("tokens", "f1") == again
    assert bench.store.verify(again) == []
