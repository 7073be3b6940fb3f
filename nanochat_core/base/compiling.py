"""What compiling added to the first steps of a training, which nothing else says: seconds far above the usual step."""

import statistics
from collections.abc import Sequence

COMPILING_STEPS = 5  # of an attempt: later ones that are slow have other reasons
COMPILING_FACTOR = 1.5  # times the usual step; a step's ordinary wobble stays below


def compiling_s(steps_s: Sequence[float]) -> list[float]:
    """For each of the first steps the seconds beyond a usual one, 0 if it was usual; empty where too few are known."""
    if len(steps_s) <= COMPILING_STEPS:
        return []
    usual_s = statistics.median(steps_s)
    return [one_s - usual_s if one_s > COMPILING_FACTOR * usual_s else 0.0 for one_s in steps_s[:COMPILING_STEPS]]
