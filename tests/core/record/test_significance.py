"""Student's t against tables and closed forms, and what the tests say of made-up seeds."""

import math

import pytest

from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.record.significance import above, below, incomplete_beta, student_t_tail


@pytest.mark.parametrize(
    ("degrees", "t", "tail"),
    [  # the one-sided columns of the usual printed table
        (1, 6.313752, 0.05),
        (2, 2.919986, 0.05),
        (4, 3.746947, 0.01),
        (9, 1.833113, 0.05),
        (30, 2.457262, 0.01),
        (120, 1.657651, 0.05),
        (5, 4.032143, 0.005),
    ],
)
def test_the_tail_of_student_t_is_that_of_the_tables(degrees, t, tail):
    assert student_t_tail(t, degrees) == pytest.approx(tail, rel=1e-5)
    assert student_t_tail(-t, degrees) == pytest.approx(1 - tail, rel=1e-6)


@pytest.mark.parametrize("t", [-40.0, -3.0, -0.1, 0.0, 0.7, 2.0, 25.0])
def test_one_and_two_degrees_have_their_closed_forms(t):
    assert student_t_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-12)
    assert student_t_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


def test_many_degrees_become_the_normal_distribution():
    assert student_t_tail(1.5, 1e7) == pytest.approx(0.5 * math.erfc(1.5 / math.sqrt(2)), rel=1e-5)


def test_the_incomplete_beta_function_is_the_binomial_tail():
    # I_x(k, n - k + 1) = P(at least k of n), here n = 7, k = 3, x = 0.3
    tail = sum(math.comb(7, k) * 0.3**k * 0.7 ** (7 - k) for k in range(3, 8))
    assert incomplete_beta(3, 5, 0.3) == pytest.approx(tail, rel=1e-12)
    assert (incomplete_beta(2, 3, 0.0), incomplete_beta(2, 3, 1.0)) == (0.0, 1.0)


def test_five_seeds_above_gpt2_by_hand():
    # mean 0.26, sd 0.00158114, t = (0.26 - 0.256525) / (0.00158114 / sqrt 5) = 4.9144, 4 degrees
    test = above([0.258, 0.259, 0.260, 0.261, 0.262], GPT2_CORE)
    assert test.mean == pytest.approx(0.26)
    assert test.standard_deviation == pytest.approx(0.00158114, rel=1e-5)
    assert test.p_value == pytest.approx(0.0039776, rel=1e-3)


def test_one_run_goes_by_its_own_standard_error():
    assert above([GPT2_CORE], GPT2_CORE, standard_error=0.005).p_value == pytest.approx(0.5)
    assert above([GPT2_CORE + 0.01645], GPT2_CORE, standard_error=0.01).p_value == pytest.approx(0.05, rel=1e-2)
    assert above([0.3], GPT2_CORE).p_value is None


def test_below_is_above_in_the_mirror():
    test = below([0.717, 0.718, 0.716], 0.72)
    assert test.mean == pytest.approx(0.717)
    assert test.p_value == pytest.approx(above([-0.717, -0.718, -0.716], -0.72).p_value)
    assert test.p_value < 0.02
    assert below([0.73, 0.731], 0.72).p_value > 0.9


def test_equal_values_give_no_p_value():
    assert above([0.3, 0.3], GPT2_CORE).p_value is None
