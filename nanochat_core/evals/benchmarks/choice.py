"""Multiple choice as one user message: the question, a line "- text=letter" per choice, and what to answer with.

The wording is nanochat's (its published scores depend on it). Two facts are behind it: small models bind a letter
better to the text before it, and without a blank before the letter it is the very token that the answer consists of.
"""

import string
from collections.abc import Sequence

from nanochat_core.base.errors import MissingError
from nanochat_core.evals.benchmarks.protocol import Item

LETTERS = tuple(string.ascii_uppercase)
FRAME = "Multiple Choice question: {question}\n{choices}\nRespond only with the letter of the correct answer."
CHOICE = "- {text}={letter}\n"
CHANCE = 0.25  # of four choices; the few ARC items with three or five count the same, as in nanochat


def choice_item(
    benchmark: str, item_id: str, *, question: str, choices: Sequence[str], letters: Sequence[str], right: str
) -> Item:
    """An item whose answer is one of `letters`."""
    if len(choices) != len(letters) or len(set(letters)) != len(letters) or len(choices) < 2:
        raise MissingError(
            f"{len(choices)} choices with the letters {', '.join(letters)}", hint="one letter per choice"
        )
    if right not in letters:
        raise MissingError(f"the answer {right!r} is none of {', '.join(letters)}")
    lines = "".join(CHOICE.format(text=text, letter=letter) for text, letter in zip(choices, letters, strict=True))
    return Item(
        benchmark=benchmark,
        id=item_id,
        messages=[{"role": "user", "content": FRAME.format(question=question, choices=lines)}],
        expected=right,
        solution=right,
        letters=list(letters),
        question=question,
    )
