"""The step log's checks accept every way in which a training may be killed and resumed."""

import json

import pytest
from core.record.synthetic import lines, plan_with, step_records
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.record.clock import read_clock
from nanochat_core.record.step_log import LogRules, check_log, read_log


def rules(plan):
    config = plan.config.pretrain
    return LogRules(
        schedule=plan.pretrain.schedule,
        tokens_per_step=plan.pretrain.total_batch_tokens,
        validate_every_steps=config.validate_every_steps,
    )


@settings(max_examples=30, deadline=None)
@given(starts=st.lists(st.integers(0, 30), max_size=5))
def test_any_number_of_resumes_is_a_sound_log(starts):
    plan = plan_with()
    records, problems = read_log(lines(step_records(plan, starts=(0, *starts))), file="log")
    assert problems + check_log(records, rules(plan), file="log") == []
    assert read_clock(records).num_starts == 1 + len(starts)


def test_a_log_without_validations_on_the_way_is_sound():
    plan = plan_with("pretrain.validate_every_steps=none")
    records, problems = read_log(lines(step_records(plan)), file="log")
    assert problems + check_log(records, rules(plan), file="log") == []


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_log_that_was_cut_off_is_refused(cut):
    plan = plan_with()
    records, problems = read_log(lines(step_records(plan))[:-cut], file="log")
    problems += check_log(records, rules(plan), file="log")
    assert any("cut short" in str(problem) for problem in problems)
    if cut > 1:
        assert any("has no end" in str(problem) for problem in problems)


def test_an_empty_log_is_refused():
    assert check_log([], rules(plan_with()), file="log")


def test_no_loss_can_be_infinite_or_no_number():
    for value in ("NaN", "Infinity", "1e999", "null", '"2"', "true"):
        records = step_records(plan_with())
        text = lines(records).decode().splitlines()
        number = next(n for n, record in enumerate(records) if record["event"] == "step")
        loss = json.dumps(records[number]["loss"])
        text[number] = text[number].replace(f'"loss": {loss}', f'"loss": {value}', 1)
        _, problems = read_log(("\n".join(text) + "\n").encode(), file="log")
        assert problems, value
        assert f"line {number + 1}" in str(problems[0])
