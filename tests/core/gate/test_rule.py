"""The two-look rule: its error rates by simulation, and what the guide says of them."""

import re

import numpy as np
import pytest
from conftest import ROOT

from nanochat_core.gate import rule
from nanochat_core.gate.level import FLOOR_FRAC, Level, estimate_level, without_outliers
from tests.core.gate.simulation import CASES, NOISES, Rates, simulate

GUIDE = ROOT / "docs/nightly.md"
LEVEL = Level(location=1.0, scale=0.01, num_runs=24, degrees=23)


@pytest.fixture(scope="module")
def rates() -> dict[tuple[int, int, str], Rates]:
    return {
        (*case, name): simulate(draw, num_runs=case[0], num_replicates=case[1])
        for case in CASES
        for name, draw in NOISES.items()
    }


def test_false_alarms_stay_below_one_in_a_hundred_whatever_the_noise(rates: dict[tuple[int, int, str], Rates]) -> None:
    assert {key: rate.false_alarms for key, rate in rates.items() if rate.false_alarms > 0.01} == {}


def test_three_standard_deviations_are_found_nine_times_of_ten_by_a_full_baseline(
    rates: dict[tuple[int, int, str], Rates],
) -> None:
    full = {key: rate.power for key, rate in rates.items() if key[0] - 1 + max(0, key[1] - 1) >= rule.READY_DEGREES}
    assert len(full) >= 9
    assert {key: power for key, power in full.items() if power < 0.9} == {}


def test_the_guide_has_the_rates_of_the_simulation(rates: dict[tuple[int, int, str], Rates]) -> None:
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| ([a-z ]+) \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \|$", GUIDE.read_text(), re.M
    )
    told = {(int(runs), int(further), name): values for runs, further, name, *values in rows}
    assert told.keys() == rates.keys()
    for key, values in told.items():
        doubtful, alarms, power = (float(value) / 100 for value in values)
        assert doubtful == pytest.approx(rates[key].doubtful, abs=0.01)
        assert alarms == pytest.approx(rates[key].false_alarms, abs=0.001)
        assert power == pytest.approx(rates[key].power, abs=0.01)


def test_a_run_at_the_baseline_is_green_at_once_and_a_bad_one_asks_for_a_second() -> None:
    assert rule.look(LEVEL, 1.0) == "green"
    assert rule.look(LEVEL, 0.9) == "green"
    assert rule.look(LEVEL, 1.03) == "unsure"
    assert rule.look(LEVEL, 1.03, 1.03) == "red"


def test_one_outlier_alone_is_no_regression_however_large() -> None:
    assert rule.look(LEVEL, 100.0) == "unsure"
    assert rule.look(LEVEL, 100.0, 1.0) == "green"


def test_a_small_baseline_asks_for_a_larger_effect() -> None:
    small = Level(location=1.0, scale=0.01, num_runs=3, degrees=2)
    assert rule.look(small, 1.03, 1.03) == "green"
    assert rule.look(small, 1.12, 1.12) == "red"
    assert rule.p_value(small, 1.03, 1.03) > rule.p_value(LEVEL, 1.03, 1.03)


def test_quantiles_are_those_of_the_tables() -> None:
    assert rule.quantile(0.05, 10) == pytest.approx(1.812, abs=5e-4)
    assert rule.quantile(0.01, 3) == pytest.approx(4.541, abs=5e-4)
    assert rule.quantile(0.25, 1) == pytest.approx(1.0, abs=1e-6)


def test_an_outlier_moves_neither_location_nor_scale_of_a_level() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.01, 12).tolist()
    with_one, without = estimate_level([*values, 3.0]), estimate_level(values)
    assert with_one == without
    assert 3.0 not in without_outliers([*values, 3.0])


def test_equal_runs_keep_a_floor_of_noise_and_one_run_is_no_level() -> None:
    level = estimate_level([0.8, 0.8, 0.8])
    assert level is not None
    assert level.scale == pytest.approx(FLOOR_FRAC * 0.8)
    assert estimate_level([0.8]) is None


def test_replicates_elsewhere_tell_of_the_scale_and_not_of_the_location() -> None:
    alone = estimate_level([1.0, 1.02])
    helped = estimate_level([1.0, 1.02], [[5.0, 5.1, 4.9], [2.0]])
    assert alone is not None
    assert helped is not None
    assert helped.location == alone.location
    assert (alone.degrees, helped.degrees) == (1, 3)
    assert helped.scale == pytest.approx(((0.0002 + 0.02) / 3) ** 0.5)
