"""The step log's checks accept every way in which a training may be killed and resumed."""

import json

import pytest
from core.record.synthetic import lines, plan_with, step_records
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.accounting.clock import read_clock
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


@pytest.mark.parametrize("step_ms", [0, -1, 5e-324])
def test_a_step_without_time_is_named(step_ms):
    records, _ = read_log(lines(step_records(plan_with())), file="log")
    next(record for record in records if record["event"] == "step")["step_ms"] = step_ms
    problems = check_log(records, rules(plan_with()), file="log")
    assert any("is no time" in str(problem) for problem in problems)


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


def with_more(event, **fields):
    records = step_records(plan_with())
    return [{**record, **fields} if record["event"] == event else record for record in records]


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("start", {"device_batch_rows": 8, "choices": ["bfloat16: this cpu multiplies bf16"]}),
        ("validate", {"fp8_saturated": 0}),
        ("step", {"loss_scale": 65536.0, "was_left_out": 0.0}),
    ],
)
def test_what_only_some_trainings_tell_is_sound_in_its_own_record_only(event, fields):
    plan = plan_with()
    records, problems = read_log(lines(with_more(event, **fields)), file="log")
    assert problems + check_log(records, rules(plan), file="log") == []
    _, problems = read_log(lines(with_more("end", **fields)), file="log")
    assert [str(problem).endswith("is unknown") for problem in problems] == [True] * len(fields)


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("start", {"choices": "bf16"}),
        ("start", {"choices": [1]}),
        ("start", {"device_batch_rows": 1.5}),
        ("validate", {"fp8_saturated": -1}),
        ("step", {"loss_scale": "much"}),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(event, fields):
    _, problems = read_log(lines(with_more(event, **fields)), file="log")
    assert problems
    assert all(f"field {next(iter(fields))}" in str(problem) for problem in problems)
