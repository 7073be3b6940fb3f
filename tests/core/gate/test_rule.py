"""What the gate makes of numbers: levels, a night's own evidence, many nights together, and years of both."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import gate as simulation
from nanochat_core.gate import evidence, rule, trend
from nanochat_core.gate.level import (
    FLOOR_FRAC,
    Level,
    Looks,
    estimate_level,
    known_sd_frac,
    plain_level,
    without_outliers,
)

LEVEL = Level(location=1.0, scale=0.01, num_runs=24, degrees=23, location_error=0.01 / 24**0.5)


def alone(values: list[float], recipe: str | None = None) -> list[Looks]:
    """Nights of one training each."""
    return [Looks(recipe or f"{place}", (value,)) for place, value in enumerate(values)]


def draws(number: int, *, seed: int = 0, location: float = 1.0) -> list[float]:
    return np.random.default_rng(seed).normal(location, 0.01, number).tolist()


def test_a_run_at_the_baseline_is_green_at_once_and_a_bad_one_asks_for_more() -> None:
    assert rule.look(LEVEL, [1.0]) == "green"
    assert rule.look(LEVEL, [0.9]) == "green"
    assert rule.look(LEVEL, [1.03]) == "unsure"
    assert rule.look(LEVEL, [1.04, 1.04]) == "red"
    assert rule.look(LEVEL, [1.02, 1.015]) == "unsure"
    assert rule.look(LEVEL, [1.02, 1.015, 1.0, 1.0]) == "green"
    assert rule.look(LEVEL, [1.02, 1.018, 1.018, 1.018]) == "red"


def test_one_outlier_alone_is_no_regression_however_large() -> None:
    assert rule.look(LEVEL, [100.0]) == "unsure"
    assert rule.look(LEVEL, [100.0, 1.0]) == "green"


def test_a_small_baseline_asks_for_a_larger_effect_and_so_does_a_small_budget() -> None:
    small = replace(LEVEL, num_runs=3, degrees=2, location_error=0.01 / 3**0.5)
    assert rule.look(small, [1.03, 1.03]) != "red"
    assert rule.look(small, [1.3, 1.3]) == "red"
    assert rule.p_value(small, [1.03, 1.03]) > rule.p_value(LEVEL, [1.03, 1.03])
    assert rule.look(LEVEL, [1.025, 1.027], budget=0.02) != "red"


def test_a_great_improvement_over_the_baseline_of_one_night_is_named_after_three_nights() -> None:
    level = estimate_level([Looks("a", (1.0, 1.01, 0.99))], prior_frac=0.01)
    assert level is not None
    better = [Looks(f"{night}", (0.82, 0.83, 0.81)) for night in range(3)]
    assert evidence.weigh(level, better[0], better[:2]).is_improved
    assert not evidence.weigh(level, better[0], [Looks("x", (1.0,)), Looks("y", (1.01,))]).is_improved, "one is chance"


def test_looks_that_share_their_noise_confirm_less() -> None:
    shared = replace(LEVEL, share=0.7)
    assert rule.p_value(shared, [1.02] * 4) > 10 * rule.p_value(LEVEL, [1.02] * 4)
    assert rule.alarm(shared, 4) < rule.alarm(LEVEL, 4)


def test_tails_are_those_of_the_tables() -> None:
    unit = Level(location=0.0, scale=1.0, num_runs=1, degrees=10)
    assert rule.tail(unit, 1.812, 1) == pytest.approx(0.05, abs=1e-4)
    assert rule.tail(replace(unit, degrees=3), 4.541, 1) == pytest.approx(0.01, abs=1e-5)


def test_an_outlier_moves_neither_location_nor_scale_of_a_level() -> None:
    values = draws(12)
    with_one, without = plain_level([*values, 3.0]), plain_level(values)
    assert with_one == without
    assert 3.0 not in without_outliers([*values, 3.0])


def test_equal_runs_keep_a_floor_of_noise_and_one_run_is_no_level() -> None:
    level = estimate_level(alone([0.8, 0.8, 0.8]))
    assert level is not None
    assert level.scale == pytest.approx(FLOOR_FRAC * 0.8)
    assert estimate_level(alone([0.8])) is None
    assert plain_level([0.8]) is None


def test_what_is_expected_of_the_noise_counts_until_there_are_runs() -> None:
    few, many = (estimate_level(alone(draws(number)), prior_frac=0.02) for number in (3, 200))
    assert few is not None
    assert many is not None
    assert few.scale > 0.015
    assert many.scale == pytest.approx(0.01, rel=0.1)
    assert known_sd_frac(2) == pytest.approx(5.4e-3)
    assert known_sd_frac(12) == pytest.approx(4e-4)
    assert known_sd_frac(40) < known_sd_frac(24) < known_sd_frac(16) < known_sd_frac(12)


def test_the_level_is_that_of_the_newest_part_and_never_splits_a_recipe() -> None:
    values = [*draws(12), *draws(12, seed=1, location=0.97)]
    level = estimate_level(alone(values))
    assert level is not None
    assert (level.location, level.num_runs) == (pytest.approx(0.97, abs=0.01), 12)
    assert level.scale == pytest.approx(0.01, rel=0.4), "an improvement is no noise"
    same = estimate_level(alone(values, recipe="one"))
    assert same is not None
    assert same.num_runs == 24


def test_seeds_of_one_night_are_known_to_share_it() -> None:
    nights, night = alone(draws(12)), [Looks("a", tuple(draws(12)))]
    apart, together = estimate_level(nights), estimate_level(night)
    assert apart is not None
    assert together is not None
    assert together.location_error > 1.5 * apart.location_error
    assert together.scale > apart.scale


def test_pairs_tell_what_a_night_shares() -> None:
    rng = np.random.default_rng(3)
    apart = [Looks(f"{n}", tuple(rng.normal(1.0, 0.01, 2))) for n in range(150)]
    shared = [Looks(night.recipe, (night.values[0],) * 2) for night in apart]
    baseline = alone(draws(24))
    low, high = estimate_level(baseline, apart), estimate_level(baseline, shared)
    assert low is not None
    assert high is not None
    assert low.share < 0.2
    assert high.share > 0.7


def test_a_small_shift_is_found_by_many_nights_with_when_it_began_and_stays_red() -> None:
    baseline, later = alone(draws(24)), alone(draws(20, seed=5))
    colours, told = [], []
    for values in np.random.default_rng(12).normal(1.011, 0.01, (30, 4)).tolist():
        level = estimate_level(baseline, later)
        assert level is not None
        tonight, found = simulation.judged(level, values, later, budget=rule.BUDGET)
        later.append(replace(tonight, is_red=found.outcome == "red", effect_sd=found.effect / level.scale))
        colours.append(found.outcome)
        told.append((found.decided_by, found.first))
    begun = colours.index("red")
    assert begun < 15
    decided_by, first = told[begun]
    assert decided_by.endswith("nights together")
    assert first is not None
    assert begun - first[0] <= 1, f"it may have begun with the first of them: {told[begun]}"
    assert colours[begun : begun + 12].count("red") >= 11, "it does not flap"


def test_nights_that_look_bad_together_train_further_seeds() -> None:
    a_week = alone([1.004] * 7)
    assert evidence.weigh(LEVEL, Looks("tonight", (1.004,)), a_week[:1]).outcome == "green"
    assert evidence.weigh(LEVEL, Looks("tonight", (1.004,)), a_week).outcome == "unsure"
    assert evidence.weigh(LEVEL, Looks("tonight", (1.0, 1.001, 0.999, 1.0)), a_week).outcome == "green"


def test_each_regression_that_is_over_leaves_less_to_the_next_one_by_many_nights() -> None:
    shift = alone([1.008] * 6)
    tonight = Looks("tonight", (1.008,) * rule.MAX_LOOKS)
    before = [replace(night, is_red=True, effect_sd=1.0) for night in alone([1.01])]
    calm = alone([1.0] * 20)
    assert evidence.weigh(LEVEL, tonight, [*calm, *shift]).outcome == "red"
    often = [night for _ in range(40) for night in (*before, *calm[:4])]
    assert evidence.weigh(LEVEL, tonight, [*often, *calm, *shift]).outcome == "green"


def test_a_regression_is_over_when_the_nights_say_so() -> None:
    bad, good = alone([1.03]), alone([1.0, 1.001])
    assert not trend.is_over(bad, LEVEL, 0.03)
    assert trend.is_over(good, LEVEL, 0.03)


def test_a_better_level_is_named() -> None:
    level = estimate_level(alone(draws(24)))
    assert level is not None
    found = evidence.weigh(level, Looks("x", (0.985,)), alone([1.0, 1.0, *draws(6, seed=7, location=0.985)]))
    assert (found.outcome, found.is_improved) == ("green", True)
    assert found.first is not None
    assert found.first[1] <= 6 <= found.first[0] + 1


@pytest.mark.parametrize("noise", ["normal", "carried 0.3"])
def test_a_few_years_cost_a_few_alarms(noise: str) -> None:
    years = [simulation.year(noise, 24, seed) for seed in range(10)]
    assert np.mean([alarms for alarms, _ in years]) <= 3.5, "2 a year, in the mean of very many"
    assert np.mean([trainings for _, trainings in years]) < 1.7


def test_three_standard_deviations_are_found_also_after_an_improvement() -> None:
    plain = [simulation.found(24, seed, size=3.0)[0] for seed in range(60)]
    after = [simulation.found(24, seed, size=3.0, improved=3.0)[0] for seed in range(60)]
    assert np.mean(plain) > 0.85
    assert np.mean(after) > 0.75


def test_a_search_names_the_change_or_none_and_seldom_an_innocent_one() -> None:
    found = [simulation.search(32, 3.0, seed)[0] for seed in range(40)]
    chance = [simulation.search(32, 0.0, seed)[0] for seed in range(40)]
    assert found.count("right") >= 34
    assert found.count("wrong") + chance.count("wrong") <= 5


@pytest.mark.torture
@pytest.mark.parametrize("noise", list(simulation.NOISES))
@pytest.mark.parametrize("runs", simulation.BASELINES)
def test_no_noise_costs_more_than_the_budget(noise: str, runs: int) -> None:
    alarms = [simulation.year(noise, runs, seed)[0] for seed in range(100)]
    assert np.mean(alarms) <= 2.3, "2 but for the chance of a hundred"
    assert np.percentile(alarms, 95) <= 7
