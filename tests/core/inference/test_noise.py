"""Random numbers by counting: the published SplitMix64 outputs, and even ones for seeds that are neighbours."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.noise import splitmix64, uniform

PUBLISHED = [
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
]  # fmt: skip  # seed 1234567, as in the reference implementation's own check


def test_the_stream_is_splitmix64():
    assert [splitmix64(1234567, number) for number in range(5)] == PUBLISHED


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**20))
def test_a_number_is_from_0_up_to_but_not_1_and_depends_on_nothing_else(seed, number):
    assert 0 <= uniform(seed, number) < 1
    assert uniform(seed, number) == uniform(seed, number)


def test_numbers_are_even_along_a_stream_and_across_seeds():
    along = [uniform(7, number) for number in range(10_000)]
    across = [uniform(seed, 0) for seed in range(10_000)]
    apart = [uniform(seed, 0) - uniform(seed + 1, 1) for seed in range(10_000)]  # neighbours share no outputs
    for numbers in (along, across):
        counts = [sum(first / 20 <= value < (first + 1) / 20 for value in numbers) for first in range(20)]
        assert sum((count - 500) ** 2 / 500 for count in counts) < 43.8  # chi square, 19 degrees, 1 in 1,000
        mean = sum(numbers) / len(numbers)
        following = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(numbers)) / 10_000
        assert abs(following * 12) < 4 / 100  # the autocorrelation; its deviation is 1 / 100
    assert sum(value == 0 for value in apart) == 0
