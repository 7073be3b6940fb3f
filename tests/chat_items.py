"""Small chat benchmarks that are ours, in the files and fields of the hub's data sets: for clones without those.

Every item follows from its number. Right answers are worked out here, so a wrong one is a fault of the reader.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
LETTERS = "ABCDE"
Row = dict[str, Any]
# Signature, body and tests of a function of a list of numbers; N is the item's own number.
FUNCTIONS = (
    ("add the numbers of a list, and N", "sum(values) + N", "check([1, 2, 3]) == 6 + N", "check([]) == N"),
    ("find the largest number of a list, less N", "max(values) - N", "check([4, 9]) == 9 - N", "check([0]) == -N"),
    ("count the numbers of a list above N", "sum(v > N for v in values)", "check([N, N + 1]) == 1", "check([]) == 0"),
    (
        "multiply each number of a list by N",
        "[v * N for v in values]",
        "check([1, 2]) == [N, 2 * N]",
        "check([]) == []",
    ),
)


def write(folder: Path) -> Path:
    """The files below a folder, which is returned."""
    for split, count in (("train", 700), ("test", 120)):
        _write(folder / f"gsm8k/main/{split}.jsonl", (_problem(f"{split} {number}") for number in range(count)))
        for name in ("ARC-Easy", "ARC-Challenge"):
            rows = (_science(f"{name}/{split}/{number}") for number in range(count))
            _write(folder / f"arc/{name}/{split}.jsonl", rows)
    _write(folder / "mmlu/all/test.jsonl", (_exam(number) for number in range(120)))
    _write(folder / "humaneval/test.jsonl", (_function(number) for number in range(24)))
    draw = random.Random("words")
    (folder / "words_alpha.txt").write_text("".join(f"{_word(draw)}\n" for _ in range(3000)))
    return folder


def _write(path: Path, rows: Iterator[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _word(draw: random.Random) -> str:
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 4)))


def _problem(seed: str) -> Row:
    draw = random.Random(f"gsm8k {seed}")
    who, what, (first, times, lost) = _word(draw).title(), _word(draw), (draw.randint(low, 30) for low in (20, 2, 1))
    second, both = first * times, first + first * times
    return {
        "question": f"{who} packs {first} crates of {what} on Monday and {times} times as many on Tuesday. "
        f"{lost} crates are lost on the way. How many crates of {what} arrive?",
        "answer": f"On Tuesday {who} packs {first}*{times}=<<{first}*{times}={second}>>{second} crates.\n"
        f"Both days make {first}+{second}=<<{first}+{second}={both}>>{both}.\n"
        f"Of these {both}-{lost}=<<{both}-{lost}={both - lost}>>{both - lost} arrive.\n#### {both - lost}",
    }


def _science(name: str) -> Row:
    """Mostly four choices with letters; some have three or five, or are numbered, as in the real data."""
    draw = random.Random(f"arc {name}")
    weights = draw.sample(range(2, 900), draw.choice((3, 4, 4, 4, 4, 5)))
    labels = list("12345" if draw.random() < 0.1 else LETTERS)[: len(weights)]
    texts = [f"a {_word(draw)} of {weight} kg" for weight in weights]
    return {
        "id": name,
        "question": f"Four friends carry things to the {_word(draw)}. Which of these is the heaviest?",
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[weights.index(max(weights))],
    }


def _exam(number: int) -> Row:
    draw = random.Random(f"mmlu {number}")
    a, b = draw.randint(100, 999), draw.randint(100, 999)
    choices = draw.sample([a + b, a + b + 1, a + b - 10, a + b + 100], 4)
    return {
        "question": f"In the {_word(draw)} calendar a year has {a} days and a feast lasts {b} more. How long are both?",
        "subject": f"{_word(random.Random(number % 7))}_studies",
        "choices": [f"{choice} days" for choice in choices],
        "answer": choices.index(a + b),
    }


def _function(number: int) -> Row:
    what, body, *tests = (text.replace("N", str(number + 2)) for text in FUNCTIONS[number % len(FUNCTIONS)])
    name = f"{_word(random.Random(f'function {number}'))}_{number}"
    checks = "".join(f"    assert {test.replace('check', 'candidate')}\n" for test in tests)
    return {
        "task_id": f"Ours/{number}",
        "prompt": f'from typing import List\n\n\ndef {name}(values: List[int]):\n    """ {what.capitalize()}. """\n',
        "canonical_solution": f"    return {body}\n",
        "test": f"def check(candidate):\n{checks}",
        "entry_point": name,
    }
