"""Conversations in other people's forms: what each becomes, what is learnt of it, and what is refused by its name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.base.errors import MissingError
from nanochat_core.data.conversations import conversation_of_row, unfit
from nanochat_core.data.rows import FileRows, Mapped
from nanochat_core.data.turns import Unfit
from nanochat_core.tokenizer.conversation import render_conversation

CALL = {"function": {"name": "tide", "arguments": '{"harbour": "Norr", "days": 2}'}}


def ask(role="user", content="q", **more):
    return {"role": role, "content": content, **more}


def answer(content="a", **more):
    return ask("assistant", content, **more)


def said(row):
    """(speaker, text) of each turn of a row; an answer's parts with their kinds."""
    return [(message["role"], message["content"]) for message in conversation_of_row(row, 0)["messages"]]


QA = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("row", "form", "turns"),
    [
        ({"messages": [ask("developer", "s"), ask(), answer()]}, "messages", [("system", "s"), *QA]),
        ({"messages": json.dumps([ask(), answer()])}, "messages", QA),
        ({"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}}, "messages", QA),
        ({"messages": [ask(content=["q"]), answer([{"type": "output_text", "text": "a"}])]}, "messages", QA),
        ({"conversations": [{"from": " Human", "value": "q"}, {"from": "GPT", "value": "a"}], "system": "s"},
         "ShareGPT", [("system", "s"), *QA]),
        ({"conversations": [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "q"},
                            {"from": "gpt", "value": "a"}]}, "ShareGPT", QA),
        ({"instruction": "q", "input": "", "output": "a", "history": [["1", "2"]], "system": "s"}, "Alpaca",
         [("system", "s"), ("user", "1"), ("assistant", "2"), *QA]),
        ({"instruction": "q", "context": "c", "response": "a"}, "Alpaca", [("user", "q\n\nc"), ("assistant", "a")]),
        ({"instruction": "q", "input": float("nan"), "output": "a"}, "Alpaca", QA),
        ({"prompt": "q", "completion": " a"}, "prompt/completion", QA),
        ({"prompt": [ask()], "completion": [answer()]}, "prompt/completion", QA),
        ({"system_prompt": "s", "question": "q", "response": "a"}, "question/answer", [("system", "s"), *QA]),
        ({"Question ": "q", "ANSWER": 7}, "question/answer", [("user", "q"), ("assistant", "7")]),
        ({"input": "q", "output": "a"}, "question/answer", QA),
    ],
)  # fmt: skip
def test_forms_become_ours(row, form, turns):
    assert said(row) == turns
    assert conversation_of_row(row, 0)["form"] == form


def test_calls_of_tools_are_parts_of_one_answer_in_every_form():
    parts = [("python", "tide(harbour='Norr', days=2)"), ("python_output", "12:00"), ("text", "At noon.")]
    function = CALL["function"]
    forms = [
        {"messages": [ask(), answer(None, tool_calls=[CALL]), ask("tool", "12:00"), answer("At noon.")]},
        {"messages": [ask(), answer(None, function_call=function), ask("function", "12:00"), answer("At noon.")]},
        {"conversations": [ask(), ask("function_call", json.dumps({**function, "arguments": {"harbour": "Norr",
         "days": 2}})), ask("observation", "12:00"), answer("At noon.")], "tools": "[{}]"},
    ]  # fmt: skip
    for row in forms:
        turns = said(row)
        assert turns[0] == ("user", "q")
        assert [(part["type"], part["text"]) for part in turns[1][1]] == parts
        assert any("calls of tools" in remark for remark in conversation_of_row(row, 0)["remarks"])
    counted = answer("So: ", tool_calls=[{"function": {"name": "python", "arguments": {"expression": "1+2"}}}])
    content = said({"messages": [ask(), counted, ask("tool", "3"), answer("3.")]})[1][1]
    assert [part["text"] for part in content] == ["So: ", "1+2", "3", "3."]


def learnt(tokenizer, row):
    ids, mask = render_conversation(tokenizer, conversation_of_row(row, 0)["messages"])
    return bytes(i for i, is_target in zip(ids, mask, strict=True) if is_target and i < 256).decode()


def test_flags_of_the_loss_are_honoured(tokenizer):
    talk = [ask(), answer("wrong", weight=0), ask(content="sure?"), answer("right", weight=1)]
    assert learnt(tokenizer, {"messages": talk}) == "right"
    assert learnt(tokenizer, {"messages": [ask(), answer("no", train=False), ask(), answer("yes")]}) == "yes"
    called = [ask(), answer(None, tool_calls=[CALL], weight=0), ask("tool", "12"), answer("noon")]
    assert learnt(tokenizer, {"messages": called}) == "noon"
    ends = [ask(), answer(None, tool_calls=[CALL]), ask("tool", "12"), answer("noon", weight=0)]
    assert learnt(tokenizer, {"messages": ends}) == "tide(harbour='Norr', days=2)"
    assert learnt(tokenizer, {"prompt": [ask(), answer("before"), ask()], "completion": [answer("after")]}) == "after"
    nothing = conversation_of_row({"question": "q", "answer": "a", "weight": 0}, 0)
    assert "nothing to learn" in (unfit(nothing) or "")


