"""What an unfinished step keeps is whole or absent, in every kind of store."""

from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError

CHECKPOINT = {"__0_0.distcp": b"0" * 3000, "__1_0.distcp": b"1" * 2000, ".metadata": b"m", "sub/ü %.json": b"{}"}


@pytest.fixture
def partial(bench):
    return bench.store.partial("pretrain", "f1")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_kept_folder_comes_back_as_it_was(bench, partial, tmp_path):
    partial.put_folder(bench.folder(CHECKPOINT), "step-000010")
    assert partial.names() == ["step-000010"]
    assert partial.get_folder("step-000010", tmp_path / "into/deep")
    assert contents(tmp_path / "into/deep") == CHECKPOINT


def test_a_piece_that_was_never_kept_is_absent(partial, tmp_path):
    assert partial.get_folder("step-1", tmp_path / "into") is False
    assert not (tmp_path / "into").exists()
    partial.remove("step-1")
    partial.clear()


def test_keeping_again_replaces_all_of_it(bench, partial, tmp_path):
    partial.put_folder(bench.folder(CHECKPOINT), "last")
    partial.put_folder(bench.folder({"only": b"new"}), "last")
    assert partial.get_folder("last", tmp_path / "into")
    assert contents(tmp_path / "into") == {"only": b"new"}
    assert len([key for key in bench.objects() if key.startswith("partial/")]) == 2


@pytest.mark.parametrize("victim", ["last/__0_0.distcp", "last.complete.json"])
def test_a_damaged_piece_is_absent_and_leaves_nothing(bench, partial, tmp_path, damage, victim):
    partial.put_folder(bench.folder(CHECKPOINT), "last")
    partial.put_folder(bench.folder({"x": b"x"}), "other")
    damage(bench, f"partial/pretrain/f1/{victim}")
    assert partial.get_folder("last", tmp_path / "into") is False
    assert not (tmp_path / "into").exists()
    assert partial.get_folder("other", tmp_path / "into")


def test_files_without_a_marker_are_not_seen(bench, partial, tmp_path):
    partial.put_folder(bench.folder(CHECKPOINT), "last")
    bench.delete("partial/pretrain/f1/last.complete.json")
    assert partial.names() == []
    assert not partial.get_folder("last", tmp_path / "into")


def test_removing_one_piece_leaves_those_with_a_longer_name(bench, partial, tmp_path):
    for name in ("step-1", "step-10"):
        partial.put_folder(bench.folder({"f": name.encode()}), name)
    partial.remove("step-1")
    assert partial.names() == ["step-10"]
    assert partial.get_folder("step-10", tmp_path / "into")


def test_clear_removes_this_step_and_no_other(bench, partial):
    other = bench.store.partial("pretrain", "f12")
    for each in (partial, other):
        each.put_folder(bench.folder(CHECKPOINT), "last")
    partial.clear()
    assert partial.names() == []
    assert other.names() == ["last"]
    assert all(key.startswith("partial/pretrain/f12/") for key in bench.objects())


def test_a_full_target_folder_is_refused(bench, partial):
    partial.put_folder(bench.folder(CHECKPOINT), "last")
    with pytest.raises(ConfigError, match="not empty"):
        partial.get_folder("last", bench.folder({"mine": b"precious"}))


def test_only_a_folder_store_has_a_real_folder(bench, partial):
    assert (partial.folder is not None) == bench.is_folder


def test_a_folder_store_keeps_a_piece_in_place_without_copying(folder_bench):
    partial = folder_bench.store.partial("pretrain", "f1")
    own = partial.folder / "last"
    own.mkdir(parents=True)
    (own / "weights").write_bytes(b"w" * 100)
    inode = (own / "weights").stat().st_ino
    partial.put_folder(own, "last")
    assert (own / "weights").stat().st_ino == inode
    assert partial.get_folder("last", own)
    (own / "weights").write_bytes(b"v" * 100)
    assert not partial.get_folder("last", own)
    assert own.exists()
