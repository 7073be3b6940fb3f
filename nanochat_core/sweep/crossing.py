"""Where a series of models reaches GPT-2: interpolated between the two depths around it, never extrapolated.

GPT-2 (1.6B) scores CORE 0.256525 by the DCLM paper's 22 benchmarks (arXiv 2406.11794), measured by nanochat on OpenAI's
weights. CORE grows about linearly with the log of compute over a factor of two, so the crossing is interpolated there.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat_core.evals.core.gpt2 import GPT2_CORE


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model of the series: its score, and what it took."""

    name: str
    core: float
    flops: float
    hours: float
    usd: float


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The first place where the series goes from below the line to above it."""

    below: str
    above: str
    flops: float
    hours: float
    usd: float


def find_crossing(series: Sequence[Measured], line: float = GPT2_CORE) -> Crossing | None:
    """The crossing between neighbours by compute; None when the line is not reached, or every model is above it."""
    ordered = sorted(series, key=lambda model: model.flops)
    for low, high in itertools.pairwise(ordered):
        if low.core < line <= high.core:
            share = (line - low.core) / (high.core - low.core)
            return Crossing(
                below=low.name,
                above=high.name,
                flops=_between(low.flops, high.flops, share),
                hours=_between(low.hours, high.hours, share),
                usd=_between(low.usd, high.usd, share),
            )
    return None


def _between(low: float, high: float, share: float) -> float:
    """On a log scale where there is one; a CPU costs nothing, and has none."""
    if low <= 0 or high <= 0:
        return low + share * (high - low)
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
