"""A file of data counts by its content: size and time may be what they were, and another file may be behind a link."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanochat_core import workspace
from nanochat_core.base.errors import NanochatError
from nanochat_core.pipeline import data_files
from nanochat_core.pipeline.data_files import digests
from nanochat_core.pipeline.execute import execute, make
from nanochat_core.pipeline.step import Ref, StepRun
from nanochat_core.pipeline.table import STEPS, preview
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config

BETWEEN_SAMPLES = 2 * data_files.BLOCK_BYTES + 1


@pytest.fixture(params=["read", "sampled"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "sampled":
        monkeypatch.setattr(data_files, "READ_BYTES", 1)
    path = tmp_path / "data/a.txt"
    path.parent.mkdir()
    path.write_bytes(bytes(3 * data_files.BLOCK_BYTES * data_files.NUM_BLOCKS))
    return path


@pytest.mark.parametrize("at", [0, 1 << 20, -1])
def test_an_edit_at_equal_size_and_time_counts(file: Path, at: int) -> None:
    before, stat = digests([file], file.parent), file.stat()
    content = bytearray(file.read_bytes())
    content[at] = 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert digests([file], file.parent) != before


def test_a_link_that_points_elsewhere_counts(file: Path, tmp_path: Path) -> None:
    other, link = tmp_path / "other.txt", tmp_path / "link.txt"
    other.write_bytes(b"\1" * file.stat().st_size)
    for path in (file, other):
        os.utime(path, ns=(10**18, 10**18))
    link.symlink_to(file)
    before = digests([link], tmp_path)
    link.unlink()
    link.symlink_to(other)
    assert digests([link], tmp_path) != before


def test_a_touched_copied_or_moved_folder_of_small_files_is_the_same(tmp_path: Path) -> None:
    def made(folder: str, time: int) -> list[list[str]]:
        path = tmp_path / folder / "sub/a.txt"
        path.parent.mkdir(parents=True)
        path.write_text("text")
        os.utime(path, (time, time))
        return digests([path], tmp_path / folder)

    assert made("one", 1) == made("two", 2) == [["sub/a.txt", digests([tmp_path / "one/sub/a.txt"], tmp_path)[0][1]]]


def plan_of(*sets: str, **how: Any) -> RunPlan:
    return plan_run(load_config("tiny", sets), **how)


def corpus_of(path: Path) -> dict[str, Any]:
    return STEPS["corpus"].settings(plan_of("corpus.source=path", f"corpus.path={path}"))


def talks_of(path: Path) -> dict[str, Any]:
    return STEPS["conversations"].settings(plan_of("sft.source=path", f"sft.path={path}"))


def test_a_corpus_that_was_edited_without_a_trace_is_another_and_a_moved_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "text/a.txt"
    file.parent.mkdir()
    file.write_text("once upon a time\n" * 100)
    before, stat = corpus_of(file.parent), file.stat()
    file.write_text("Once upon a time\n" * 100)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    edited = corpus_of(file.parent)
    assert edited != before
    file.parent.rename(tmp_path / "moved")
    assert corpus_of(tmp_path / "moved") == edited


def texts(folder: Path, *names: str) -> Path:
    """A folder of files that differ."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"text": f"{number} {line}", "messages": []} for line in range(60)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("identity", [corpus_of, talks_of])
