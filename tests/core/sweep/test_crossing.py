"""Where a series passes GPT-2's CORE."""

import pytest

from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.sweep.crossing import Measured, find_crossing


def model(name: str, core: float, flops: float) -> Measured:
    return Measured(name=name, core=core, flops=flops, hours=flops / 1e19, usd=flops / 1e18)


def test_the_crossing_is_interpolated_in_log_flops() -> None:
    series = [model("d24", GPT2_CORE + 0.01, 4e19), model("d20", GPT2_CORE - 0.01, 1e19)]
    found = find_crossing(series)
    assert found is not None
    assert (found.below, found.above) == ("d20", "d24")
    assert found.flops == pytest.approx(2e19)
    assert found.hours == pytest.approx(2.0)
    assert found.usd == pytest.approx(20.0)


def test_a_model_on_the_line_reaches_it() -> None:
    found = find_crossing([model("d20", 0.2, 1e19), model("d22", GPT2_CORE, 2e19)])
    assert found is not None
    assert found.flops == pytest.approx(2e19)


@pytest.mark.parametrize("scores", [(0.1, 0.2), (0.3, 0.4), (0.2,), ()])
def test_nothing_is_extrapolated(scores: tuple[float, ...]) -> None:
    assert find_crossing([model(f"d{k}", score, 10.0**k) for k, score in enumerate(scores)]) is None


def test_a_series_that_costs_nothing_has_a_crossing_too() -> None:
    free = [Measured(name=f"d{k}", core=0.2 + 0.1 * k, flops=10.0**k, hours=k, usd=0.0) for k in (0, 1)]
    found = find_crossing(free)
    assert found is not None
    assert found.usd == 0.0
