"""Scores: against the definitions, by brute force where there is one."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.evals.benchmarks.registry import BENCHMARKS
from nanochat_core.evals.benchmarks.scoring import (
    chat_core,
    pass_at_k,
    pass_at_ks,
    score,
    standard_error,
)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_answer(num_samples, data):
    num_right = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    answers = [True] * num_right + [False] * (num_samples - num_right)
    draws = list(itertools.combinations(answers, k))
    assert pass_at_k(num_samples, num_right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_is_given_for_powers_of_two_and_all_samples():
    marks = [[True, False, False, False, False, False], [False] * 6]
    found = pass_at_ks(marks)
    assert list(found) == ["1", "2", "4", "6"]
    assert found["1"] == pytest.approx(1 / 12)
    assert found["6"] == 0.5
    assert list(pass_at_ks([[True] * 4])) == ["1", "2", "4"]


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_one_sample_per_item_gives_the_binomial_error(marks):
    p = sum(marks) / len(marks)
    assert standard_error([[mark] for mark in marks]) == pytest.approx(math.sqrt(p * (1 - p) / len(marks)), abs=1e-9)


def test_samples_of_one_item_are_no_independent_draws():
    assert standard_error([[True] * 8, [False] * 8]) == standard_error([[True], [False]])


def test_a_score_says_all_that_the_report_shows():
    result = score(BENCHMARKS["gsm8k"], [[True, False], [False, False]], num_too_long=1, is_limited=True)
    assert result["accuracy"] == 0.25
    assert (result["num_right"], result["num_asked"], result["num_too_long"]) == (1, 4, 1)
    assert result["pass_at_k"] == {"1": 0.25, "2": 0.5}
    choice = score(BENCHMARKS["mmlu"], [[True], [False]], num_too_long=0, is_limited=False)
    assert choice["centered"] == pytest.approx((0.5 - 0.25) / 0.75)
    assert choice["pass_at_k"] is None
    assert set(choice) == set(result) == {
        "title", "kind", "accuracy", "standard_error", "interval_95", "baseline", "centered", "num_right",
        "num_asked", "num_too_long", "pass_at_k", "is_limited",
    }  # fmt: skip


def test_chat_core_is_0_for_guessing_and_1_for_perfection():
    def scores(*accuracies):
        marks = [[[i < a * 4] for i in range(4)] for a in accuracies]
        return {name: score(BENCHMARKS[name], m, num_too_long=0, is_limited=False)
                for name, m in zip(("mmlu", "gsm8k"), marks, strict=True)}  # fmt: skip

    assert chat_core(scores(0.25, 0.0))[0] == 0
    assert chat_core(scores(1.0, 1.0)) == (1.0, 0.0)
    value, error = chat_core(scores(0.25, 0.5))
    assert value == 0.25
    assert error == pytest.approx(math.sqrt((0.25 * 0.75 / 4) / 0.75**2 + 0.5 * 0.5 / 4) / 2)
    assert chat_core({}) == (None, None)
