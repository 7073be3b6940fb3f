"""Carrying: what runs and names reach arrives whole, once, wherever the stores are."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.cli.app import app
from nanochat_core.store import copy
from nanochat_core.store.blobs import blob_key
from nanochat_core.store.copy import carry, everything, reached
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store, manifest_key

RUN = "tiny-20261130-100000-aaaa"


def publish(
    store: Store, folder: Path, step: str, content: bytes, *sources: Artifact, fingerprint: str = ""
) -> Artifact:
    out = folder / f"{step}-{fingerprint}-out"
    (out / "log").mkdir(parents=True, exist_ok=True)
    (out / "data.bin").write_bytes(content)
    (out / "log/output.log").write_text(step)
    return store.publish(
        out, step=step, fingerprint=fingerprint or f"{step}-1",
        inputs={each.step: each.result_digest for each in sources}, config={}, code={},
        packages={}, metrics={}, provenance={},
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """A run of three steps with a name and a pin, and an artifact of somebody else."""
    store = Store.open(str(tmp_path / "source"), cache_folder=tmp_path / "cache")
    corpus = publish(store, tmp_path, "corpus", b"text" * 1000)
    tokens = publish(store, tmp_path, "tokens", b"rows" * 3000, corpus)
    model = publish(store, tmp_path, "pretrain", b"weights" * 5000, tokens)
    other = publish(store, tmp_path, "pretrain", b"others", tokens, fingerprint="pretrain-2")
    store.set_ref("tiny-base", "1", model)
    store.set_ref("other", "1", other)
    lines = [{"step": each.step, "fingerprint": each.fingerprint} for each in (corpus, tokens, model)]
    store.put_run(RUN, {"run_id": RUN, "steps": lines})
    store.pin(RUN)
    return store


def keys(store: Store) -> set[str]:
    return {key for prefix in ("blobs", "steps", "refs", "pins", "runs") for key in store.files.keys(prefix)}


def opened(url: str, tmp_path: Path) -> Store:
    return Store.open(url, cache_folder=tmp_path / "cache-2")


def test_a_run_goes_to_a_bucket_and_home_again_with_what_it_reaches_and_nothing_else(
    source: Store, s3_url: str, tmp_path: Path
) -> None:
    bucket, home = opened(s3_url, tmp_path), opened(str(tmp_path / "home"), tmp_path)
    went = carry(source, bucket, reached(source, runs=[RUN]))
    assert [artifact.step for artifact in went.went] == ["corpus", "tokens", "pretrain"]
    assert went.is_whole
    back = carry(bucket, home, reached(bucket, refs=[("tiny-base", "1")]))
    assert len(back.went) == 3
    assert carry(bucket, home, everything(bucket)).labels == [f"pins/runs/{RUN}.json", f"runs/{RUN}.json"]
    theirs = {manifest_key("pretrain", "pretrain-2"), "refs/other/1.json"}
    theirs.add(blob_key(source.ref("other").files["data.bin"].sha256))
    assert keys(bucket) == keys(home) == keys(source) - theirs
    assert [home.verify(artifact) for artifact in home.artifacts()] == [[], [], []]
    assert home.ref("tiny-base").digest == source.ref("tiny-base").digest
    assert home.run(RUN) == source.run(RUN)
    again = carry(source, home, reached(source, runs=[RUN]))
    assert (again.went, again.num_files, len(again.there), again.labels) == ([], 0, 3, [])


def test_who_was_killed_goes_on_and_nothing_goes_twice(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, one, calls = opened(str(tmp_path / "target"), tmp_path), copy._carry_blob, []

    def dies(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        one(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copy, "_carry_blob", dies)
    with pytest.raises(KeyboardInterrupt):
        carry(source, target, reached(source, runs=[RUN]))
    assert [artifact.step for artifact in target.artifacts()] == ["corpus"], "half of one is none"
    assert target.runs() == []
    monkeypatch.setattr(copy, "_carry_blob", one)
    done = carry(source, target, reached(source, runs=[RUN]))
    assert len(done.there) == 1
    assert done.num_files == 6 - 3
    assert target.runs() == [RUN]


def test_a_damaged_file_arrives_nowhere(source: Store, tmp_path: Path) -> None:
    target = opened(str(tmp_path / "target"), tmp_path)
    entry = source.ref("tiny-base").files["data.bin"]
    blob = tmp_path / "source" / blob_key(entry.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * entry.num_bytes)
    with pytest.raises(CorruptError, match=r"data\.bin of pretrain pretrain-1 has sha256"):
        carry(source, target, reached(source, runs=[RUN]))
    assert target.find("pretrain", "pretrain-1") is None
    assert target.refs() == []
    assert all(target.verify(artifact) == [] for artifact in target.artifacts())
    blob.unlink()
    with pytest.raises(CorruptError, match="is missing"):
        carry(source, target, reached(source, runs=[RUN]))


def test_what_is_there_with_other_content_stays_and_is_said(source: Store, tmp_path: Path) -> None:
    target = opened(str(tmp_path / "target"), tmp_path)
    tokens = publish(target, tmp_path, "tokens", b"rows" * 3000, publish(target, tmp_path, "corpus", b"text" * 1000))
    theirs = publish(target, tmp_path, "pretrain", b"theirs", tokens)
    done = carry(source, target, reached(source, runs=[RUN]))
    assert [artifact.step for artifact in done.other] == ["pretrain"]
    assert done.labels_left == ["refs/tiny-base/1.json"]
    assert not done.is_whole
    found = target.find("pretrain", "pretrain-1")
    assert found is not None
    assert found.digest == theirs.digest
    with pytest.raises(ConfigError, match="is where it is already"):
        carry(source, source, reached(source, runs=[RUN]))
    source.discard(source.ref("tiny-base"))
    with pytest.raises(MissingError, match="pretrain pretrain-1 is not in"):
        reached(source, runs=[RUN])


def test_the_verb_says_what_went_and_refuses_what_it_cannot_mean(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("NANOCHAT_STORE", source.url)
    target = str(tmp_path / "target")
    done = CliRunner().invoke(app, ["store", "copy", "tiny-2026", "--to", target])
    assert done.exit_code == 0, done.output
    assert "went: 3 artifacts, 6 files, 49.8 KiB" in done.output
    assert f"{target} has all of it" in done.output
    again = CliRunner().invoke(app, ["store", "copy", "tiny-base", "other@1", "--to", target])
    assert "went: 1 artifacts, 1 files" in again.output
    for arguments in (["--to", target], ["--all"], ["tiny-base", "--all", "--to", target], ["gone", "--to", target]):
        assert CliRunner().invoke(app, ["store", "copy", *arguments]).exit_code in (2, 3)


def test_what_is_not_there_is_refused_with_what_may_be_meant(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "h"))

    def hint(*arguments: str) -> str:
        return (
            CliRunner().invoke(app, ["store", "copy", *arguments, "--to", str(tmp_path / "t")]).stderr.splitlines()[1]
        )

    assert f"{RUN}" in hint("tiny-20270101", "--store", source.url)
    assert "tiny-base@" in hint("tiny-bass", "--store", source.url)
    assert "newest: " in hint("zzz", "--store", source.url)
    assert "NANOCHAT_STORE names another" in hint("latest", "--store", str(tmp_path / "empty"))
