"""Naming runs, listing them, comparing two, and the leaderboard's order."""

import json
from pathlib import Path

import pytest
from core.record.synthetic import Runs, core_files, plan_with, step_records

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.compare import compare_runs
from nanochat_core.record.leaderboard import PUBLISHED, leaderboard
from nanochat_core.record.runs import list_runs, resolve_run, show_run


def add(runs: Runs, *sets: str, core=None, **log) -> str:
    plan = plan_with(*sets)
    return runs.add(plan, step_records(plan, **log), core=core)


def test_a_run_is_named_by_id_by_unique_beginning_or_as_latest(runs: Runs) -> None:
    first, second = add(runs), add(runs, "seed=2")
    assert resolve_run(runs.store, first) == first
    assert resolve_run(runs.store, first[:-5]) == first
    assert resolve_run(runs.store, "latest") == second


def test_an_unknown_or_ambiguous_name_lists_the_near_ones(runs: Runs) -> None:
    with pytest.raises(MissingError) as empty:
        resolve_run(runs.store, "latest")
    assert "has no runs yet" in (empty.value.hint or "")
    first, second = add(runs), add(runs, "seed=2")
    with pytest.raises(MissingError) as unknown:
        resolve_run(runs.store, first[:-1] + "x")
    assert first in (unknown.value.hint or "")
    with pytest.raises(ConfigError) as many:
        resolve_run(runs.store, "tiny-")
    assert first in (many.value.hint or "")
    assert second in (many.value.hint or "")


def test_latest_is_by_time_whatever_the_preset_is_called(runs: Runs) -> None:
    record = runs.store.run(add(runs))
    for run_id in ("a-20271122-100000-0001", "z-20251122-100000-0001", "odd"):
        runs.store.put_run(run_id, {**record, "run_id": run_id})
    assert resolve_run(runs.store, "latest") == "a-20271122-100000-0001"


def test_the_list_is_newest_first_and_leaves_out_what_is_damaged(runs: Runs, tmp_path: Path) -> None:
    first, second = add(runs), add(runs, "seed=2", core=core_files(0.2))
    damaged = tmp_path / "store/runs" / f"{first[:-1]}f.json"
    damaged.write_bytes((tmp_path / "store/runs" / f"{first}.json").read_bytes()[:-9])
    found = list_runs(runs.store)
    assert [run.run_id for run in found] == [second, first]
    assert found[0].core == pytest.approx(0.2, abs=0.1)
    assert found[1].core is None
    assert (found[1].seed, found[1].depth, found[1].num_made, found[1].last_step) == (42, 2, 5, "evaluate_base")


def test_a_shown_run_has_its_clock_and_says_which_artifacts_are_gone(runs: Runs) -> None:
    run_id = add(runs)
    assert show_run(runs.store, run_id)["clock"]["clock_s"] == pytest.approx(3.0)
    runs.store.discard(runs.store.artifacts("tokens")[0])
    shown = show_run(runs.store, run_id)
    assert [line["step"] for line in shown["steps"] if not line["is_in_store"]] == ["tokens"]
    json.dumps(shown)


def test_a_comparison_tells_settings_results_and_compute_apart(runs: Runs) -> None:
    settings = ("pretrain.validate_every_steps=1",)
    a = add(runs, *settings, bits=lambda step: 1.0 + 4.0 * (2.0 * step) ** -0.3, core=core_files(0.30))
    b = add(runs, *settings, "pretrain.matrix_lr=0.1", bits=lambda step: 1.0 + 4.0 * step**-0.3, core=core_files(0.25))
    found = compare_runs(runs.store, a, b)
    assert found.settings == [("pretrain.matrix_lr", 0.32, 0.1)]
    assert found.steps["tokens"] == "same"
    assert found.steps["pretrain"] == "other"
    assert found.multiplier.value == pytest.approx(2.0, rel=1e-3)
    rows = {row.name: row for row in found.scores}
    core = rows["CORE (in part)"]
    assert core.difference == pytest.approx(core.b - core.a)
    assert core.difference_error > core.a_error
    assert rows["bits per byte"].difference > 0
    json.dumps(found.record())


def test_a_comparison_with_a_run_whose_model_is_gone_still_tells_the_rest(runs: Runs) -> None:
    a, b = add(runs), add(runs, "seed=2")
    for artifact in runs.store.artifacts("pretrain"):
        runs.store.discard(artifact)
    found = compare_runs(runs.store, a, b)
    assert found.multiplier.value is None
    assert found.settings == [("seed", 42, 2)]


def test_bits_per_byte_of_different_text_are_not_turned_into_compute(runs: Runs) -> None:
    a, b = add(runs), add(runs, "corpus.source=path", "corpus.path=/other/text")
    found = compare_runs(runs.store, a, b)
    assert found.multiplier.value is None
    assert "different text" in found.multiplier.statement


CORE = ("core.source=url",)


def test_the_leaderboard_ranks_by_clock_and_lists_the_others_below(runs: Runs, tmp_path: Path) -> None:
    whole = core_files(0.32, max_per_benchmark=None)
    fast = add(runs, *CORE, core=whole)  # three seconds
    low = add(runs, *CORE, "seed=2", core=core_files(0.05, max_per_benchmark=None))
    part = add(runs, *CORE, "seed=3", "core.max_per_benchmark=40", core=core_files(0.9))
    add(runs, "seed=4")  # no CORE: no row
    slow = add(runs, *CORE, "seed=5", core=whole, step_ms=lambda step: 3.6e6)  # thirty hours
    make_bundle(runs.store, [part], tmp_path / "b.zip", description="a part of it")
    rows = leaderboard(runs.store, [tmp_path / "b.zip"])
    assert rows[0].source == fast
    ranked = [row for row in rows if not row.lacks]
    assert [row.clock_s for row in ranked] == sorted(row.clock_s for row in ranked)
    assert [row.source for row in rows if row.lacks] == [part, str(tmp_path / "b.zip"), low]
    assert rows[-2].description == "a part of it"
    assert "below GPT-2" in rows[-1].lacks
    assert "a part of the items" in rows[-2].lacks
    assert {row.source for row in ranked} >= {fast, slow}


def test_one_model_has_one_row_however_many_runs_found_it_cached(runs: Runs) -> None:
    run_id = add(runs, *CORE, core=core_files(0.32, max_per_benchmark=None))
    runs.store.put_run("tiny-20261123-100000-0001", {**runs.store.run(run_id), "run_id": "tiny-20261123-100000-0001"})
    assert len(leaderboard(runs.store)) == len(PUBLISHED) + 1


def test_a_bundle_that_does_not_check_gets_no_row(runs: Runs, tmp_path: Path) -> None:
    make_bundle(runs.store, [add(runs)], tmp_path / "b")
    path = tmp_path / "b/record.json"
    path.write_text(path.read_text().replace('"clock_s": 3.0', '"clock_s": 2.0'))
    with pytest.raises(CorruptError, match="is refused"):
        leaderboard(runs.store, [tmp_path / "b"])


def test_the_published_rows_are_seven_by_time_and_each_has_a_source() -> None:
    rows = leaderboard(None)
    assert [round(row.clock_s / 3600, 2) for row in rows] == [1.65, 1.80, 2.02, 2.76, 2.91, 3.04, 168.0]
    assert all(row.source.startswith("https://github.com/karpathy/nanochat/") for row in rows)
    assert all(row.core >= 0.2565 for row in rows)
