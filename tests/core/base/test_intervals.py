"""Wilson's interval by its definition, and by known values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.intervals import wilson_interval


def test_wilson_has_a_width_where_all_answers_agree():
    assert wilson_interval(0.0, 32) == pytest.approx((0.0, 0.1071795), abs=1e-6)
    assert wilson_interval(1.0, 32) == pytest.approx((0.8928205, 1.0), abs=1e-6)
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038315, 0.5961685), abs=1e-6)


@given(st.integers(1, 400), st.data())
def test_the_interval_ends_where_the_accuracy_is_196_errors_away(num_items, data):
    """Wilson's definition: the error is that of the bound, not that of the accuracy."""
    accuracy = data.draw(st.integers(0, num_items)) / num_items
    for bound in wilson_interval(accuracy, num_items):
        error = math.sqrt(bound * (1 - bound) / num_items)
        assert abs(accuracy - bound) == pytest.approx(1.959964 * error, abs=1e-6)


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_the_interval_holds_the_accuracy_and_stays_inside(accuracy, num_items):
    low, high = wilson_interval(accuracy, num_items)
    assert 0 <= low <= accuracy + 1e-12
    assert accuracy - 1e-12 <= high <= 1
