"""The cells of a sweep: planned by the plan's own rules, at exactly the budget's tokens."""

import math
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.sweep.cells import budget_name, last_step, plan_miniseries, plan_scaling_laws


def test_a_miniseries_cell_is_the_plan_of_its_depth() -> None:
    sweep = plan_miniseries("d12", depths=[20, 12])
    assert [cell.name for cell in sweep.cells] == ["d12", "d20"]
    for cell in sweep.cells:
        alone = plan_run(load_config("d12", [f"pretrain.depth={cell.depth}"]))
        assert cell.plan == alone


def test_depths_by_default_fit_the_hardware() -> None:
    assert [cell.depth for cell in plan_miniseries("gpt2").cells] == [12, 14, 16, 18, 20, 22, 24, 26]
    assert [cell.depth for cell in plan_miniseries("series").cells] == [2, 3, 4]


def test_width_follows_depth_in_the_series_preset() -> None:
    assert [cell.plan.pretrain.model.n_embd for cell in plan_miniseries("series").cells] == [128, 192, 256]
    assert plan_miniseries("series").notes == ()
    [note] = plan_miniseries("tiny", depths=[2, 3]).notes
    assert "n_embd=none" in note


def test_cells_of_a_series_share_everything_before_the_training() -> None:
    from nanochat_core.pipeline.table import STEPS

    plans = [cell.plan for cell in plan_miniseries("series").cells]
    for step in ("tokenizer", "tokens", "evaluate_base"):
        assert all(STEPS[step].settings(plan) == STEPS[step].settings(plans[0]) for plan in plans)
    assert len({str(STEPS["pretrain"].settings(plan)) for plan in plans}) == len(plans)


@pytest.mark.parametrize("preset", ["series", "d12"])
def test_an_iso_flop_cell_uses_its_budget_up_to_a_step(preset: str) -> None:
    budgets = [1e12, 4e12] if preset == "series" else [1e18, 4e18]
    sweep = plan_scaling_laws(preset, budgets=budgets, depths=[2, 3, 4] if preset == "series" else [8, 12, 16])
    assert len(sweep.cells) + len(sweep.left_out) == 6
    for cell in sweep.cells:
        derived = cell.plan.pretrain
        step = derived.flops_per_token * derived.total_batch_tokens
        assert cell.budget_flops is not None
        assert cell.budget_flops - step < derived.total_flops <= cell.budget_flops


def test_an_iso_flop_cell_at_the_presets_own_length_is_the_presets_own_plan() -> None:
    own = plan_run(load_config("d12"))
    [cell] = plan_scaling_laws(
        "d12", budgets=[own.pretrain.flops_per_token * own.pretrain.target_tokens], depths=[12]
    ).cells
    same, derived = own.pretrain, cell.plan.pretrain
    assert (derived.num_steps, derived.total_batch_tokens) == (same.num_steps, same.total_batch_tokens)
    assert derived.weight_decay == pytest.approx(same.weight_decay, rel=1e-5)


def test_batch_and_decay_of_cells_follow_the_tokens_they_see() -> None:
    sweep = plan_scaling_laws("d12", ["pretrain.max_weight_decay=1000"], budgets=[1e18, 1e19], depths=[12])
    own = plan_run(load_config("d12")).pretrain
    for cell in sweep.cells:
        derived = cell.plan.pretrain
        ratio = derived.target_tokens / own.target_tokens
        batch = 2 ** round(math.log2(own.total_batch_tokens * ratio**0.383))
        assert derived.total_batch_tokens == batch
        expected = own.weight_decay * math.sqrt(batch / own.total_batch_tokens) / ratio
        assert derived.weight_decay == pytest.approx(expected, rel=1e-5)


def test_cells_that_are_too_short_are_left_out_with_the_reason() -> None:
    sweep = plan_scaling_laws("series", budgets=[1e11, 4e12], depths=[2, 4])
    assert [cell.name for cell in sweep.cells] == ["d2@4e12", "d4@4e12"]
    assert [cell.name for cell in sweep.left_out] == ["d2@1e11", "d4@1e11"]
    assert "too large for the budget" in sweep.left_out[1].reason
    assert "steps of 2,048, fewer than 20" in sweep.left_out[1].reason
    with pytest.raises(ConfigError, match="no cell"):
        plan_scaling_laws("series", budgets=[1e9], depths=[2])


def test_every_cell_can_be_planned_from_its_settings_alone() -> None:
    for cell in plan_scaling_laws("series", budgets=[1e12], depths=[2, 3]).cells:
        assert plan_run(load_config("series", cell.overrides)) == cell.plan


def test_what_no_depth_can_mend_is_an_error() -> None:
    with pytest.raises(ConfigError, match="depth = 0"):
        plan_miniseries("series", depths=[0, 2])
    with pytest.raises(ConfigError, match="depth = 300"):
        plan_scaling_laws("series", budgets=[1e12], depths=[300])
    with pytest.raises(ConfigError, match="budget"):
        plan_scaling_laws("series", budgets=[-1.0], depths=[2])
    with pytest.raises(ConfigError, match="parallel 0"):
        plan_miniseries("series", depths=[2], parallel=0)


def test_trainings_at_once_share_the_cores_and_nothing_else_changes() -> None:
    alone, shared = plan_miniseries("series").cells[0], plan_miniseries("series", parallel=2).cells[0]
    assert shared.plan.pretrain == alone.plan.pretrain
    assert shared.plan.config.runtime.num_threads is not None
    assert plan_miniseries("d12", parallel=2).cells[0].plan.config.runtime.num_threads is None


def test_a_cell_ends_with_the_base_models_evaluation(tmp_path: Path) -> None:
    plan = plan_miniseries("series").cells[0].plan
    assert last_step(plan) == "evaluate_base"
    with_core = plan_run(load_config("series", ["core.source=path", f"core.path={tmp_path}"]))
    assert last_step(with_core) == "evaluate_core"


@pytest.mark.parametrize(("flops", "name"), [(1e18, "1e18"), (2.15e18, "2.15e18"), (3e12, "3e12"), (500.0, "5e2")])
def test_budgets_are_named_as_they_are_typed(flops: float, name: str) -> None:
    assert budget_name(flops) == name
    assert float(name) == flops
