"""Checkpoints of a training on a remote store: uploaded once, the newest first, never at the cost of an older one."""

import time
from pathlib import Path

import pytest

from nanochat_core.base.errors import UnreadableError
from nanochat_core.base.records import read_records
from nanochat_core.pipeline.checkpoints import CheckpointKeeper
from nanochat_core.store.partial import Partial
from nanochat_core.store.store import Store
from nanochat_core.train.timesheet import Timesheet


@pytest.fixture
def partial(tmp_path: Path) -> Partial:
    return Store.open(f"memory://{tmp_path.name}", cache_folder=tmp_path / "cache").partial("pretrain", "ab" * 32)


def keeper(partial: Partial, scratch: Path) -> CheckpointKeeper:
    return CheckpointKeeper(partial, scratch=scratch / "checkpoints")


def saved(folder: Path, step: int) -> dict[str, object]:
    """A checkpoint as the training leaves it, and the record that tells of it."""
    name = f"step-{step:08d}"
    (folder / name).mkdir()
    (folder / name / "weights").write_text(str(step))
    return {"event": "checkpoint", "step": step, "name": name}


def test_a_new_machine_starts_from_the_newest_uploaded_checkpoint(partial: Partial, tmp_path: Path) -> None:
    first = keeper(partial, tmp_path / "a")
    folder = first.prepare()
    for step in (100, 200, 300):
        first.on_record(saved(folder, step))
    first.finish()
    assert "step-00000300" in partial.names()
    assert len(partial.names()) <= 2
    restored = keeper(partial, tmp_path / "b").prepare()
    assert (restored / "step-00000300/weights").read_text() == "300"


def test_the_records_that_a_resumed_training_repeats_change_nothing(partial: Partial, tmp_path: Path) -> None:
    first = keeper(partial, tmp_path / "a")
    records = [saved(first.prepare(), 100)]
    first.on_record(records[0])
    first.finish()
    second = keeper(partial, tmp_path / "b")
    folder = second.prepare()
    records.append(saved(folder, 200))
    for record in records:  # the first is on this machine's disk only because it was restored
        second.on_record(record)
    second.finish()
    assert partial.names() == ["step-00000100", "step-00000200"]


def test_a_checkpoint_that_the_training_has_removed_is_left_out(partial: Partial, tmp_path: Path) -> None:
    keeping = keeper(partial, tmp_path / "a")
    keeping.prepare()
    keeping.on_record({"event": "checkpoint", "step": 5, "name": "step-00000005"})
    keeping.finish()
    assert partial.names() == []


def test_a_checkpoint_is_uploaded_when_it_is_whole_and_not_when_it_is_begun(partial: Partial, tmp_path: Path) -> None:
    keeping = keeper(partial, tmp_path / "a")
    folder = keeping.prepare()
    keeping.on_record({"event": "checkpoint", "step": 100, "name": "step-00000100"})
    (folder / "step-00000100.tmp1").mkdir()
    (folder / "step-00000100.tmp1/weights").write_text("100")
    keeping.look()
    assert partial.names() == []
    (folder / "step-00000100.tmp1").rename(folder / "step-00000100")
    keeping.look()
    keeping.finish()
    assert partial.names() == ["step-00000100"]


def test_the_best_on_held_out_text_is_kept_beside_the_last_two(partial: Partial, tmp_path: Path) -> None:
    keeping = keeper(partial, tmp_path / "a")
    folder = keeping.prepare()
    for step, loss in ((100, 4.0), (200, 3.0), (300, 5.0), (400, 6.0), (500, 7.0)):
        keeping.on_record(saved(folder, step))
        while keeping._next is not None or not all(upload.done() for upload in keeping._pending):
            time.sleep(0.005)
        keeping.on_record({"event": "validate", "step": step, "validation_loss": loss})
    keeping.finish()
    assert partial.names() == ["step-00000200", "step-00000400", "step-00000500"]


def test_another_machine_knows_what_the_attempts_before_it_cost(partial: Partial, tmp_path: Path) -> None:
    first = keeper(partial, tmp_path / "a")
    folder = first.prepare()
    book = Timesheet(first.timesheet, world_size=8)
    first.on_record(saved(folder, 100))
    first.finish()
    book.done("failed")
    second = keeper(partial, tmp_path / "b")
    second.prepare()
    assert [line["event"] for line in read_records(second.timesheet)] == ["begin"]
    assert partial.names() == ["step-00000100", "timesheets"]
    assert second.folder.joinpath("step-00000100").exists()


def kept(partial: Partial, folder: Path, *steps: int) -> None:
    """Checkpoints of another machine in the store."""
    keeping = keeper(partial, folder)
    keeping.prepare()
    for step in steps:
        keeping.on_record(saved(keeping.folder, step))
        for upload in keeping._pending:
            upload.result()
    keeping.finish()


def test_where_the_newest_cannot_be_read_the_older_ones_are_fetched_one_by_one(
    partial: Partial, tmp_path: Path
) -> None:
    kept(partial, tmp_path / "a", 100, 200)
    keeping = keeper(partial, tmp_path / "b")
    folder = keeping.prepare()
    assert [path.name for path in folder.glob("step-*")] == ["step-00000200"]
    assert keeping.older()
    assert (folder / "step-00000100/weights").read_text() == "100"
    assert not keeping.older()


def test_one_that_is_torn_here_is_fetched_again_from_the_store(partial: Partial, tmp_path: Path) -> None:
    kept(partial, tmp_path / "a", 100, 200)
    torn = tmp_path / "a/checkpoints/step-00000200/weights"
    torn.write_text("2")
    keeping = keeper(partial, tmp_path / "a")
    keeping.prepare()
    assert torn.read_text() == "2", "what is here is not fetched before it was tried"
    assert keeping.older()
    assert torn.read_text() == "200"


def test_where_no_checkpoint_of_the_store_is_intact_nothing_begins_anew(partial: Partial, tmp_path: Path) -> None:
    kept(partial, tmp_path / "a", 100, 200)
    for stored in partial._all_stored():
        partial._files.write(f"{partial._key(stored)}/weights", b"other bytes")
    with pytest.raises(UnreadableError, match="step-00000100, step-00000200") as error:
        keeper(partial, tmp_path / "b").prepare()
    assert "--fresh" in (error.value.hint or "")


def test_a_later_one_that_could_not_be_read_is_made_again_and_kept(partial: Partial, tmp_path: Path) -> None:
    kept(partial, tmp_path / "a", 100, 200)
    keeping = keeper(partial, tmp_path / "b")
    folder = keeping.prepare()
    assert keeping.older()
    (folder / "step-00000200/weights").unlink()
    (folder / "step-00000200").rmdir()
    keeping.begun(100)
    record = saved(folder, 200)
    (folder / "step-00000200/weights").write_text("made again")
    keeping.on_record(record)
    keeping.finish()
    assert (keeper(partial, tmp_path / "c").prepare() / "step-00000200/weights").read_text() == "made again"
