"""Each benchmark: how an item is shown, what training learns of it, and what counts as right."""

import dataclasses

import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.evals.benchmarks import gsm8k, humaneval, mmlu, spelling_bee
from nanochat_core.evals.benchmarks.choice import choice_item
from nanochat_core.evals.benchmarks.protocol import Item, conversation, read_item_file, write_item_file
from nanochat_core.evals.benchmarks.registry import BENCHMARKS, chosen
from nanochat_core.evals.benchmarks.sources import Source
from nanochat_core.inference.calculator import calculate
from nanochat_core.tokenizer.conversation import check_messages, render_conversation

GENERATED = Source(is_offline=True)


def test_a_choice_is_shown_as_nanochat_shows_it():
    item = choice_item("b", "1", question="Is it?", choices=["yes", "no"], letters=["A", "B"], right="B")
    assert item.shown == (
        "Multiple Choice question: Is it?\n- yes=A\n- no=B\n\nRespond only with the letter of the correct answer."
    )
    assert conversation(item)["messages"][-1] == {"role": "assistant", "content": "B"}
    assert BENCHMARKS["mmlu"].is_right(item, "B")
    assert not BENCHMARKS["mmlu"].is_right(item, "A")


@pytest.mark.parametrize(
    ("choices", "letters", "right"),
    [(["a"], ["A"], "A"), (["a", "b"], ["A"], "A"), (["a", "b"], ["A", "A"], "A"), (["a", "b"], ["A", "B"], "C")],
)
def test_choices_that_do_not_fit_their_letters_are_refused(choices, letters, right):
    with pytest.raises(MissingError):
        choice_item("b", "1", question="q", choices=choices, letters=letters, right=right)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so it is 5.\n#### 18", "18"), ("#### 1,234,567", "1234567"), ("#### -3", "-3"), ("#### 2.50 dollars", "2.5"),
        ("#### 18.00", "18"), ("#### 100", "100"), ("#### 3\nNo:\n#### 4.", "4"), ("#### $18", None), ("18", None),
        ("####18", None), ("", None), ("#### ", None), ("#### 7,", "7"),
    ],
)  # fmt: skip
def test_the_number_after_the_last_marker_is_the_answer(answer, number):
    assert gsm8k.final_number(answer) == number


def test_calculations_become_tool_calls():
    parts = gsm8k.parts_of("He has 48/2 = $<<48/2=24>>24.\n#### 24")
    assert parts == [
        {"type": "text", "text": "He has 48/2 = $"},
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24.\n#### 24"},
    ]
    assert gsm8k.parts_of("<<1+1=2>>#### 2")[0] == {"type": "python", "text": "1+1"}


def test_no_text_of_a_solution_is_lost_and_most_calls_give_what_was_written(source):
    rows = gsm8k.BENCHMARK.read(source, "train")
    num_calls = num_same = 0
    for item in rows[:500]:
        calls = [(a["text"], b["text"]) for a, b in zip(item.solution, item.solution[1:], strict=False)
                 if a["type"] == "python"]  # fmt: skip
        assert all("<<" not in part["text"] for part in item.solution)
        assert item.solution[-1]["text"].endswith(item.expected) or "," in item.solution[-1]["text"]
        num_calls += len(calls)
        num_same += sum(calculate(expression) == result for expression, result in calls)
    assert num_calls > 1000
    assert num_same > 0.9 * num_calls


def _function(answer):
    prompt = {"role": "user", "content": "import math\n\ndef f():\n"}
    checks = {"test": "def check(f):\n    assert f() == 3", "entry_point": "f"}
    item = Item(benchmark="humaneval", id="0", messages=[prompt], expected="", solution="", checks=checks)
    return humaneval.program(item, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "def f():\n    return math.floor(3.5)",
        "```python\ndef f():\n    return math.floor(3.5)\n```",
        "Sure! Here it is:\n```python\ndef f():\n    return math.floor(3.5)\n```\nIt rounds down.\n```\nf()\n```",
        "```\ndef f():\n    return math.floor(3.5)",
        "```py \ndef f():\n    return math.floor(3.5)\n```",
    ],
)
def test_the_code_is_found_in_an_answer_and_gets_the_imports_of_the_prompt(answer):
    program = _function(answer)
    compile(program, "answer", "exec")
    assert program.startswith("import math\n")
    assert "def f():\n    return math.floor(3.5)\n" in program
    assert program.endswith("check(f)\n")
    assert "Sure" not in program


