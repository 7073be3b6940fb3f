"""What dead processes left in the home goes; what a living one holds, and what is young, stays."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from nanochat_core.store.leftovers import find_leftovers, remove_leftover
from nanochat_core.store.views import Views

AGE_S = 100.0


def old(path: Path) -> Path:
    for each in [*path.rglob("*"), path]:
        os.utime(each, (1, 1), follow_symlinks=False)
    return path


@pytest.fixture
def work(tmp_path) -> Path:
    folder = tmp_path / "work" / "pretrain-abc"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/checkpoint").write_bytes(b"x" * 100)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/pretrain-abc").touch()
    return folder


def sweep(home: Path) -> list[tuple[str, str, int]]:
    found = find_leftovers(home, older_than_s=AGE_S)
    return [(each.kind, each.path.name, each.num_bytes) for each in found if remove_leftover(each, older_than_s=AGE_S)]


def test_old_scratch_and_locks_go(tmp_path, work):
    old(tmp_path)
    assert sweep(tmp_path) == [("work", "pretrain-abc", 100), ("lock", "pretrain-abc", 0)]
    assert not list((tmp_path / "work").iterdir())
    assert not list((tmp_path / "locks").iterdir())


def test_one_young_file_keeps_all_of_a_steps_scratch(tmp_path, work):
    old(tmp_path)
    (work / "deep/checkpoint").touch()
    assert sweep(tmp_path) == [("lock", "pretrain-abc", 0)]
    assert (work / "deep/checkpoint").exists()


def test_what_a_process_holds_stays_whatever_its_age(tmp_path, work):
    old(tmp_path)
    with (tmp_path / "locks/pretrain-abc").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == []
    assert len(sweep(tmp_path)) == 2


def test_what_somebody_began_to_use_since_the_look_stays(tmp_path, work):
    old(tmp_path)
    found = find_leftovers(tmp_path, older_than_s=AGE_S)
    (work / "deep/checkpoint").touch()
    (tmp_path / "locks/pretrain-abc").touch()
    assert [remove_leftover(each, older_than_s=AGE_S) for each in found] == [False, False]
    assert work.exists()


def test_views_that_nobody_holds_go_and_their_targets_stay(tmp_path):
    target = tmp_path / "blob"
    target.write_bytes(b"x")
    folder = tmp_path / "cache" / "views"
    held, forgotten = (folder / name for name in ("held", "forgotten"))
    for view in (held, forgotten):
        view.mkdir(parents=True)
        (view / "a").symlink_to(target)
        view.with_suffix(".lock").touch()
        os.utime(view.with_suffix(".lock"), (1, 1))
    with held.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert sweep(tmp_path) == [("view", "forgotten", 0)]
    assert target.exists()
    assert held.exists()
    assert not forgotten.exists()


def test_a_view_in_use_now_is_young(tmp_path):
    view = Views(tmp_path / "cache" / "views").open({"a": tmp_path / "blob"})
    assert time.time() - view.with_suffix(".lock").stat().st_mtime < AGE_S
    assert sweep(tmp_path) == []


def test_an_empty_home_is_no_error(tmp_path):
    assert sweep(tmp_path / "absent") == []
