"""Spelling: how often is a letter in a word, counted by hand and checked with the tool; and words spelled plainly.

A language model sees tokens, not letters, so it has to learn how each token is spelled. The answer that training shows
spells the word, walks through its letters, and then calls `"word".count("r")`. Everything is drawn from the item's
own number; words of the benchmark are never in training (data/words.py holds a tenth of the list out).
"""

import random
from collections.abc import Sequence

from nanochat_core.data.rows import Mapped, Numbers
from nanochat_core.evals.benchmarks.gsm8k import is_right
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item
from nanochat_core.evals.benchmarks.sources import Source

NUM_TEST_ITEMS = 256  # nanochat asks as many
NUM_TRAIN_ITEMS = 80_000
LETTER_IN_WORD_FRAC = 0.9  # otherwise a random letter, which is mostly not in it
QUOTES = ("", "'", '"')
COUNTS = (
    "How many {letter} are in {word}",
    "How many {letter} are there in {word}",
    "How many {letter}s are in {word}",
    "How many {letter}'s does {word} have",
    "How many times does {letter} occur in {word}",
    "How many times is {letter} in the word {word}",
    "How often does {letter} come up in {word}",
    "How often is the letter {letter} used in {word}",
    "Count the {letter} in {word}",
    "Count every {letter} in the word {word}",
    "Can you count the letter {letter} in {word}",
    "Please count how many {letter} {word} contains",
    "Give me the number of {letter} in {word}",
    "Number of {letter} in {word}",
    "What is the number of {letter} in the word {word}",
    "What's the count of {letter} in {word}",
    "Tell me how many {letter} the word {word} has",
    "In {word}, how many {letter} are there",
    "In the word {word}, count the {letter}",
    "{word}: how many {letter}",
    "{word} has how many {letter}",
    "Wie viele {letter} sind in {word}",
    "Wie oft steht {letter} in {word}",
    "Combien de {letter} y a-t-il dans {word}",
    "Combien de fois trouve-t-on {letter} dans {word}",
    "¿Cuántas {letter} hay en {word}",
    "¿Cuántas veces está {letter} en {word}",
    "Quante {letter} ci sono in {word}",
)


def read_items(source: Source, split: str) -> Mapped[Item]:
    return letter_counts(source, split, count=NUM_TEST_ITEMS if split == "test" else NUM_TRAIN_ITEMS)


def letter_counts(source: Source, split: str, *, count: int) -> Mapped[Item]:
    """`count` questions about a letter in a word."""
    words = source.words()
    chosen = words.held_out if split == "test" else words.train
    return Mapped(Numbers(count), lambda _, index: _letter_count(chosen, f"{split}/{index}"))


def spellings(source: Source, *, count: int) -> Mapped[Item]:
    """`count` words to spell, for training."""
    words = source.words().train
    return Mapped(Numbers(count), lambda _, index: _spelling(words, f"spelling/{index}"))


def _letter_count(words: Sequence[str], item_id: str) -> Item:
    rng = random.Random(f"spelling bee {item_id}")
    word = rng.choice(words)
    letter = rng.choice(word) if rng.random() < LETTER_IN_WORD_FRAC else chr(rng.randrange(ord("a"), ord("z") + 1))
    question = _worded(word, letter, rng)
    return Item(
        benchmark=BENCHMARK.name,
        id=item_id,
        messages=[{"role": "user", "content": question}],
        expected=str(word.count(letter)),
        solution=_counted(word, letter),
        question=question,
    )


def _worded(word: str, letter: str, rng: random.Random) -> str:
    """As people type: with or without quotes, capitals and a question mark."""
    form = rng.choice(COUNTS)
    form = form.lower() if rng.random() < 0.3 else form
    letter_quote, word_quote = rng.choice(QUOTES), rng.choice(QUOTES)
    question = form.format(letter=f"{letter_quote}{letter}{letter_quote}", word=f"{word_quote}{word}{word_quote}")
    return question + "?" if rng.random() < 0.5 else question


def _counted(word: str, letter: str) -> list[dict[str, str]]:
    steps, found = [], 0
    for position, char in enumerate(word, start=1):
        found += char == letter
        # no blank before the letter: " r" is another token than "r"
        steps.append(f"{position}:{char}" + (f" yes, {found}" if char == letter else ""))
    by_hand = (
        f"Let me spell '{word}' and look for '{letter}'.\n\n{word}:{','.join(word)}\n\n"
        + "\n".join(steps)
        + f"\n\nBy hand I count {found}. The tool can check that:\n\n"
    )
    return [
        {"type": "text", "text": by_hand},
        {"type": "python", "text": f'"{word}".count("{letter}")'},
        {"type": "python_output", "text": str(found)},
        {"type": "text", "text": f"\n\nThe tool says {found}.\n\n#### {found}"},
    ]


def _spelling(words: Sequence[str], item_id: str) -> Item:
    word = random.Random(item_id).choice(words)
    spelled = f"{word}:{','.join(word)}"
    return Item(
        benchmark="spelling",
        id=item_id,
        messages=[{"role": "user", "content": f"Spell the word: {word}"}],
        expected=spelled,
        solution=spelled,
        question=f"Spell the word: {word}",
    )


BENCHMARK = Benchmark(
    name="spelling_bee", title="Spelling bee", kind="generate", baseline=0.0, read=read_items, is_right=is_right
)
