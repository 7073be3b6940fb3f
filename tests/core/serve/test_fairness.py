"""Who goes first: single answers before batches and long prompts, small requests past large ones, everybody in turn."""

import asyncio
import itertools
import time

import pytest
from model_server import byte_tokenizer, random_model

from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.serve import lane
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.jobs import Answers, Job
from nanochat_core.serve.lane import Lane
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.metrics import Metrics
from nanochat_core.serve.prompts import Prompt
from nanochat_core.serve.scheduler import Scheduler
from nanochat_core.serve.turns_taken import Turns

LONG = [1] * 1500  # six chunks


@pytest.fixture
def scheduler():
    """Two rows, one for the short and one for newcomers; nobody runs it but the test."""
    engine, limits = Engine(random_model(1, context_tokens=2048), byte_tokenizer()), Limits(num_rows=2, max_waiting=16)
    return Scheduler("m", engine, limits=limits, metrics=Metrics().of_model("m"))


def _ask(scheduler, address, *prompts, max_tokens=40):
    """Submit one request; the jobs of its prompts."""
    jobs = []
    for number, ids in enumerate(prompts):
        sampling = Sampling(max_new_tokens=max_tokens, temperature=1.0, seed=number, use_tools=False)
        jobs.append(Job(Prompt(ids), scheduler.engine.request(ids, sampling), index=number))

    async def submit():
        scheduler.submit(Answers(scheduler, jobs, client=(address, "")).jobs)

    asyncio.run(submit())
    return jobs


def test_rows_are_kept_for_short_requests_and_for_addresses_without_any(scheduler):
    def admitted(address, *prompts):
        _ask(scheduler, address, *prompts)
        return len(scheduler._admit())

    assert admitted("a", *[[1]] * 8) == 2, "a batch is not short, however short its prompts"
    assert admitted("a", LONG) == 0
    assert admitted("a", [1]) == 1
    assert admitted("a", [1]) == 0
    assert admitted("b", *[[1]] * 3) == 1
    assert admitted("b", [1]) == admitted("c", [1]) == 0


def test_nobody_counts_who_waits_while_somebody_may_add_to_them():
    """A step counted them without the lock: a crowd that came meanwhile ended the answers of all others."""
    metrics = Metrics()
    scheduler = Scheduler(
        "m", Engine(random_model(1), byte_tokenizer()), limits=Limits(num_rows=2), metrics=metrics.of_model("m")
    )

    class Guarded(Turns):
        def __len__(self):
            assert scheduler._changed._is_owned()
            return super().__len__()

    scheduler._waiting, batch = Guarded(), scheduler._rows()
    jobs = _ask(scheduler, "a", *[[1]] * 5, max_tokens=2)
    assert b'queue_requests{model="m"} 5.0' in metrics.text()
    while not all(job.request.is_done for job in jobs):
        scheduler._turn(batch)
    assert b'queue_requests{model="m"} 0.0' in metrics.text()


@pytest.mark.parametrize(
    ("others", "light"),
    [
        ([("a", [[1, 2], [3, 4]])], ("a", [1])),
        ([("a", [LONG])], ("a", [1])),
        ([("a", [[1]]), ("a", [[2]])], ("b", [1])),
    ],
    ids=["a batch", "a long prompt", "two of another address"],
)
def test_one_answer_has_steps_of_its_own_beside_others(scheduler, others, light):
    steps, batch = [], scheduler._rows()
    step = batch.step
    batch.step = lambda only: steps.append(only) or step(only)
    jobs = [job for address, prompts in others for job in _ask(scheduler, address, *prompts)]
    (one,) = _ask(scheduler, light[0], light[1])
    while not (one.request.is_done or all(job.first_s for job in jobs)):
        scheduler._turn(batch)
    while not one.request.is_done and not any(job.request.is_done for job in jobs):
        scheduler._turn(batch)
    alone = [only == {one.request} for only in steps]
    assert sum(alone) >= len(steps) // 2 - 1
    assert None in steps, "the others go on as well"
    for job in [*jobs, one]:
        while not job.request.is_done:
            scheduler._turn(batch)
    for job in [*jobs, one]:
        expected = scheduler.engine.generate([job.prompt.ids], [job.request.sampling])[0]
        assert job.request.answer == expected


def test_no_step_is_kept_from_equals(scheduler):
    batch = scheduler._rows()
    step, steps = batch.step, []
    batch.step = lambda only: steps.append(only) or step(only)
    jobs = _ask(scheduler, "a", [1]) + _ask(scheduler, "b", [2])
    while not all(job.request.is_done for job in jobs):
        scheduler._turn(batch)
    assert set(steps) == {None}


def _worked(is_missed, *asked, seconds=0.0):
    """(name, start, end) of each piece of work in the order of their starts; asked: (client, name, bytes)."""
    done = []

    async def run():
        made = Lane(max_bytes=1 << 20, is_missed=lambda: is_missed)

        def work(name):
            started = time.monotonic()
            time.sleep(seconds)
            done.append((name, started, time.monotonic()))

        async def ask(client, name, num_bytes):
            await made.read(lambda: work(name), num_bytes=num_bytes, client=client)

        await asyncio.gather(*(ask(*each) for each in asked))

    asyncio.run(run())
    return sorted(done, key=lambda each: each[1])


def test_large_work_is_done_one_by_one_and_in_turns():
    large = 2 * lane.SMALL_BYTES
    done = _worked(False, *[("a", f"a{number}", large) for number in range(3)], ("b", "b0", large), seconds=0.02)
    assert [name for name, *_ in done] == ["a0", "b0", "a1", "a2"]
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(done))


def test_large_work_rests_where_others_wait_and_the_small_goes_past_it():
    large = 2 * lane.SMALL_BYTES
    (_, _, end), (small, *_, small_end), (_, start, _) = _worked(
        True, ("a", "a0", large), ("a", "a1", large), ("a", "small", 10), seconds=0.03
    )[:3]
    assert small == "small"
    assert start - end >= lane.REST_S * 0.03
    assert small_end < start


def test_what_waits_for_the_lane_is_bounded_for_all_and_for_each():
    with pytest.raises(ApiError, match="too many large requests") as refused:
        _worked(False, *[("a", str(number), 300_000) for number in range(2)])
    assert refused.value.status == 503
    with pytest.raises(ApiError, match="too many large requests"):
        _worked(False, *[(str(number), "x", 500_000) for number in range(3)])
    assert len(_worked(False, *[(str(number), "x", 500_000) for number in range(2)])) == 2
