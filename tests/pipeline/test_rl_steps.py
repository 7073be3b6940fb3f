"""Reinforcement learning as a step of the pipeline: what it asks, what it leaves behind, and what it is called."""

import json
from pathlib import Path

import pytest
from conftest import MICRO_RL

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.records import read_records
from nanochat_core.evals.items import read_questions
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run, model_steps
from nanochat_core.pipeline.models import find_model
from nanochat_core.pipeline.table import STEPS, wanted
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import rl


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["rl.source=gsm8k"], "benchmarks.source is none"),
        (["rl.num_steps=none"], "has no end"),
        (["rl.samples_per_question=1"], "out of range"),
        (["rl.questions_per_step=3", "runtime.num_processes=2"], "3 questions do not divide over 2"),
    ],
)
def test_a_practice_that_cannot_work_is_refused_before_anything_runs(sets, told):
    with pytest.raises((ConfigError, MissingError), match=told):
        plan_run(load_config("tiny", ["rl.enabled=true", *sets]))
    plan_run(load_config("tiny", [*(one for one in sets if "processes" not in one and "samples" not in one),
                                  "rl.enabled=false"]))  # fmt: skip


def test_the_number_of_steps_is_the_wished_one_or_asks_each_question_once():
    plan = plan_run(load_config("tiny", ["rl.num_steps=none", "rl.num_questions=99", "rl.questions_per_step=8"]))
    assert rl.train_settings(plan, num_questions=99).schedule.num_steps == 12
    plan = plan_run(load_config("tiny", ["rl.num_steps=5"]))
    assert rl.train_settings(plan, num_questions=99).schedule.num_steps == 5
    assert STEPS["rl_questions"].settings(plan)["num_questions"] == 5 * plan.config.rl.questions_per_step


def test_a_run_without_practice_has_none_of_its_steps():
    ours = {"rl_questions", "rl", "evaluate_rl", "benchmark_rl"}
    assert not ours & set(wanted(plan_run(load_config("tiny", ["rl.enabled=false"]))))
    assert ours - {"benchmark_rl"} <= set(wanted(plan_run(load_config("tiny", ["rl.enabled=true"]))))


def test_the_chat_model_is_the_one_that_practised_last():
    assert model_steps(["pretrain"]) == {"base": "pretrain"}
    assert model_steps(["pretrain", "sft"]) == {"base": "pretrain", "chat": "sft"}
    assert model_steps(["pretrain", "sft", "rl"]) == {"base": "pretrain", "chat": "rl", "sft": "sft"}


def test_gsm8k_is_practised_on_its_training_questions_and_measured_on_its_test(home, tmp_path):
    data = tmp_path / "benchmarks"  # not beside the home: its files are of the folder's then, and change
    for split, count in (("train", 40), ("test", 12)):
        rows = [{"question": f"{split} {n}?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(count)]
        rows.append({"question": "asked in both?", "answer": "#### 3"})
        (data / "gsm8k").mkdir(parents=True, exist_ok=True)
        (data / f"gsm8k/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["rl.enabled=true", "rl.source=gsm8k", "rl.num_questions=none", "rl.held_out_questions=13",
            "benchmarks.source=path", f"benchmarks.path={data}"]  # fmt: skip
    plan = plan_run(load_config("tiny", sets))
    ref = make(STEPS["rl_questions"], plan)
    folder = workspace.current().store.fetch(workspace.current().store.find("rl_questions", ref.fingerprint))
    train, held_out = (read_questions(folder / f"{name}.jsonl") for name in ("train", "held_out"))
    assert [q.question for q in train] == [f"train {n}?" for n in range(40)]
    assert {q.question for q in held_out} == {f"test {n}?" for n in range(12)} | {"asked in both?"}
    assert train[5].expected == "6"
    assert ref.metrics == {"train_questions": 40, "held_out_questions": 13}


@pytest.mark.slow
def test_a_run_until_rl_makes_a_chat_model_from_the_fine_tuned_one(prepared_home: Path, micro_sets: list[str]) -> None:
    plan = plan_run(load_config("tiny", [*micro_sets, *MICRO_RL]))
    refs = run_until(make, plan, "rl")
    finish_run(plan, refs, started_at=0.0)
    store = workspace.current().store
    made = {ref.step: ref for ref in refs}
    assert list(made)[-1] == "rl"
    assert {"num_steps", "held_out_reward", "held_out_reward_before", "standard_error"} <= set(made["rl"].metrics)
    chat, sft = find_model(store, None), find_model(store, "tiny-sft")
    assert (chat.artifact.step, sft.artifact.step) == ("rl", "sft")
    assert chat.name.startswith("tiny-chat@")
    assert chat.is_chat
    assert chat.artifact.inputs["sft"] == made["sft"].digest
    records = read_records(store.fetch(chat.artifact, ["log/metrics.jsonl"]) / "log/metrics.jsonl")
    told = next(record for record in records if record["event"] == "step")
    assert {"reward", "pass_rate", "entropy", "kl", "answer_tokens", "rollout_s", "learn_s", "tokens_per_s"} <= set(
        told
    )
    assert any(path.startswith("log/tensorboard/") for path in chat.artifact.files)
    again = run_until(make, plan, "rl")
    assert again[-1].is_cached
