"""Checkpoints of a training on a remote store: uploaded once, the newest first, never at the cost of an older one."""

from pathlib import Path

import pytest

from nanochat_core.pipeline.checkpoints import CheckpointKeeper
from nanochat_core.store.partial import Partial
from nanochat_core.store.store import Store


@pytest.fixture
def partial(tmp_path: Path) -> Partial:
    return Store.open(f"memory://{tmp_path.name}", cache_folder=tmp_path / "cache").partial("pretrain", "ab" * 32)


def keeper(partial: Partial, scratch: Path) -> CheckpointKeeper:
    return CheckpointKeeper(partial, scratch=scratch / "checkpoints", note=lambda text: None)


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
