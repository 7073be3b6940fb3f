"""Plans side by side, as a table and as JSON."""

import json
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.cli.plan_compare import parse_depths, parse_flops, print_comparison
from nanochat_core.plan import estimate, plan_run
from nanochat_core.presets import load_config
from nanochat_core.sweep.cells import last_step


def test_json_has_the_numbers_of_each_depths_own_plan(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison("gpt2", ["runtime.gpu=H200"], "24,12", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [cell["name"] for cell in told["cells"]] == ["d12", "d24"]
    for depth, cell in zip((12, 24), told["cells"], strict=True):
        plan = plan_run(load_config("gpt2", ["runtime.gpu=H200", f"pretrain.depth={depth}"]))
        assert cell["flops"] == plan.pretrain.total_flops
        assert cell["usd"] == estimate(plan).usd
        assert "pretrain" in cell["steps_to_run"]
        assert cell["steps_to_run"][-1] == last_step(plan)
        assert not cell["is_trained"]
    assert told["total"]["usd_to_pay"] == told["total"]["usd"] == sum(cell["usd"] for cell in told["cells"])


def test_no_number_of_the_table_is_cut_in_a_pipe(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison("gpt2", [], "12,16,20,24", as_json=False)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("d")] == ["d12", "d16", "d20", "d24"]
    assert "8 x H100" in shown


def test_a_list_that_is_none_is_named() -> None:
    assert parse_depths("12,16") == [12, 16]
    assert parse_flops("1e18,2.5e18") == [1e18, 2.5e18]
    with pytest.raises(ConfigError, match="12;16"):
        parse_depths("12;16")
    with pytest.raises(ConfigError, match="many"):
        parse_flops("many")
