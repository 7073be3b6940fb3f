"""From items to token sequences: what the model reads, which part all choices share, and what is scored.

The rules are nanochat's (core_eval.py), so that scores compare. A prompt is BOS, few-shot examples joined by blank
lines, then context, delimiter and continuation. The examples of item i are drawn with random.Random(1234 + i) from all
other items. Scored are: in multiple choice the tokens after the longest prefix that all choices share; in schemas the
longest common suffix; in language modelling the tokens after the prompt without its continuation, stripped.
Most tokens are encoded once, not once per prompt and choice: text is cut only where this vocabulary's split pattern
always cuts (see `is_cut_rule_known`), elsewhere the whole text is encoded; tests compare both on real items.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nanochat_core.evals.core.bundle import Benchmark, Item
from nanochat_core.tokenizer.tokenizer import SPLIT_PATTERN

FEWSHOT_SEED = 1234
SHUFFLE_SEED = 1337
SEPARATOR = "\n\n"


class TextEncoder(Protocol):
    """What rendering needs of a tokenizer; ours has it, huggingface.py wraps others."""

    @property
    def bos(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Rendered:
    """One item as tokens: every choice is prefix + suffix; the last `num_scored` tokens of each are scored."""

    examples: list[int]
    """Numbers of the few-shot examples whose tokens follow BOS; empty where the prefix holds them itself."""
    prefix: list[int]
    """What all choices share after BOS and the examples."""
    suffixes: list[list[int]]
    num_scored: list[int]


@dataclass(frozen=True)
class _Text:
    """One item's prompts without examples: every choice is head + tail, cut before its continuation's white space."""

    heads: list[str]
    tails: list[str]
    gold: int
    is_separable: bool
    """Its text may be encoded apart from what comes before, and its one head apart from its tails."""

    @property
    def example(self) -> str:
        return self.heads[self.gold] + self.tails[self.gold] + SEPARATOR


class Renderer:
    """Renders the items of one benchmark; what several prompts share is encoded once."""

    def __init__(self, benchmark: Benchmark, items: Sequence[Item], encoder: TextEncoder) -> None:
        self.benchmark, self.encoder = benchmark, encoder
        self.texts = [_text(item, benchmark) for item in items]
        self._has_cut_rule = is_cut_rule_known(encoder)
        self._heads: dict[int, list[int]] = {}

    def render(self, index: int) -> Rendered:
        """One item's tokens, after BOS."""
        text, encode = self.texts[index], self.encoder.encode
        examples = fewshot_indices(index, num_items=len(self.texts), num_fewshot=self.benchmark.num_fewshot)
        if self._has_cut_rule and all(self.texts[number].is_separable for number in [*examples, index]):
            return self._spans(examples, self._head_ids(index), [encode(tail) for tail in text.tails])
        before = "".join(self.texts[number].example for number in examples)
        whole = [encode(before + head + tail) for head, tail in zip(text.heads, text.tails, strict=True)]
        if self.benchmark.kind != "language_modeling":
            return self._spans([], [], whole)
        without = encode((before + text.heads[0]).rstrip())
        shared = common_length([without, whole[0]])  # all of `without`, unless a token reaches from it into the rest
        return self._spans([], whole[0][:shared], [whole[0][shared:]])

    def example_ids(self, index: int) -> list[int]:
        """A separable item as an example for others, with the blank line behind it."""
        text = self.texts[index]
        return self._head_ids(index) + self.encoder.encode(text.tails[text.gold] + SEPARATOR)

    def _head_ids(self, index: int) -> list[int]:
        if index not in self._heads:
            self._heads[index] = self.encoder.encode(self.texts[index].heads[0])
        return self._heads[index]

    def _spans(self, examples: list[int], head: list[int], tails: list[list[int]]) -> Rendered:
        """Split head + tails where the choices part, and say how much of each is scored."""
        if self.benchmark.kind == "language_modeling":
            return Rendered(examples, head, tails, [len(tails[0])])
        shared = common_length(tails)
        scored = [len(tail) - shared for tail in tails]
        if self.benchmark.kind == "schema":
            common = common_length([tail[::-1] for tail in tails])
            # what is scored belongs to a choice, also where two contexts share so much that both ends overlap
            shared = min(shared, min(map(len, tails)) - common)
            scored = [common] * len(tails)
        return Rendered(examples, head + tails[0][:shared], [tail[shared:] for tail in tails], scored)


def _text(item: Item, benchmark: Benchmark) -> _Text:
    if benchmark.kind == "multiple_choice":
        pairs = [(item["query"], choice) for choice in item["choices"]]
    elif benchmark.kind == "schema":
        pairs = [(context, item["continuation"]) for context in item["context_options"]]
    else:
        pairs = [(item["context"].strip(), item["continuation"])]
    heads, tails = [], []
    for context, continuation in pairs:
        text = context + benchmark.delimiter
        head = text.rstrip()
        heads.append(head)
        tails.append(text[len(head) :] + continuation)
    is_separable = (
        benchmark.kind != "schema"  # its contexts differ, so its heads do
        and heads[0] != ""
        and not heads[0][0].isspace()
        and tails[0].startswith(" ")
    )
    return _Text(heads, tails, item.get("gold", 0), is_separable)


def shuffled(items: list[Item], max_items: int | None) -> list[Item]:
    """The items in the order in which they are asked and numbered, and only so many; examples come from these too."""
    items = list(items)
    random.Random(SHUFFLE_SEED).shuffle(items)
    return items[:max_items]


def fewshot_indices(index: int, *, num_items: int, num_fewshot: int) -> list[int]:
    """Which other items are the examples of item `index`; fewer where there are not so many others."""
    others = num_items - 1
    drawn = random.Random(FEWSHOT_SEED + index).sample(range(others), min(num_fewshot, others))
    return [
        number + (number >= index) for number in drawn
    ]  # place j among the others is item j, or j + 1 from index on


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences have in common at their start."""
    shortest = min(map(len, sequences))
    if len(sequences) == 1:
        return shortest
    first = sequences[0]
    for place in range(shortest):
        if any(sequence[place] != first[place] for sequence in sequences[1:]):
            return place
    return shortest


def is_cut_rule_known(encoder: TextEncoder) -> bool:
    """Whether text may be cut between a newline and what is no white space, and between the latter and a blank.

    With our pattern no piece holds such a pair: letters take at most one character in front of them, and that is no
    newline; symbols may take a blank in front and newlines behind; all else is only white space. The two rules that
    look ahead, at the end of white space, do not apply at these cuts: the text before a cut ends in a newline, where
    an earlier rule has taken the white space, or in no white space at all.
    """
    return getattr(encoder, "pattern", None) == SPLIT_PATTERN
