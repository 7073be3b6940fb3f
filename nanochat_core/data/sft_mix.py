"""The built-in fine-tuning mix: generated, deterministic, and small enough for a model of a million parameters.

Four kinds: questions about the documentation of libraries, arithmetic through the calculator, counting letters (also by
the tool) and spelling, and who-are-you. Arithmetic, counting and spelling keep items for the benchmarks that
are never trained on; for documentation and identity the wording of the question is what is held out.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanochat_core.config import SftConfig
from nanochat_core.data import documentation
from nanochat_core.inference.calculator import calculate

NUM_VALIDATION = 200  # conversations for the validation loss
MAX_OPERAND = 999
MIN_WORD_CHARS, MAX_WORD_CHARS = 4, 9
NUM_WORDS = 3000

Conversation = dict[str, Any]
Item = tuple[str, str, bool]  # question, expected answer, needs the tool


@dataclass(frozen=True)
class Mix:
    """Conversations to learn from and to validate on, and the held-out questions by benchmark."""

    train: list[Conversation]
    validation: list[Conversation]
    questions: dict[str, list[Item]]


def build_mix(config: SftConfig, *, seed: int, num_questions: int) -> Mix:
    """Everything from the seed alone; the order is shuffled once, here."""
    rng = random.Random(seed)
    held_out_words, words = _words(rng)
    kinds = {
        "arithmetic": _arithmetic(config.num_arithmetic, rng, num_questions),
        "documentation": _documentation(config.num_documentation, rng, num_questions),
        "identity": _identity(config.num_identity, rng),
        "letters": _letters(config.num_spelling, rng, num_questions, words=words, held_out=held_out_words),
        "spelling": _spelling(config.num_spelling, rng, num_questions, words=words, held_out=held_out_words),
    }
    conversations = [conversation for train, _ in kinds.values() for conversation in train]
    rng.shuffle(conversations)
    held_out = min(NUM_VALIDATION, len(conversations) // 10)
    questions = {name: items for name, (_, items) in kinds.items() if items}
    return Mix(conversations[held_out:], conversations[:held_out], questions)


def _conversation(question: str, answer: str | list[dict[str, str]]) -> Conversation:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _tool_answer(expression: str, result: str, text: str) -> list[dict[str, str]]:
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": result},
        {"type": "text", "text": text},
    ]


# --- arithmetic: copy the operands into a tool call, then copy the result ---

SIGNS = {"+": "plus", "-": "minus", "*": "times"}
ARITHMETIC = ("What is {a} {op} {b}?", "Calculate {a} {op} {b}.", "How much is {a} {op} {b}?", "{a} {op} {b} = ?")


def _arithmetic(count: int, rng: random.Random, num_questions: int) -> tuple[list[Conversation], list[Item]]:
    seen: set[tuple[int, str, int]] = set()
    drawn: list[tuple[str, str, str]] = []
    while len(drawn) < count + num_questions and len(seen) < 3 * (MAX_OPERAND + 1) ** 2 // 2:
        a, b, sign = _operand(rng), _operand(rng), rng.choice(list(SIGNS))
        if (a, sign, b) in seen:
            continue
        seen.add((a, sign, b))
        result = calculate(f"{a} {sign} {b}")
        assert result is not None
        word = sign if rng.random() < 0.7 else SIGNS[sign]
        drawn.append((rng.choice(ARITHMETIC).format(a=a, op=word, b=b), f"{a} {sign} {b}", result))
    held_out = [(question, result, True) for question, _, result in drawn[:num_questions]]
    train = [
        _conversation(q, _tool_answer(e, result, f"The answer is {result}.")) for q, e, result in drawn[num_questions:]
    ]
    return train, held_out


def _operand(rng: random.Random) -> int:
    """Half of them uniform, half with one, two or three digits equally often."""
    return rng.randrange(10 ** rng.randint(1, 3)) if rng.random() < 0.5 else rng.randint(0, MAX_OPERAND)


# --- documentation: what libraries say about themselves ---

# Modules that people ask about, and how they call what is in them. Few facts, each seen several times in several
# wordings: a model of a million parameters remembers some three hundred sentences, not three thousand.
KNOWN_MODULES = {
    "pandas.core.frame": "",
    "pandas.core.series": "",
    "matplotlib.pyplot": "pyplot.",
    "networkx.classes.function": "networkx.",
}
MAX_FACT_CHARS = 80
DOCUMENTATION = ("What does {name} do?", "What is {name} for?", "Explain {name}.")
HELD_OUT_DOCUMENTATION = "Tell me what {name} does."


def _documentation(count: int, rng: random.Random, num_questions: int) -> tuple[list[Conversation], list[Item]]:
    facts = [
        (prefix + entry.name.removeprefix(f"{module}."), sentence)
        for module, prefix in KNOWN_MODULES.items()
        for entry in documentation.module_entries(module)
        if entry.name != module
        if (sentence := documentation.first_sentence(entry.doc)) and len(sentence) <= MAX_FACT_CHARS
    ]
    rng.shuffle(facts)
    train = [
        _conversation(DOCUMENTATION[(i + i // len(facts)) % len(DOCUMENTATION)].format(name=name), sentence)
        for i, (name, sentence) in enumerate(facts[i % len(facts)] for i in range(count))
    ]
    asked = facts[: min(num_questions, count)]
    return train, [(HELD_OUT_DOCUMENTATION.format(name=name), sentence, False) for name, sentence in asked]


# --- letters and spelling: words as the documentation uses them ---

LETTERS = (
    "How many {letter} are in {word}?",
    "How many times does {letter} occur in {word}?",
    "Count the {letter} in {word}.",
)
SPELLING = ("How do you spell {word}?", "Spell {word}.")


def _letters(
    count: int, rng: random.Random, num_questions: int, *, words: list[str], held_out: list[str]
) -> tuple[list[Conversation], list[Item]]:
    train: list[Conversation] = []
    questions: list[Item] = []
    for number in range(count + num_questions):
        word = rng.choice(held_out if number < num_questions else words)
        letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        question = rng.choice(LETTERS).format(letter=letter, word=word)
        expression, result = f'"{word}".count("{letter}")', str(word.count(letter))
        if number < num_questions:
            questions.append((question, result, True))
        else:
            train.append(_conversation(question, _tool_answer(expression, result, f"The answer is {result}.")))
    return train, questions


def _spelling(
    count: int, rng: random.Random, num_questions: int, *, words: list[str], held_out: list[str]
) -> tuple[list[Conversation], list[Item]]:
    chosen = (rng.choice(words) for _ in range(count))
    train = [_conversation(rng.choice(SPELLING).format(word=word), "-".join(word)) for word in chosen]
    return train, [(rng.choice(SPELLING).format(word=word), "-".join(word), False) for word in held_out[:num_questions]]


def _words(rng: random.Random) -> tuple[list[str], list[str]]:
    """(held out, learnt): the most frequent words of the documentation, a tenth held out."""
    frequent = (word for word, _ in documentation.word_counts().most_common())
    words = list(itertools.islice((w for w in frequent if MIN_WORD_CHARS <= len(w) <= MAX_WORD_CHARS), NUM_WORDS))
    rng.shuffle(words)
    return words[: len(words) // 10], words[len(words) // 10 :]


# --- identity ---

WHO = (
    "Who are you?",
    "What are you?",
    "Introduce yourself.",
    "What is your name?",
    "Hello!",
    "Hi",
    "Are you a person?",
)
HELD_OUT_WHO = ("Hello, who are you?", "Please introduce yourself.")
IDENTITY = "I am a small language model. I was trained from raw text on one computer."


def _identity(count: int, rng: random.Random) -> tuple[list[Conversation], list[Item]]:
    train = [_conversation(question, IDENTITY) for question in _cycle(WHO, count)]
    return train, [(question, IDENTITY, False) for question in HELD_OUT_WHO] if count else []


def _cycle(items: tuple[str, ...], count: int) -> Iterator[str]:
    return (items[i % len(items)] for i in range(count))
