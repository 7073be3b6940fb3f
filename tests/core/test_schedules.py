"""The shapes of learning rate, momentum and decay over a run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.schedules import Schedule, lr_multiplier, muon_momentum, weight_decay_multiplier

RUN = Schedule(num_steps=1000, warmup_steps=40, warmdown_frac=0.65, final_lr_frac=0.05, momentum_warmup_steps=300)
FIRST_FALLING = 351  # 65% of the run is its last 650 steps; the first of them is still at the full rate

schedules = st.builds(
    Schedule,
    num_steps=st.integers(1, 400),
    warmup_steps=st.integers(0, 50),
    warmdown_frac=st.floats(0, 1),
    final_lr_frac=st.floats(0, 1),
    initial_lr_frac=st.floats(0.01, 1),
    momentum_warmup_steps=st.integers(0, 200),
)


def test_the_rate_rises_linearly_stays_and_falls_linearly_to_its_end():
    rates = [lr_multiplier(RUN, step) for step in range(1000)]
    assert rates[:40] == pytest.approx([(step + 1) / 40 for step in range(40)])
    assert rates[39:FIRST_FALLING] == [1.0] * (FIRST_FALLING - 39)
    falls = [a - b for a, b in itertools.pairwise(rates[FIRST_FALLING - 1 :])]
    assert falls == pytest.approx([0.95 / 650] * len(falls))
    assert rates[-1] == pytest.approx(0.05 + 0.95 / 650)
    assert lr_multiplier(RUN, 1000) == pytest.approx(0.05)


def test_fine_tuning_scales_the_whole_curve():
    tuned = Schedule(**{**vars(RUN), "initial_lr_frac": 0.8})
    for step in (0, 20, 100, 700, 999):
        assert lr_multiplier(tuned, step) == pytest.approx(0.8 * lr_multiplier(RUN, step))


def test_without_warm_up_and_warm_down_the_rate_is_flat():
    flat = Schedule(num_steps=10, warmup_steps=0, warmdown_frac=0.0, final_lr_frac=0.0, momentum_warmup_steps=0)
    assert [lr_multiplier(flat, step) for step in range(10)] == [1.0] * 10
    assert [muon_momentum(flat, step) for step in range(10)] == [0.97] * 10


def test_momentum_rises_stays_and_falls():
    assert muon_momentum(RUN, 0) == pytest.approx(0.85)
    assert muon_momentum(RUN, 150) == pytest.approx(0.91)
    assert muon_momentum(RUN, 300) == muon_momentum(RUN, 349) == pytest.approx(0.97)
    assert muon_momentum(RUN, 675) == pytest.approx(0.935)
    assert muon_momentum(RUN, 1000) == pytest.approx(0.90)


def test_decay_is_a_cosine_to_zero():
    assert weight_decay_multiplier(RUN, 0) == 1.0
    assert weight_decay_multiplier(RUN, 500) == pytest.approx(0.5)
    assert weight_decay_multiplier(RUN, 1000) == pytest.approx(0.0)
    values = [weight_decay_multiplier(RUN, step) for step in range(1001)]
    assert values == sorted(values, reverse=True)


def test_a_stage_without_decay_has_none_at_any_step():
    plain = Schedule(**{**vars(RUN), "has_weight_decay": False})
    assert {weight_decay_multiplier(plain, step) for step in range(0, 1000, 7)} == {0.0}


@given(schedules)
def test_no_step_of_any_run_leaves_the_curves_bounds(schedule):
    for step in range(schedule.num_steps):
        assert 0 <= lr_multiplier(schedule, step) <= schedule.initial_lr_frac * (1 + 1e-9)
        assert 0.85 - 1e-9 <= muon_momentum(schedule, step) <= 0.97 + 1e-9
        assert 0 <= weight_decay_multiplier(schedule, step) <= 1


@given(schedules)
def test_the_rate_never_rises_after_the_warm_up(schedule):
    rates = [lr_multiplier(schedule, step) for step in range(schedule.warmup_steps, schedule.num_steps)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates))
