"""Draws of several sources: shares by weight, whole epochs, and the same batches whenever they are asked for."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from nanochat_core.base.errors import MissingError
from nanochat_core.data.draws import MixOrder, in_turn, mix_order, shared_out

WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 50), min_size=1)
ROWS = {"docs": 7, "own": 3, "web": 40}
TWO_PHASES = [
    {"num_steps": 5, "weights": {"docs": 2, "own": 1, "web": 1}},
    {"num_steps": 4, "weights": {"own": 1, "web": 3}},
]


def order(seed: int = 1, *, rows: dict[str, int] = ROWS, phases: list[dict] = TWO_PHASES, **caps: int) -> MixOrder:
    mix = {"phases": phases, "max_tokens": caps}
    return mix_order(rows, row_tokens=10, total_batch_rows=8, seed=seed, mix=mix)


def source_of(row: int) -> str:
    return "docs" if row < 7 else "own" if row < 10 else "web"


@given(st.integers(0, 10_000), WEIGHTS)
def test_draws_are_shared_out_by_weight_and_none_is_taken_back(draws, weights):
    now, then = shared_out(draws, weights), shared_out(draws + 1, weights)
    assert sum(now.values()) == draws
    assert all(
        abs(now[name] - draws * weight / sum(weights.values())) <= len(weights) for name, weight in weights.items()
    )
    assert sorted(then[name] - now[name] for name in weights) == [0] * (len(weights) - 1) + [1]


def test_every_batch_is_the_mix():
    drawn = order()
    for step in range(9):
        found = Counter(map(source_of, drawn.rows_at(step).tolist()))
        assert found == ({"docs": 4, "own": 2, "web": 2} if step < 5 else {"own": 2, "web": 6})


def test_what_is_told_to_be_taken_is_what_is_taken():
    drawn, rows = order(), []
    for step in range(12):
        found = Counter(map(source_of, rows))
        assert drawn.taken(step) == {name: found[name] for name in ROWS}
        rows += drawn.rows_at(step).tolist()


def test_a_source_goes_through_all_of_its_rows_before_any_comes_again_also_from_phase_to_phase():
    drawn, own = order(), []
    for step in range(9):
        own += [row for row in drawn.rows_at(step).tolist() if source_of(row) == "own"]
    assert len(own) == 18
    assert Counter(own) == {7: 6, 8: 6, 9: 6}


def test_a_batch_is_a_function_of_rows_seed_and_step():
    drawn, again = order(), order()
    assert all((drawn.rows_at(step) == again.rows_at(step)).all() for step in (8, 0, 4, 4))
    assert (order(2).rows_at(0) != drawn.rows_at(0)).any()
    kept = [row for row in order(rows={**ROWS, "zoo": 9}).rows_at(3).tolist() if source_of(row) != "web"]
    assert kept == [row for row in drawn.rows_at(3).tolist() if source_of(row) != "web"], (
        "another source's order changed"
    )


def test_a_cap_leaves_the_rows_beyond_it():
    drawn = order(web=120)
    rows = {row for step in range(9) for row in drawn.rows_at(step).tolist() if source_of(row) == "web"}
    assert rows == set(range(10, 22))
    with pytest.raises(MissingError, match="web has no row"):
        order(web=9)


@example({"a": 3, "b": 1, "c": 4}, 7)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30), min_size=1), st.integers(0, 60))
def test_held_out_rows_are_taken_in_turn(rows, most):
    found = in_turn(rows, most)
    assert sum(found.values()) == min(most, sum(rows.values()))
    assert all(found[name] <= rows[name] for name in rows)
    short = [found[name] for name in rows if found[name] < rows[name]]
    assert max(found.values()) <= max(short, default=60) + 1


def test_rows_of_a_step_are_numbers_of_rows():
    rows = order().rows_at(0)
    assert rows.dtype == np.int64
    assert rows.shape == (8,)
