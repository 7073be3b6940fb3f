"""What is in a step's key and what is not, read from the real table of steps."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanochat_core import workspace
from nanochat_core.base.errors import CorruptError
from nanochat_core.base.fingerprint import function_code
from nanochat_core.cli.chat import open_chat
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import sft


def keys(plan: RunPlan) -> dict[str, object]:
    return {name: step.settings(plan) for name, step in STEPS.items()}


def changed(sets: list[str], *more: str) -> list[str]:
    """Steps whose own settings differ when `more` is set."""
    before, after = keys(plan_run(load_config("tiny", sets))), keys(plan_run(load_config("tiny", [*sets, *more])))
    return [name for name in STEPS if before[name] != after[name]]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("runtime.device_batch_rows=2", []),
        ("runtime.num_processes=2", []),
        ("runtime.checkpoint_every_s=99", []),
        ("tokenizer.vocab_size=600", ["tokenizer", "pretrain", "sft", "rl"]),
        ("tokens.long_documents=crop", ["tokens"]),
        ("pretrain.matrix_lr=0.01", ["pretrain", "sft", "rl"]),
        ("pretrain.max_tokens=5120", ["pretrain"]),
        ("sft.epochs=3", ["sft"]),
        ("sft.num_arithmetic=77", ["conversations"]),
        ("evaluate.sample_tokens=9", ["evaluate_base", "evaluate_chat", "evaluate_rl"]),
        ("rl.lr_frac=0.3", ["rl"]),
        ("rl.samples_per_question=4", ["rl"]),
        ("rl.held_out_questions=7", ["rl_questions", "rl"]),
        ("rl.num_questions=99", ["rl_questions"]),
        ("rl.enabled=true", []),
        ("evaluate.num_questions=5", ["conversations"]),
        (
            "seed=7",
            [
                "benchmarks",
                "pretrain",
                "benchmark_base",
                "conversations",
                "sft",
                "benchmark_chat",
                "rl_questions",
                "rl",
                "benchmark_rl",
            ],
        ),
        ("core.max_per_benchmark=5", ["core_prompts"]),
        ("core.url=https://example.org/bundle.zip", ["core_bundle"]),
        ("benchmarks.max_per_benchmark=5", ["benchmarks"]),
        ("benchmarks.num_samples=4", ["benchmark_base", "benchmark_chat", "benchmark_rl"]),
        ("runtime.eval_batch_tokens=64", []),
    ],
)
def test_a_setting_is_in_the_keys_of_the_steps_that_read_it(
    setting: str, expected: list[str], micro_sets: list[str]
) -> None:
    assert changed(micro_sets, setting) == expected


def test_the_rule_that_turns_rows_into_steps_is_in_the_key(
    micro_plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sft.settings(micro_plan)
    real = sft.train_settings
    monkeypatch.setattr(sft, "train_settings", lambda plan, *, num_rows: _tripled(real(plan, num_rows=num_rows)))
    assert sft.settings(micro_plan) != before


def _tripled(settings):
    return replace(settings, schedule=replace(settings.schedule, num_steps=3 * settings.schedule.num_steps))


def test_an_edit_in_one_body_concerns_that_step_only() -> None:
    code = {name: function_code(step.body) for name, step in STEPS.items()}
    assert len({tuple(value.items()) for value in code.values()}) == len(STEPS)
    assert function_code(STEPS["pretrain"].body) != function_code(STEPS["sft"].body)


def test_conversations_do_not_depend_on_the_model() -> None:
    from nanochat_core.base.fingerprint import code_closure

    for name in ("corpus", "tokenizer", "tokens", "conversations"):
        reached = code_closure(STEPS[name].entries)
        assert not [module for module in reached if module.startswith(("nanochat_core.model", "nanochat_core.plan"))]


@pytest.mark.slow
def test_a_damaged_tokenizer_does_not_cost_the_model(prepared_home: Path, micro_sets: list[str]) -> None:
    from flows.speedrun import run_until
    from nanochat_core.pipeline.finish import finish_run

    plan = plan_run(load_config("tiny", micro_sets))
    finish_run(plan, run_until(make, plan, "sft"), started_at=0.0)
    store = workspace.current().store
    [tokenizer] = store.artifacts("tokenizer")
    blob = prepared_home / "store/blobs/sha256" / tokenizer.files["tokenizer.json"].sha256[:2]
    blob /= tokenizer.files["tokenizer.json"].sha256
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b" ")
    with pytest.raises(CorruptError):
        open_chat(None)
    assert len(store.artifacts("sft")) == 1
    run_until(make, plan, "sft")  # the run finds the damage and makes the tokenizer again, and only it
    assert open_chat(None).engine.generate([[0, 1, 2]], [_short()])[0].tokens


def _short():
    from nanochat_core.inference.sampling import Sampling

    return Sampling(max_new_tokens=2)
