"""Sums for practice: right, seeded, and never the held-out ones."""

from nanochat_core.data.arithmetic import is_held_out, sums
from nanochat_core.inference.calculator import calculate


def expression(question: str) -> str:
    for frame in ("What is ", "How much is ", "Calculate ", " = ?", "?", "."):
        question = question.replace(frame, "")
    return question


def test_every_expected_answer_is_the_sums_value():
    for question, expected in sums("train", count=300, seed=1):
        assert calculate(expression(question)) == expected


def test_the_same_seed_gives_the_same_sums_and_another_one_others():
    assert sums("train", count=50, seed=1) == sums("train", count=50, seed=1)
    assert sums("train", count=50, seed=1) != sums("train", count=50, seed=2)


def test_no_held_out_sum_is_practised_whatever_the_seed():
    practised = {expression(question) for seed in range(5) for question, _ in sums("train", count=400, seed=seed)}
    held_out = {expression(question) for seed in range(5) for question, _ in sums("held_out", count=200, seed=seed)}
    assert not practised & held_out
    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, practised))


def test_a_sum_has_three_numbers_so_none_is_among_the_fine_tuning_examples():
    assert all(len(expression(question).split()) == 5 for question, _ in sums("train", count=100, seed=0))
