"""How far a share that was counted may be from the true one: 95% intervals.

Wilson's score interval (1927), not the textbook one: it stays inside of 0..1, and has a width where all answers are
right or none, which says how little a few answers tell.
"""

import math

Z_95 = 1.959964  # two-sided 95% of a normal distribution


def wilson_interval(share: float, num_items: int) -> tuple[float, float]:
    """The interval of a share of `num_items` things. With several samples of each it is a little too wide."""
    square = Z_95**2 / num_items
    middle = (share + square / 2) / (1 + square)
    spread = max(0.0, share * (1 - share)) / num_items + square / (4 * num_items)
    half = Z_95 * math.sqrt(spread) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
