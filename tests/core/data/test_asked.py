"""A form that is said: of every row the columns that were named, and a row that is not so is refused by its place."""

import json

import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data.asked import Asked, asked
from nanochat_core.pipeline.mixture import load_mixture
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import conversations

TALK = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "a"}]


def _talks(tmp_path, rows, *settings):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = plan_run(load_config("tiny", ["sft.source=path", f"sft.path={path}", *settings]))
    mix = load_mixture(plan)
    return [talk["messages"] for part in (mix.train, mix.validation) for talk in part], conversations.settings(plan)


def _said(messages):
    return [message["content"] if isinstance(message["content"], str) else message["content"][0]["text"]
            for message in messages]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "row", "said"),
    [
        (["sft.columns=question=Frage,answer=Antwort"],
         {"Frage": "1?", "Antwort": "a", "messages": TALK[:1]}, ["1?", "a"]),
        (["sft.columns=question=x.q,answer=x.a,system=rules"],
         {"x": {"q": "1?", "a": "a"}, "rules": "s"}, ["s", "1?", "a"]),
        (["sft.columns=messages=talk.turns,role=speaker,content=said"],
         {"talk": {"turns": [{"speaker": "human", "said": "1?"}, {"speaker": "bot", "said": "a"}]}}, ["1?", "a"]),
        (["sft.columns=messages=t,role=r"],
         {"t": json.dumps([{"r": "user", "content": "1?"}, {"r": "assistant", "content": "a"}])}, ["1?", "a"]),
        (["sft.form=Alpaca"], {"instruction": "1?", "output": "a", "messages": TALK, "prompt": "other"}, ["1?", "a"]),
        (["sft.form=prompt/completion"],
         {"prompt": "1?", "completion": "a", "question": "x", "messages": TALK}, ["1?", "a"]),
        (["sft.form=question/answer"], {"query": "1?", "answer": "a", "prompt": "x", "conversations": []}, ["1?", "a"]),
        (["sft.form=messages"], {"messages": TALK, "conversations": [{"from": "human", "value": "x"}]}, ["1?", "a"]),
        (["sft.form=ShareGPT"],
         {"messages": TALK[:1], "conversations": [{"from": "human", "value": "1?"}, {"from": "gpt", "value": "a"}]},
         ["1?", "a"]),
    ],
)  # fmt: skip
def test_the_columns_that_are_named_are_taken(tmp_path, settings, row, said):
    rows, wanted = (
        [json.loads(json.dumps(one).replace("1?", f"{number}?")) for number in range(3)] for one in (row, said)
    )
    talks, decides = _talks(tmp_path, rows, *settings)
    assert sorted(_said(messages) for messages in talks) == wanted
    assert {decides.get("form"), decides.get("columns")} - {None} == {settings[0].partition("=")[2]}


def test_what_is_not_said_is_no_part_of_the_key(tmp_path):
    decides = _talks(tmp_path, [{"messages": TALK}, {"messages": [*TALK, *TALK]}])[1]
    assert not {"form", "columns"} & set(decides)


@pytest.mark.parametrize(
    ("settings", "named"),
    [("sft.form=ShareGPT", "not ShareGPT"), ("sft.columns=question=Frage,answer=b", "no column 'Frage'")],
)
def test_a_row_that_is_not_so_is_refused_by_its_line(tmp_path, settings, named):
    with pytest.raises(MissingError, match="line 1") as refused:
        _talks(tmp_path, [{"messages": TALK}, {"messages": TALK}], settings)
    assert named in refused.value.message
    assert "it has messages" in refused.value.message


@pytest.mark.parametrize(
    "columns",
    ["question=a", "frage=a,answer=b", "question,answer=b", "messages=a,question=b", "role=a,question=b,answer=c",
     "question=a,question=b,answer=c"],
)  # fmt: skip
def test_a_map_that_makes_no_conversation_is_refused_before_anything_runs(columns):
    with pytest.raises(ConfigError, match=r"sft\.columns"):
        load_config("tiny", [f"sft.columns={columns}"])


def test_a_map_and_a_form_are_not_both_said():
    with pytest.raises(ConfigError, match=r"sft\.form"):
        asked("Alpaca", "question=a,answer=b")


def test_nothing_said_changes_nothing():
    row = {"messages": TALK}
    assert asked("auto", None).row(row) is row
    assert Asked().columns == {}
