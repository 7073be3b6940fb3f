"""Records of a child: what a kill tears is left out, what is appended is followed once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.records import RecordFollower, RecordWriter, keep_until, read_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def _write(path, steps, event="step"):
    writer = RecordWriter(path)
    for step in steps:
        writer.write(event, step=step, text="naïve\n\u2028")
    writer.close()


def _steps(records):
    return [record["step"] for record in records]


def test_what_is_written_is_read(path):
    _write(path, range(3))
    record = read_records(path)[1]
    assert record.pop("time_s") > 0
    assert record == {"event": "step", "step": 1, "text": "naïve\n\u2028"}
    assert _steps(read_records(path)) == [0, 1, 2]


def test_an_absent_file_has_no_records(path):
    assert read_records(path) == []
    assert RecordFollower(path).new_records() == []


def test_a_line_torn_anywhere_is_left_out_and_the_whole_ones_stay(path):
    _write(path, range(3))
    content = path.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    for cut in range(last, len(content)):
        path.write_bytes(content[:cut])
        assert _steps(read_records(path)) == [0, 1]


def test_records_after_a_torn_line_can_be_read(path):
    _write(path, range(2))
    path.write_bytes(path.read_bytes()[:-5])
    _write(path, [7, 8])
    assert _steps(read_records(path))[-2:] == [7, 8]


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_a_follower_sees_every_record_once_however_the_file_grows(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("records") / "metrics.jsonl"
    follower = RecordFollower(path)
    content = "".join(json.dumps({"event": "step", "step": step, "text": "é"}) + "\n" for step in range(8)).encode()
    seen, written = [], 0
    for cut in [*sorted(cuts), len(content)]:
        with path.open("ab") as file:
            file.write(content[written:cut])
        written = max(written, min(cut, len(content)))
        seen += _steps(follower.new_records())
    assert seen == list(range(8))
    assert follower.new_records() == []


def test_a_follower_starts_with_what_is_new(path):
    _write(path, range(3))
    follower = RecordFollower(path)
    _write(path, [3])
    assert _steps(follower.new_records()) == [3]


def test_a_resumed_attempt_that_rewrites_the_file_is_followed(path):
    _write(path, range(20))
    follower = RecordFollower(path)
    keep_until(path, 5)
    _write(path, [5])
    assert _steps(follower.new_records())[-1:] == [5]


def test_a_rewritten_file_that_has_already_outgrown_the_old_one_is_followed(path):
    """A quick first step may come before the follower looks again."""
    _write(path, range(20))
    follower = RecordFollower(path)
    keep_until(path, 19)
    writer = RecordWriter(path)
    writer.write("start", step=19, num_steps=400, world_size=1)
    writer.write("step", step=20, text="a longer record than the one that was dropped")
    writer.close()
    assert _steps(follower.new_records())[-2:] == [19, 20]


def test_a_file_that_is_replaced_again_and_again_is_never_taken_for_the_old_one(path):
    """File systems give the number of a removed file to the next one."""
    for _ in range(50):
        _write(path, range(10))
        follower = RecordFollower(path)
        for step in (3, 2):  # what a resumed attempt does: the checkpoint's records, and then fewer of them
            keep_until(path, step)
        _write(path, range(100, 130))
        assert _steps(follower.new_records()) == [0, 1, *range(100, 130)]
        follower.close()
        path.unlink()


def test_keep_until_drops_the_steps_that_will_be_taken_again_and_keeps_starts(path):
    _write(path, [0], event="start")
    _write(path, range(1, 6))
    _write(path, [5], event="start")
    keep_until(path, 4)
    records = read_records(path)
    assert [(record["event"], record["step"]) for record in records] == [
        ("start", 0), ("step", 1), ("step", 2), ("step", 3), ("start", 5),
    ]  # fmt: skip