def test_imports_end_where_the_code_begins():
    prompt = "from typing import List\n# about\nimport math\n\n\ndef f():\n    import os\n"
    assert humaneval.imports_of(prompt) == "from typing import List\nimport math"


def test_humaneval_has_nothing_to_train_on(source):
    with pytest.raises(ConfigError):
        humaneval.BENCHMARK.read(source, "train")


def test_every_count_is_right_and_the_tool_says_the_same():
    for item in spelling_bee.letter_counts(GENERATED, "train", count=200):
        text, call, output, end = (part["text"] for part in item.solution)
        assert calculate(call) == output == item.expected
        assert spelling_bee.is_right(item, end)
        assert not spelling_bee.is_right(item, end + "1")
        word = call.split('"')[1]
        assert f"{word}:{','.join(word)}" in text
        assert word in item.question.lower()


def test_no_word_of_the_benchmark_is_spelled_in_training():
    def words(items):
        return {item.solution[1]["text"].split('"')[1] for item in items}

    asked = words(spelling_bee.read_items(GENERATED, "test"))
    learnt = words(spelling_bee.letter_counts(GENERATED, "train", count=3000))
    spelled = {item.expected.split(":")[0] for item in spelling_bee.spellings(GENERATED, count=3000)}
    assert len(asked) > 100
    assert len(spelled) > 1000
    assert not asked & (learnt | spelled)


def test_generated_items_depend_on_their_number_alone():
    few, many = (spelling_bee.letter_counts(GENERATED, "train", count=count) for count in (5, 5000))
    assert list(few) == many[:5]
    assert len({item.question for item in many[:100]}) > 95


def test_each_training_conversation_can_be_rendered(source, tokenizer):
    for name in ("arc_easy", "gsm8k", "spelling_bee"):
        items = BENCHMARKS[name].read(source, "train")
        for item in items[:20]:
            check_messages(conversation(item)["messages"])
            assert any(render_conversation(tokenizer, conversation(item)["messages"])[1])


def test_the_real_data_has_the_published_sizes(real_source):
    sizes = {name: len(benchmark.read(real_source, "test")) for name, benchmark in BENCHMARKS.items()}
    assert sizes == {
        "arc_easy": 2376, "arc_challenge": 1172, "mmlu": 14042, "gsm8k": 1319, "humaneval": 164, "spelling_bee": 256,
    }  # fmt: skip
    subjects = {item.id.split("/")[0] for item in mmlu.BENCHMARK.read(real_source, "test")}
    assert len(subjects) == 57


def test_items_are_read_as_they_were_written(tmp_path, source):
    items = [BENCHMARKS[name].read(source, "test")[0] for name in BENCHMARKS]
    items.append(dataclasses.replace(items[0], question="ä\u2028\n"))
    write_item_file(tmp_path / "items.jsonl", items)
    assert read_item_file(tmp_path / "items.jsonl") == items
    with (tmp_path / "items.jsonl").open("a") as file:
        file.write('{"benchmark": "x"}\n')
    with pytest.raises(MissingError, match=f"line {len(items) + 1}"):
        read_item_file(tmp_path / "items.jsonl")


def test_benchmarks_are_chosen_by_name_and_unknown_ones_are_named():
    assert [benchmark.name for benchmark in chosen(" mmlu, gsm8k,mmlu")] == ["mmlu", "gsm8k"]
    with pytest.raises(ConfigError, match="hellaswag"):
        chosen("mmlu,hellaswag")
    with pytest.raises(ConfigError):
        chosen(" , ")
