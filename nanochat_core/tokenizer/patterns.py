"""Split patterns: those a vocabulary can be learnt with, and those of published ones, the same in every engine.

A pattern is read by several engines (fancy-regex in tiktoken and rustbpe, Oniguruma in `tokenizers`), which agree on
these (a test has every character of the basic plane in them) and not on all: `{1,3}+` is possessive in one and repeats
in another. Each covers every text, so that nothing falls between the pieces. How many digits make a piece is free.

nanochat's is GPT-4's, but numbers go in groups of at most two digits: small vocabularies then spend fewer tokens on
digits. Both take a word for letters alone, which cuts the words of India at every vowel sign, and what is written
without blanks for one word; `scripts` keeps signs with their letters, and Chinese, kana and the rest apart.
"""

import re

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
EQUAL_PATTERN = (
    r"(?:'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n])|\s+(?!\S)|\s+"
)
"""What is compiled in its place: the same pieces of every text, in a half to a third of the time.

What comes before the look-ahead is one group that needs no backtracking, so it runs as an automaton. The possessive
marks may go: a character before letters is none itself, and line ends are no marks, so giving back never matched.
"""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIKTOKEN_GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
EQUAL_GPT4 = EQUAL_PATTERN.replace("{1,2}", "{1,3}")
_BLANKLESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTERS = rf"[\p{{L}}\p{{M}}&&[^{_BLANKLESS}]]+"
SCRIPTS = (
    r"(?:'(?i:[sdmt]|ll|ve|re)|\p{Han}+|[\p{Hiragana}\u30fc]+|[\p{Katakana}\u30fc]+|[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]+"
    # an invisible joiner between letters is part of the word, as India and Persian write it
    rf"|[^\r\n\p{{L}}\p{{M}}\p{{N}}]?{_LETTERS}(?:[\u200c\u200d]{_LETTERS})*"
    r"|\p{N}{1,2}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|[\p{L}\p{M}]|\s*[\r\n])|\s+(?!\S)|\s+"
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


_KNOWN = {_without_digits(pattern) for pattern in (GPT2, GPT4, TIKTOKEN_GPT4, GPT4O, SCRIPTS)}
NAMED = {"nanochat": SPLIT_PATTERN, "gpt4": TIKTOKEN_GPT4, "scripts": SCRIPTS, "bytes": SPLIT_PATTERN}
"""What `tokenizer.pattern` may be. `bytes` learns no merges, so that how text is cut makes no difference."""
_COMPILED = {SPLIT_PATTERN: EQUAL_PATTERN, TIKTOKEN_GPT4: EQUAL_GPT4}


def compiled_pattern(pattern: str) -> str:
    """The pattern that the native code is given for a stored one: the same pieces, in less time."""
    return _COMPILED.get(pattern, pattern)


def is_known(pattern: str) -> bool:
    """Whether a pattern cuts alike in every engine, whatever the length of its numbers."""
    return _without_digits(pattern) in _KNOWN
