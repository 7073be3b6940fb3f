"""Numbers as people read them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat_core.base.units import count, dollars, duration, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999, "999"), (1000, "1K"), (999_499, "999K"), (999_500, "1M"),
     (12_345_678, "12.3M"), (2.5e9, "2.5B"), (1e15, "1P"), (3e18, "3E"),
     (-1500, "-1.5K"), (0.5, "0.5")],
)  # fmt: skip
def test_counts(value, shown):
    assert count(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (42, "42 s"), (61, "1 min 01 s"), (245, "4 min 05 s"), (3600, "1 h 00 min"),
     (11_520, "3 h 12 min")],
)  # fmt: skip
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("num_bytes", "shown"), [(0, "0 B"), (512, "512 B"), (1024, "1.0 KiB"), (12.3 * 2**20, "12.3 MiB")]
)
def test_sizes(num_bytes, shown):
    assert size(num_bytes) == shown


@pytest.mark.parametrize(
    ("usd", "shown"), [(0, "$0.00"), (12.4, "$12.40"), (1234.5, "$1,234.50"), (0.001, "less than $0.01")]
)
def test_prices(usd, shown):
    assert dollars(usd) == shown


def _seconds(text):
    parts = text.split()
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))


@given(st.floats(0, 1e6))
@example(10.5)
def test_a_duration_reads_back_as_what_it_was(seconds):
    rounded_s = 0.06 if seconds < 10 else 0.51  # to tenths, then to whole seconds
    assert _seconds(duration(seconds)) == pytest.approx(seconds, rel=0.02, abs=rounded_s)


@given(st.floats(0, 1e6))
def test_no_duration_has_sixty_seconds_or_minutes(seconds):
    assert "60 s" not in duration(seconds)
    assert "60 min" not in duration(seconds)


@given(st.floats(1000, 1e19))
def test_a_count_reads_back_as_what_it_was(value):
    shown = count(value)
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}[shown[-1]]
    assert float(shown[:-1]) * factor == pytest.approx(value, rel=0.006)
    assert "e" not in shown