def test_reasoning_and_fields_that_are_not_used_are_remarked():
    made = conversation_of_row({"messages": [ask(mood="x"), answer(reasoning_content="since")], "id": 5}, 0)
    assert made["messages"][1]["content"] == "<think>since</think>a"
    assert [word for word in ("reasoning", "`mood`", "`id`") if word in " ".join(made["remarks"])] == [
        "reasoning", "`mood`", "`id`",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [ask(), answer(weight=0.5)]}, r"message 2: weight is 0\.5"),
        ({"messages": [ask(), answer(train="no")]}, "train is 'no'"),
        ({"messages": [ask(train=True), answer()]}, "message 1 is to be learnt"),
        ({"messages": [ask(), answer(weight=1, train=False)]}, "say two things"),
        ({"messages": [ask(), answer(train_detail=[{}])]}, "train_detail"),
        ({"messages": [ask(), answer(None, tool_calls=[CALL, CALL])]}, "2 parallel tool calls"),
        ({"messages": [ask(), ask("tool", "x"), answer()]}, "no call of one"),
        ({"messages": [ask("narrator"), answer()]}, "from 'narrator'"),
        ({"messages": [ask(content=[{"type": "tool_use"}]), answer()]}, "no text: .*tool_use"),
        ({"messages": [ask(), answer(5)]}, "message 2 has no text: 5"),
        ({"messages": '[{"role": "user", "role": "assistant", "content": "q"}]'}, "'role' is there twice"),
        ({"mapping": {}, "messages": None}, "chat service's export"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "pair of preferences"),
        ({"question": "q", "answer": "a", "response": "b"}, "2 answers: response, answer"),
        ({"instruction": ["q"], "output": {"a": 1}}, "the answer is dict"),
        ({"text": "q"}, "no list `messages`; it has text"),
    ],
)
def test_what_cannot_be_learnt_as_it_is_meant_is_refused_by_name(row, words):
    with pytest.raises(MissingError, match=words) as caught:
        conversation_of_row(row, 0)
    assert not isinstance(caught.value, Unfit)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [ask(content=[{"type": "image_url"}]), answer()]}, "image_url"),
        ({"image": "x.jpg", "conversations": [ask(), answer()]}, "an image"),
        ({"messages": "no list"}, "is text and no list"),
        ({"messages": [answer()]}, "nothing but the model's first words"),
    ],
)
def test_what_one_conversation_lacks_leaves_it_out(row, words):
    with pytest.raises(Unfit, match=words):
        conversation_of_row(row, 0)


def rows_of(path):
    rows = FileRows([path])
    return rows, [said(row) for row in rows]


def test_tables_are_read_with_their_quotes_and_the_lines_are_known(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_bytes(b'\xef\xbb\xbfquestion;answer\r\n"a; ""b""";"c\r\nd"\r\n\r\nq;7\r\n')
    rows, talks = rows_of(path)
    assert talks == [[("user", 'a; "b"'), ("assistant", "c\nd")], [("user", "q"), ("assistant", "7")]]
    assert rows.where(1) == f"{path}, line 5"
    (tmp_path / "faq.tsv").write_text("question\tanswer\nq, q\ta\n")
    assert rows_of(tmp_path / "faq.tsv")[1] == [[("user", "q, q"), ("assistant", "a")]]


@pytest.mark.parametrize(
    ("table", "words"),
    [("question,answer\nq,a\nq,a,b\n", "line 3 has 3 columns, and its header 2"),
     ("question,question\nq,a\n", "a column is there twice"), ('question,answer\nq,"a\n', "line 2 is no row")],
)  # fmt: skip
def test_a_table_that_is_not_whole_is_refused_by_its_line(tmp_path, table, words):
    (tmp_path / "faq.csv").write_text(table)
    with pytest.raises(MissingError, match=words):
        FileRows([tmp_path / "faq.csv"])


def test_a_list_under_the_name_of_lines_and_bytes_of_parquet_are_read(tmp_path):
    (tmp_path / "list.jsonl").write_text(json.dumps([{"question": "q", "answer": "a"}] * 2, indent=1))
    assert rows_of(tmp_path / "list.jsonl")[1] == [QA, QA]
    pq.write_table(pa.table({"question": [b"q"], "answer": [b"a"]}), tmp_path / "t.parquet")
    assert rows_of(tmp_path / "t.parquet")[1] == [QA]


@pytest.mark.parametrize("name", ["twice.jsonl", "twice.json"])
def test_a_key_that_is_there_twice_is_refused_by_its_place(tmp_path, name):
    good = json.dumps({"question": "q", "answer": "a"})
    (tmp_path / name).write_text(f'{good}\n{{"question": "q", "answer": "a", "answer": "b"}}\n')
    with pytest.raises(MissingError, match=r"(line|item) 2: the key 'answer' is there twice"):
        list(Mapped(FileRows([tmp_path / name]), conversation_of_row))