@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        (("a.jsonl", "b.jsonl"), ("c.jsonl", "d.jsonl"), True),
        (("a.jsonl", "b.jsonl"), ("a.ndjson", "sub/b.JSONL"), True),
        (("a.jsonl", "b.jsonl"), ("b.jsonl", "a.jsonl"), False),  # documents in another order
        (("a.jsonl", "valid.jsonl"), ("a.jsonl", "val.jsonl"), True),
        (("a.jsonl", "valid.jsonl"), ("sub/x.jsonl", "validation/y.jsonl"), True),
        (("a.jsonl", "b.jsonl"), ("a.jsonl", "valid.jsonl"), False),
        (("a.jsonl", "valid.jsonl"), ("a.jsonl", "validity.jsonl"), False),
        (("a.jsonl", "valid.jsonl"), ("valid.jsonl", "z.jsonl"), False),  # the other file
        (("a.jsonl", "b.jsonl"), ("a.jsonl", "b.json"), False),  # read in another way
    ],
)
def test_a_name_counts_for_what_is_made_of_it(
    identity: Callable[[Path], dict[str, Any]], before: tuple[str, ...], after: tuple[str, ...], is_same: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    one, two = identity(texts(tmp_path / "one", *before)), identity(texts(tmp_path / "two", *after))
    assert (one == two) == is_same


def test_the_last_file_of_a_corpus_is_validation_and_a_name_for_training_takes_that_from_it(tmp_path: Path) -> None:
    one, two = texts(tmp_path / "one", "a.jsonl", "b.jsonl"), texts(tmp_path / "two", "a.jsonl", "train.jsonl")
    assert corpus_of(one) != corpus_of(two)
    assert talks_of(one) == talks_of(two)  # of conversations every 20th is


@pytest.fixture(params=["read", "sampled"])
def corpus(request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "sampled":
        monkeypatch.setattr(data_files, "READ_BYTES", 1)
    return texts(tmp_path / "text", "a.jsonl", "b.jsonl")


def made(folder: Path, **how: Any) -> Ref:
    return make(STEPS["corpus"], plan_of("corpus.source=path", f"corpus.path={folder}", **how))


def test_a_renamed_corpus_is_found_and_one_in_another_order_is_made(corpus: Path) -> None:
    first = made(corpus)
    (corpus / "b.jsonl").rename(corpus / "c.jsonl")
    renamed = made(corpus)
    assert (renamed.is_cached, renamed.digest) == (True, first.digest)
    (corpus / "c.jsonl").rename(corpus / "0.jsonl")
    other = made(corpus)
    assert not other.is_cached
    assert other.digest != first.digest


def test_inputs_that_are_read_whole_are_found_under_their_samples_and_back(corpus: Path) -> None:
    first = made(corpus)
    again = made(corpus, verify_inputs=True)
    assert (again.is_cached, again.digest) == (True, first.digest)
    shutil.copytree(corpus, corpus.with_name("copy"))
    assert made(corpus.with_name("copy")).is_cached
    assert made(corpus.with_name("copy"), fresh=("corpus",)).digest == first.digest


def test_what_samples_cannot_see_is_seen_by_reading_all(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that gives other bytes, with nothing in any stamp; the file is larger than all samples together."""
    monkeypatch.setattr(data_files, "READ_BYTES", 1)
    monkeypatch.setattr(data_files, "BLOCK_BYTES", 64)
    file = texts(tmp_path / "text", "a.jsonl", "b.jsonl") / "a.jsonl"
    monkeypatch.setattr(data_files, "_stamp", lambda file: (file.stat().st_size, 0, 0, 0))
    plan = plan_of("corpus.source=path", f"corpus.path={file.parent}")
    first, content = made(file.parent), bytearray(file.read_bytes())
    at = content.index(b'"0 2"') + 1
    content[at : at + 3] = b"9 9"
    file.write_bytes(content)
    data_files._digest.cache_clear()
    assert preview(STEPS["corpus"], plan, {}).state == "cached"
    seen = preview(STEPS["corpus"], replace(plan, verify_inputs=True), {})
    num_bytes = sum(each.stat().st_size for each in file.parent.iterdir())
    assert seen.state == "run"
    assert seen.reasons[0] == f"{num_bytes:,} bytes of 2 input files read"
    assert seen.reasons[1].startswith("config files: ")
    assert hashlib.sha256(content).hexdigest()[:40] in seen.reasons[1], "which file differs"
    mended = made(file.parent, verify_inputs=True)
    assert not mended.is_cached
    assert mended.digest != first.digest
    assert made(file.parent).digest == mended.digest, "the stale answer is not given any more"
    assert made(file.parent, verify_inputs=True).is_cached


def test_files_that_change_while_they_are_read_make_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the text that was read would be found under the key of the text that was there before."""
    body = STEPS["corpus"].body

    def meddling(run: StepRun) -> dict[str, Any]:
        texts(corpus, "c.jsonl", "a.jsonl")
        return body(run)

    meddled = replace(STEPS["corpus"], body=meddling)
    plan = plan_of("corpus.source=path", f"corpus.path={corpus}")
    with pytest.raises(NanochatError, match="the files of corpus changed while it read them"):
        execute(meddled, plan, {})
    assert workspace.current().store.artifacts("corpus") == []


def test_a_file_that_replaced_another_under_its_inode_counts(file: Path) -> None:
    """Written in place through a second name, stamps put back: only the time of change tells, or the content."""
    before, stat = digests([file], file.parent), file.stat()
    os.link(file, file.with_name("same inode"))
    content = bytearray(file.read_bytes())
    content[BETWEEN_SAMPLES] = 1
    with file.with_name("same inode").open("r+b") as opened:
        opened.write(content)
    os.replace(file.with_name("same inode"), file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    assert digests([file], file.parent) != before
