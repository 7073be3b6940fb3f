"""Contamination: what is planted is found, what merely resembles is not."""

import random

import pytest

from nanochat_core.evals.benchmarks import contamination, gsm8k, spelling_bee
from nanochat_core.evals.benchmarks.choice import choice_item
from nanochat_core.evals.benchmarks.contamination import MAX_SHARED, find_contamination
from nanochat_core.evals.benchmarks.protocol import Item, conversation

WORDS = [f"word{number}" for number in range(5000)]


def item(question, number=0, benchmark="b"):
    return Item(benchmark=benchmark, id=str(number), messages=[{"role": "user", "content": question}], expected="",
                solution="", question=question)  # fmt: skip


def talk(*texts):
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def text(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


@pytest.fixture
def items():
    rng = random.Random(1)
    return [item(text(rng, 30), number) for number in range(200)]


@pytest.fixture
def noise():
    rng = random.Random(2)
    return [talk(text(rng, rng.randint(1, 300)), text(rng, 50)) for _ in range(300)]


def found(items, conversations):
    return find_contamination(items, conversations).report["b"]


def test_unrelated_conversations_contain_nothing(items, noise):
    assert found(items, noise) == {"num_items": 200, "num_contaminated": 0, "examples": []}


@pytest.mark.parametrize("num_words", [12, 13, 14, 30])
def test_thirteen_words_in_a_row_are_contamination_and_twelve_are_not(items, noise, num_words):
    part = " ".join(items[17].question.split()[-num_words:])
    planted = talk("hello", f"{text(random.Random(3), 40)} {part}, {text(random.Random(4), 40)}")
    result = found(items, [*noise, planted, *noise])
    assert result["num_contaminated"] == (num_words >= 13)
    if num_words >= 13:
        example = result["examples"][0]
        assert (example["id"], example["match"]) == ("17", "13 words")
        assert example["text"] in part


def test_case_punctuation_and_markup_do_not_hide_a_question(items):
    words = items[3].question.split()
    hidden = "«" + ",\n".join(word.upper() for word in words) + "»!"
    assert found(items, [talk(hidden)])["examples"][0]["id"] == "3"
    assert found([item("Café Ünal — how many “r”?")], [talk("café ünal: how many 'r'")])["num_contaminated"] == 1


def test_words_of_two_messages_are_no_run(items):
    words = items[5].question.split()
    assert (
        found(items, [talk(" ".join(words[:10]), " ".join(words[10:20]), " ".join(words[20:]))])["num_contaminated"]
        == 0
    )


def test_a_short_question_is_found_only_as_a_whole():
    short = [item("How many r are in strawberry?")]
    assert found(short, [talk("how many R are in Strawberry")])["examples"][0]["match"] == "question"
    assert found(short, [talk("how many r are in strawberry and in raspberry")])["num_contaminated"] == 0
    assert found(short, [talk("how many are in strawberry r")])["num_contaminated"] == 0


def test_the_choices_belong_to_a_short_question():
    def choice(*choices):
        return choice_item("b", "1", question="Which is true?", choices=choices, letters=["A", "B"], right="A")

    trained = [conversation(choice("this", "that"))]
    assert found([choice("this", "that")], trained)["num_contaminated"] == 1
    assert found([choice("these", "those")], trained)["num_contaminated"] == 0


def test_the_frame_that_many_items_share_tells_nothing(noise):
    frame = text(random.Random(5), 20)
    rng = random.Random(6)
    framed = [item(f"{frame} {text(rng, 14)}", number) for number in range(MAX_SHARED + 5)]
    other = talk(f"{frame} {text(rng, 14)}")
    assert found(framed, [*noise, other])["num_contaminated"] == 0
    assert found(framed[:MAX_SHARED], [*noise, other])["num_contaminated"] == MAX_SHARED
    assert found(framed, [talk(framed[7].question)])["examples"][0]["id"] == "7"


def test_tool_calls_and_long_texts_are_looked_through(items):
    parts = [{"type": "text", "text": items[9].question[:60]}, {"type": "text", "text": items[9].question[60:]}]
    long = text(random.Random(7), 200_000) + " " + items[11].question
    result = found(items, [talk("hi", parts), talk(long), talk("", "!")])
    assert [example["id"] for example in result["examples"]] == ["9", "11"]


def test_no_items_and_no_conversations_are_no_contamination(items):
    assert find_contamination([], [talk("hello")]).report == {}
    assert found(items, [])["num_contaminated"] == 0


def test_real_training_questions_hardly_hold_test_questions(real_source):
    """What was found on 2026-11-22: three of GSM8K's 1319 test questions share a phrase with a training question."""
    asked = gsm8k.BENCHMARK.read(real_source, "test")
    report = find_contamination(asked, gsm8k.BENCHMARK.read(real_source, "train").then(conversation)).report
    assert [example["id"] for example in report["gsm8k"]["examples"]] == ["581", "602", "632"]
    everything = find_contamination(asked, asked.then(conversation)).report["gsm8k"]
    assert everything["num_contaminated"] == everything["num_items"] == 1319


def test_spelling_questions_are_never_in_the_training_that_is_generated(source):
    asked = spelling_bee.read_items(source, "test")
    learnt = spelling_bee.letter_counts(source, "train", count=5000).then(conversation)
    assert find_contamination(asked, learnt).report["spelling_bee"]["num_contaminated"] == 0


def test_every_conversation_that_holds_an_item_is_named_also_repeated_ones(items, noise):
    planted = talk("please", items[5].question)
    run = talk(" ".join(items[9].question.split()[3:20]), "yes")
    conversations = [planted, *noise[:100], planted, run, *noise[100:], planted]
    assert find_contamination(items, conversations).conversations == [0, 101, 102, 303]


def test_the_numbers_do_not_depend_on_how_much_is_looked_at_at_once(items, noise, monkeypatch):
    conversations = [*noise, talk(items[3].question, "x"), *noise, talk("x", items[4].question)]
    whole = find_contamination(items, conversations)
    monkeypatch.setattr(contamination, "BATCH_BYTES", 100)
    assert find_contamination(items, conversations) == whole
    assert whole.conversations == [300, 601]
