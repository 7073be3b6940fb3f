"""Reinforcement learning in the report: before and after, and the model that practised is the one that is shown."""

import json
import math
import shutil
from pathlib import Path

import pytest

from nanochat_core.report import outline, page
from nanochat_core.report.figures import draw_figures
from nanochat_core.report.rl_figures import rl_charts, rl_numbers, rl_times
from nanochat_core.report.training_figures import TrainingLog


def records(num_steps: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [{"event": "start", "step": 0, "num_steps": num_steps, "world_size": 1}]
    for step in range(num_steps + 1):
        reward = 0.25 + 0.5 * step / num_steps
        if step:
            found.append(
                {
                    "event": "step", "step": step, "loss": -0.01, "smooth_loss": -0.01, "lr_multiplier": 0.1,
                    "step_ms": 900.0, "tokens_per_s": 3000.0, "tokens": step * 2700, "train_s": 0.9 * step,
                    "memory_gib": 0.5, "reward": reward + 0.1 * math.sin(step), "pass_rate": 0.9, "useful_frac": 0.7,
                    "entropy": 0.05, "kl": 0.002 * step, "answer_tokens": 20.0 + step, "rollout_s": 0.6, "learn_s": 0.3,
                }
            )  # fmt: skip
        if step in (0, num_steps):
            found.append(
                {
                    "event": "validate", "step": step, "held_out_reward": reward, "standard_error": 0.03,
                    "pass_at_1": reward, "pass_at_2": reward + 0.1, "pass_at_16": reward + 0.2, "validate_s": 2.0,
                }
            )  # fmt: skip
    return found


@pytest.fixture
def log(tmp_path: Path) -> TrainingLog:
    path = tmp_path / "rl/log/metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records(24)))
    return TrainingLog.read(tmp_path / "rl")


def test_the_numbers_are_those_before_and_after(log):
    numbers = rl_numbers(log)
    assert numbers["before"] == {"held_out_reward": 0.25, "standard_error": 0.03}
    assert numbers["after"] == {"held_out_reward": 0.75, "standard_error": 0.03}
    assert [k for k, _, _ in numbers["pass_at"]] == ["1", "2", "16"]
    assert numbers["kl"] == pytest.approx(0.002 * (23 + 24) / 2)
    assert rl_times(log)["rollout_s"] == pytest.approx(24 * 0.6)
    assert len(rl_charts(log)) == 2


def test_without_practice_there_is_nothing():
    assert rl_numbers(None) is None
    assert rl_charts(None) == []
    assert rl_numbers(TrainingLog([], [], [])) is None


def test_the_page_shows_what_practice_changed_and_the_model_that_practised(folders, log, tmp_path):
    evaluated = shutil.copytree(folders["evaluate_chat"], tmp_path / "evaluate_rl")
    (evaluated / "bpb.json").write_text(json.dumps({"bits_per_byte": 2.3, "num_tokens": 330}))
    out = tmp_path / "drawn"
    out.mkdir()
    draw_figures({**folders, "rl": tmp_path / "rl", "evaluate_rl": evaluated}, out)
    report = json.loads((out / "report.json").read_text())
    assert report["chat"]["bits_per_byte"] == 2.3
    assert report["rl"]["after"]["held_out_reward"] == 0.75
    drawn = {figure["file"] for figure in report["figures"] if figure["section"] == "rl"}
    assert drawn == {"rl_reward.svg", "rl_drift.svg"}
    assert not (out / "rl_loss.svg").exists()


def test_the_section_of_the_page(log, monkeypatch):
    monkeypatch.setattr(page, "TEMPLATE_NAME", "page_rl.html")  # this part of the page alone
    html = " ".join(page.render({"rl": {**rl_numbers(log), **rl_times(log)}, "figures": {"rl": []}}).split())
    assert "25.0% → 75.0%" in html
    assert '<td class="name">pass@16</td><td class="num">45.0%</td>' in html
    assert page.render({"rl": None, "figures": {"rl": []}}).strip() == ""


def test_the_questions_of_the_headline_are_the_last_models(ref, plan):
    scores = {"arithmetic": {"accuracy": 0.5, "standard_error": 0.05, "num_right": 50, "num_asked": 100}}
    refs = [ref("evaluate_chat"), ref("evaluate_rl", metrics={"bits_per_byte": 2.2, "benchmarks": scores})]
    assert [row.accuracy for row in outline.benchmark_rows(refs)] == ["50.0%"]
    assert "2.2000" in [number.value for number in outline.headline_numbers(plan, refs)]
    assert len(outline.benchmark_rows(refs[:1])) == 2
