"""A file of data counts by its content: size and time may be what they were, and another file may be behind a link."""

import os
from pathlib import Path

import pytest

from nanochat_core.pipeline import data_files
from nanochat_core.pipeline.data_files import digests
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


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


def test_a_corpus_that_was_edited_without_a_trace_is_another_and_a_moved_one_is_not(tmp_path: Path) -> None:
    def identity(path: Path) -> dict[str, object]:
        return STEPS["corpus"].identity(plan_run(load_config("tiny", ["corpus.source=path", f"corpus.path={path}"])))

    file = tmp_path / "text/a.txt"
    file.parent.mkdir()
    file.write_text("once upon a time\n" * 100)
    before, stat = identity(file.parent), file.stat()
    file.write_text("Once upon a time\n" * 100)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    edited = identity(file.parent)
    assert edited != before
    file.parent.rename(tmp_path / "moved")
    assert identity(tmp_path / "moved") == edited
