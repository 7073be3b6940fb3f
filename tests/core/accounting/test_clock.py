"""The clock by hand-worked numbers: warm-up at the median, kept steps once, kills do not change it."""

import pytest

from nanochat_core.accounting.clock import read_clock


def start(step, world_size=1):
    return {"event": "start", "step": step, "world_size": world_size}


def steps(first, *milliseconds):
    return [{"event": "step", "step": first + n, "step_ms": ms} for n, ms in enumerate(milliseconds)]


def test_the_first_ten_steps_count_at_the_median_of_the_others():
    # ten compiling steps of 9 s, then 1, 2, 3, 4, 5 s: the median is 3 s, so 10 x 3 + 15 = 45 s
    records = [start(0), *steps(1, *[9000] * 10), *steps(11, 1000, 2000, 3000, 4000, 5000)]
    clock = read_clock(records)
    assert clock.clock_s == pytest.approx(45)
    assert clock.median_step_s == 3
    assert clock.measured_s == pytest.approx(105)
    assert clock.without_first_steps_s == pytest.approx(15)
    assert (clock.num_steps, clock.num_warmup_steps, clock.num_starts) == (15, 10, 1)


def test_a_resumed_run_has_the_clock_of_an_unbroken_one():
    unbroken = [start(0), *steps(1, *[5000] * 10, *[1000] * 30)]
    resumed = [start(0), *steps(1, *[5000] * 10, *[1000] * 10), start(20), *steps(21, *[7000] * 10, *[1000] * 10)]
    assert read_clock(unbroken).clock_s == pytest.approx(40)
    assert read_clock(resumed).clock_s == pytest.approx(40)
    assert read_clock(resumed).num_warmup_steps == 20
    assert read_clock(resumed).num_starts == 2


def test_a_step_that_was_taken_again_counts_once_and_as_it_was_kept():
    # as a log would be that a kill left without its cut: steps 13 to 15 are there twice
    records = [start(0), *steps(1, *[1000] * 15), start(12), *steps(13, *[1000] * 13)]
    clock = read_clock(records)
    assert clock.num_steps == 25
    assert clock.clock_s == pytest.approx(25)


def test_validations_checkpoints_and_the_time_of_day_are_not_in_it():
    plain = [start(0), *steps(1, *[1000] * 20)]
    others = [{"event": "validate", "step": 15, "validate_s": 99.0}, {"event": "checkpoint", "step": 15, "save_s": 9.0}]
    assert read_clock(plain[:16] + others + plain[16:]) == read_clock(plain)


def test_a_run_that_is_all_warm_up_counts_as_measured():
    clock = read_clock([start(0), *steps(1, 4000, 2000)])
    assert clock.clock_s == 6
    assert clock.median_step_s is None
    assert clock.num_warmup_steps == 0


def test_device_seconds_follow_the_number_of_processes_of_each_attempt():
    records = [start(0, 8), *steps(1, *[1000] * 20), start(20, 4), *steps(21, *[2000] * 20)]
    # 10 warm steps of 1 s and 10 of 2 s: median 1.5 s; attempt one 15 + 10 = 25 s x 8, attempt two 15 + 20 = 35 s x 4
    assert read_clock(records).device_s == pytest.approx(25 * 8 + 35 * 4)


def test_starts_everywhere_do_not_make_the_fastest_step_the_clock() -> None:
    records = []
    for step in range(100):
        records += [start(step)] if step % 10 == 0 else []
        records += steps(step + 1, 50.0 if step == 55 else 100.0)
    clock = read_clock(records)
    assert clock.num_starts == 10
    assert clock.num_warmup_steps == 20
    assert clock.clock_s == pytest.approx(9.95)


def test_a_tenth_of_a_long_run_may_be_warm_ups() -> None:
    records = []
    for step in range(1000):
        records += [start(step)] if step % 100 == 0 else []
        records += steps(step + 1, 900.0 if step % 100 < 10 else 100.0)
    clock = read_clock(records)
    assert clock.num_warmup_steps == 100
    assert clock.clock_s == pytest.approx(100.0)
