"""The compute multiplier on curves whose true multiplier is known."""

import pytest

from nanochat_core.record.multiplier import compute_multiplier


def curve(scale=1.0, points=12, top=1e18):
    """bits per byte = 0.6 + 4 (C x scale)^-0.1: `scale` times the compute's worth."""
    flops = [top * (n + 1) / points for n in range(points)]
    return [(c, 0.6 + 4.0 * (c * scale) ** -0.1) for c in flops]


@pytest.mark.parametrize("scale", [1.05, 1.5, 3.0])
def test_a_run_that_makes_more_of_its_compute_has_that_multiplier(scale):
    found = compute_multiplier(curve(scale), curve())
    assert found.value == pytest.approx(scale, rel=2e-3)  # the straight line between two validations is no curve
    assert found.low < found.value < found.high
    assert not found.is_bound
    other = compute_multiplier(curve(), curve(scale))
    assert other.value == pytest.approx(1 / scale, rel=2e-3)
    assert other.low == pytest.approx(1 / found.high, rel=2e-2)


def test_a_run_against_itself_is_one_and_the_interval_holds_it():
    found = compute_multiplier(curve(), curve())
    assert found.value == pytest.approx(1)
    assert found.low < 1 < found.high


def test_more_noise_between_seeds_widens_the_interval():
    narrow = compute_multiplier(curve(1.5), curve(), noise_frac=1e-5)
    wide = compute_multiplier(curve(1.5), curve(), noise_frac=1e-3)
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)


def test_the_same_seed_gives_the_same_interval():
    assert compute_multiplier(curve(1.5), curve()) == compute_multiplier(curve(1.5), curve())


def test_the_curve_that_goes_on_longer_is_not_better_for_it():
    longer = curve(1.0, points=24, top=2e18)
    assert compute_multiplier(longer, curve()).value == pytest.approx(1, rel=1e-3)


def test_a_run_that_began_below_the_other_gets_a_bound_and_no_interval():
    found = compute_multiplier(curve(1e6), curve())
    assert found.is_bound
    assert found.low is None
    assert found.value == pytest.approx(12)
    assert "bound" in found.statement


def test_one_validation_is_not_enough_and_none_is_said_so():
    assert compute_multiplier(curve(2.0)[-1:], curve()).value is None
    assert "only once" in compute_multiplier(curve(2.0)[-1:], curve()).statement
    assert "no validation" in compute_multiplier([], curve()).statement


def test_a_noisy_curve_counts_where_it_first_gets_there():
    bumpy = [(1.0, 3.0), (2.0, 2.0), (4.0, 2.2), (8.0, 1.5)]
    flat = [(1.0, 3.0), (10.0, 2.0)]
    assert compute_multiplier(bumpy, flat).value == pytest.approx(5)
