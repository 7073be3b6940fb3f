"""Sums of three numbers, made by the code: questions to practise on without a network, and others held out.

The built-in conversations show how two numbers go into the calculator; three are new to the model, which copies all of
them at some tries and loses one at others. That is where reinforcement learning has something to do: right tries exist,
and no example says which they are. Which sums are held out is decided by the digest of the sum alone, so neither the
seed nor the wording can bring a held-out one into training.
"""

import hashlib
import random
from typing import Literal

from nanochat_core.inference.calculator import calculate

Split = Literal["train", "held_out"]
HELD_OUT_OF_256 = 26  # a tenth
SIGNS = ("+", "-", "*")
FORMS = ("What is {sum}?", "Calculate {sum}.", "How much is {sum}?", "{sum} = ?")
SHORT_FRAC = 0.5  # of the numbers have one digit, the others one or two
Sum = tuple[str, str]  # question, expected answer


def sums(split: Split, *, count: int, seed: int) -> list[Sum]:
    """`count` different sums of one split, the same ones for the same seed."""
    rng = random.Random(f"{seed} sums {split}")
    drawn: dict[str, Sum] = {}
    while len(drawn) < count:
        expression = _expression(rng)
        form = rng.choice(FORMS)
        if expression not in drawn and is_held_out(expression) == (split == "held_out"):
            result = calculate(expression)
            assert result is not None
            drawn[expression] = (form.format(sum=expression), result)
    return list(drawn.values())


def is_held_out(expression: str) -> bool:
    """Whether a sum belongs to the tenth that is never practised."""
    return hashlib.sha256(expression.encode()).digest()[0] < HELD_OUT_OF_256


def _expression(rng: random.Random) -> str:
    first, second, third = (rng.randrange(10 if rng.random() < SHORT_FRAC else 100) for _ in range(3))
    return f"{first} {rng.choice(SIGNS)} {second} {rng.choice(SIGNS)} {third}"
