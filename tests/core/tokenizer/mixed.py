"""Texts that a cut made too early would give away: runs of every kind of character, next to every other kind."""

import itertools
import string
import unicodedata

import numpy as np

WHITE = [*"\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))]
NEARLY_WHITE = "\x1c\x1d\x1e\x1f\u180e\u200b\u2060\ufeff"
_ALL = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
_CATEGORIES = {char: unicodedata.category(char) for char in _ALL}


def _of(*categories: str) -> list[str]:
    return [char for char, found in _CATEGORIES.items() if found.startswith(categories)]


KINDS = (
    *([list(" "), WHITE, list("\r\n"), list(" \t\r\n\x0b\x0c")] * 2),
    list(NEARLY_WHITE),
    *([list(string.ascii_letters), list("'sdmtSDMTlLvVrReE\u017f\u212a"), list("'\u2019")] * 2),
    *([list(string.digits), list(string.punctuation), list("-_.,/#=*\"'")] * 2),
    _of("N"),
    _of("L"),
    _of("M"),
    list("\u200c\u200d\ufe0f\u0301\u093f\u0e31\u3099\u20e3"),
    list("éßжя漢あアㄱ가ไ\u0130\u01c5\u02b0\uff21"),
    _of("P", "S"),
    _of("C"),
    _of("Cn"),  # a later Unicode may make letters of them
    _ALL,
)


def mixed_texts(seed: int, num_chars: int) -> list[str]:
    """Documents of some kinds each, about `num_chars` in all; the same for a seed with one version of Python."""
    random = np.random.default_rng(seed)
    runs_of_doc = random.integers(1, 160, size=max(1, num_chars // 250))
    doc = np.repeat(np.arange(len(runs_of_doc)), runs_of_doc)
    kinds_of_doc = random.integers(len(KINDS), size=(len(runs_of_doc), 5))
    lengths = random.geometric(0.35, len(doc))
    lengths[:: random.integers(50, 200)] += random.integers(1, 90)  # now and then a long run
    kinds = np.repeat(kinds_of_doc[doc, random.integers(5, size=len(doc))], lengths)
    pools = [np.array([ord(char) for char in kind], np.uint32) for kind in KINDS]
    sizes, starts = np.array([len(pool) for pool in pools]), np.cumsum([0, *map(len, pools[:-1])])
    places = starts[kinds] + (random.random(len(kinds)) * sizes[kinds]).astype(np.int64)
    text = np.concatenate(pools)[places].astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum(np.bincount(doc, weights=lengths)).astype(int).tolist()
    return [text[start:end] for start, end in itertools.pairwise([0, *ends])]
