"""What an answer's reader is told, and when."""

import pytest

from nanochat_core.inference.tool_loop import End, Text
from nanochat_core.serve import jobs
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.jobs import TELL_EVERY_S, Job
from nanochat_core.serve.prompts import Prompt


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    return now


def say(job, clock, text, *, after_s):
    """A step that brings one piece of text; what is told of it, None: nothing yet."""
    clock[0] += after_s
    job.last_s = clock[0]
    return job.update() if job.keep([Text(text)], []) else None


def test_the_first_token_is_told_at_once_and_fast_ones_together(clock):
    job = Job(Prompt([1]))
    assert say(job, clock, "a", after_s=0.0).events == [Text("a")]
    for text in "bcd":
        assert say(job, clock, text, after_s=TELL_EVERY_S / 4) is None
    assert say(job, clock, "e", after_s=TELL_EVERY_S / 3).events == [Text("b"), Text("c"), Text("d"), Text("e")]


def test_what_comes_slower_than_that_is_told_as_it_comes(clock):
    job = Job(Prompt([1]))
    assert all(say(job, clock, text, after_s=1.1 * TELL_EVERY_S).events == [Text(text)] for text in "abcdef")


def test_an_end_and_an_error_take_along_what_was_kept(clock):
    job = Job(Prompt([1]))
    say(job, clock, "a", after_s=0.0)
    assert say(job, clock, "b", after_s=0.0) is None
    job.keep([End("stop")], [])
    assert job.update(is_last=True).events == [Text("b"), End("stop")]
    assert say(job, clock, "c", after_s=0.0) is None
    problem = ApiError(500, "the engine failed")
    update = job.update(error=problem, is_last=True)
    assert (update.events, update.error, update.is_last) == ([Text("c")], problem, True)
    assert job.update().events == []


def test_a_step_that_brought_nothing_is_not_told(clock):
    job = Job(Prompt([1]))
    clock[0] += 1
    job.last_s = clock[0]
    assert not job.keep([], [])
