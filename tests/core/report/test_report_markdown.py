"""The summary works with whatever a run has got so far, and is inert."""

import shlex
import subprocess
import sys

import pytest

from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.report import outline
from nanochat_core.report.markdown import plain, summarize


@pytest.mark.parametrize("num_refs", range(10))
def test_a_run_that_stopped_early_has_a_summary(plan, refs, num_refs):
    text = summarize(plan, refs[:num_refs])
    assert "tiny, depth 3" in text
    assert text.count("`pretrain/abababababab`") == (1 if num_refs > 3 else 0)
    assert ("arithmetic" in text) == (num_refs > 7)


def test_it_says_what_was_made_and_what_was_cached(plan, refs):
    text = summarize(plan, refs)
    assert "| corpus | cached | 12 s | 12.3K documents, 9.88MB of text |" in text
    assert "| pretrain | made | 12 s | 416 steps, validation bpb 1.9300 |" in text
    assert "7 steps made, 2 cached" in text


def test_an_answer_cannot_act(plan, refs):
    text = summarize(plan, refs)
    assert "<b>" not in text
    assert r"\[37 + 58 = 95\] 95 \| &lt;b&gt;" in text
    assert plain("# a\n![x](http://y) `z`") == r"\# a \!\[x\](http://y) \`z\`"


def test_core_chatcore_and_the_ledger_are_told(plan, more_refs):
    text = summarize(plan, more_refs, seconds=200.0)
    assert "| CORE | **0.2400** | ± 0.0050, GPT-2 has 0.2565 |" in text
    assert "0.0165 below the 0.2565 of GPT-2 (1.6B), 3.3 standard errors." in text
    assert "| ChatCORE | **0.6100** | SFT: ± 0.0200, base 0.2600 |" in text
    assert "| mmlu | 26.0% ± 8.5 | 61.0% ± 9.4 |" in text
    assert "| in all | 3 min 20 s | 25 s |  |" in text
    assert "| a_step_of_tomorrow |" in text


def test_scores_of_other_steps_are_not_taken_for_the_runs_own_questions(refs, more_refs):
    assert outline.benchmark_rows(more_refs) == outline.benchmark_rows(refs)


def test_metrics_of_another_version_leave_a_headline_empty(ref):
    assert outline.step_rows([ref("pretrain", metrics={})])[0].headline == ""


def test_no_store_no_matplotlib_and_no_torch_are_loaded():
    code = (
        "import sys; import nanochat_core.report.markdown; "
        "sys.exit(' '.join({'matplotlib', 'torch', 'nanochat_core.store'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_answers_are_split_at_tool_calls():
    parts = outline.answer_parts('So [1 + 2 = 3] it is 3, [not a call] and ["x".count("x") = 1]')
    assert [(part.text, part.result) for part in parts] == [
        ("So ", None), ("1 + 2", "3"), ("it is 3, [not a call] and ", None), ('"x".count("x")', "1"),
    ]  # fmt: skip


def test_the_command_to_repeat_a_run_gives_its_configuration():
    changes = ["sft.epochs=2", "corpus.path=a folder/x", "corpus.source=path", "pretrain.max_tokens=1000000", "seed=7"]
    config = load_config("tiny", [*changes, "pretrain.validate_every_steps=none"])
    words = shlex.split(outline.commands(config)["run"])
    assert words[:3] == ["nanochat", "run", "tiny"]
    assert load_config("tiny", [word for word in words[3:] if word != "--set"]) == config


def test_parameter_groups_add_up_to_the_model():
    plan = plan_run(load_config("d12"))
    rows = outline.group_rows(plan)
    assert sum(row.num_params for row in rows) == plan.pretrain.num_params["total"]
