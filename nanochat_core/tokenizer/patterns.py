"""Split patterns that are known: of published vocabularies, each cutting any text into the same pieces in every engine.

A pattern is read by several engines (fancy-regex in tiktoken and rustbpe, Oniguruma in `tokenizers`), which agree on
these (a test has every character of the basic plane in them) and not on all: `{1,3}+` is possessive in one and repeats
in another. Each covers every text, so that nothing falls between the pieces. How many digits make a piece is free.
"""

import re

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIKTOKEN_GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
DIGITS = re.compile(r"\|( \?)?\\p\{N\}(?:\+|\{1,\d\}|)\|")


def _without_digits(pattern: str) -> str:
    return DIGITS.sub(r"|\1DIGITS|", pattern)


_KNOWN = {_without_digits(pattern) for pattern in (GPT2, GPT4, TIKTOKEN_GPT4, GPT4O)}


def is_known(pattern: str) -> bool:
    """Whether a pattern cuts alike in every engine, whatever the length of its numbers."""
    return _without_digits(pattern) in _KNOWN
