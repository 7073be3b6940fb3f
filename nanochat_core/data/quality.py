"""Rules that a document of English prose keeps: Gopher's (Rae et al. 2021, arXiv 2112.11446, A.1) and C4's.

Each rule measures one thing and compares it with a limit (clean_config.py has them with their sources). Repeated runs
of words are counted over hashes, a row group at a time; the rest line by line. C4 takes single lines out of pages: here
a document stays whole or goes, so of C4 the rules for whole pages count, and the share of lines that end as sentences.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanochat_core.data.cleaning import Documents, Judge, Judged
from nanochat_core.data.word_hashes import HashedWords, Runs, hash_words

STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
BULLETS = ("-", "*", "•", "‣", "▪", "●", "◦", "–")
ELLIPSES = ("...", "…")
SENTENCE_ENDS = (".", "!", "?", '"', "”", "’", "'")
NEAR = 0.1  # a document that stays is near a limit that it would break at a tenth more, or less
LETTER = re.compile(r"[^\W\d_]")
SYMBOL = re.compile(r"\.\.\.|…")
SENTENCE = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
WORD_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Limit:
    """Of a rule: what it measures must be at least, or at most."""

    rule: str
    least: float | None = None
    most: float | None = None

    def is_broken(self, value: float) -> bool:
        return (self.least is not None and value < self.least) or (self.most is not None and value > self.most)

    def is_near(self, value: float) -> bool:
        """Whether it would be broken if the limit were a tenth stricter."""
        return Limit(
            self.rule,
            None if self.least is None else self.least * (1 + NEAR),
            None if self.most is None else self.most * (1 - NEAR),
        ).is_broken(value)


def limits_of(settings: Mapping[str, Any]) -> list[Limit]:
    """The limits that settings ask for, each under the name of what it measures; the order is that of the reasons."""
    kinds = settings["quality"].split("+")
    chosen = [*(_gopher(settings) if "gopher" in kinds else ()), *(_c4(settings) if "c4" in kinds else ())]
    return [limit for limit in chosen if limit.least is not None or limit.most is not None]


def _gopher(settings: Mapping[str, Any]) -> Iterator[Limit]:
    yield Limit("too-few-words", least=settings["min_words"])
    yield Limit("too-many-words", most=settings["max_words"])
    yield Limit("mean-word-length", least=settings["min_mean_word_chars"], most=settings["max_mean_word_chars"])
    yield Limit("symbols", most=settings["max_symbols_per_word"])
    yield Limit("bullets", most=settings["max_bullet_lines_frac"])
    yield Limit("ellipsis", most=settings["max_ellipsis_lines_frac"])
    yield Limit("words-with-letters", least=settings["min_letter_words_frac"])
    yield Limit("stop-words", least=settings["min_stop_words"])
    for kind in ("lines", "paragraphs"):
        yield Limit(f"repeated-{kind}", most=settings["max_repeated_lines_frac"])
        yield Limit(f"repeated-{kind}-by-length", most=settings["max_repeated_line_chars_frac"])
    for count in TOP:
        yield Limit(f"repeated-words-{count}", most=settings[f"max_top_{count}gram_frac"])
    first = settings["max_repeated_5gram_frac"]
    for count in REPEATED:
        yield Limit(f"{RUNS}{count}", most=None if first is None else first - 0.01 * (count - REPEATED[0]))


def _c4(settings: Mapping[str, Any]) -> Iterator[Limit]:
    yield Limit("too-few-sentences", least=settings["min_sentences"])
    yield Limit("lines-end-as-sentences", least=settings["min_sentence_lines_frac"])
    yield Limit("placeholder", most=0 if settings["placeholder_words"] else None)


ODD = 0x9E3779B97F4A7C15  # tells the runs of one text from those of another
RUNS = "repeated-runs-"
TOP, REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)


def quality_judge(settings: Mapping[str, Any]) -> Judge:
    """What takes documents out that break a rule; those that nearly do are named."""
    limits = limits_of(settings)
    repeated = [limit.most for limit in limits if limit.rule.startswith(RUNS) and limit.most is not None]
    least = min(repeated, default=1.0) * (1 - NEAR)

    def judge(documents: Documents) -> list[Judged]:
        measured = [measures(text) for text in documents.texts]
        for text, found in repetitions(hash_words(documents.texts), least=least).items():
            measured[text] |= found
        return [one for row, values in enumerate(measured) if (one := _judged(row, values, limits))]

    return judge


def _judged(row: int, values: Mapping[str, float], limits: list[Limit]) -> Judged | None:
    known = [(limit, values[limit.rule]) for limit in limits if limit.rule in values]
    broken = [(limit.rule, value) for limit, value in known if limit.is_broken(value)]
    if broken:
        return Judged(row, ", ".join(dict.fromkeys(map(_plain, broken))), round(float(broken[0][1]), 4))
    near = next(((limit.rule, value) for limit, value in known if limit.is_near(value)), None)
    return Judged(row, _plain(near), round(float(near[1]), 4), is_kept=True) if near else None


def _plain(measured: tuple[str, float]) -> str:
    """A rule's name without the length of its runs."""
    return measured[0].rstrip("-0123456789")


def measures(text: str) -> dict[str, float]:
    """What the rules look at, but for runs of words; a rule that has nothing to look at is left out."""
    words = text.split()
    num_words = len(words)
    if not num_words:
        return {"too-few-words": 0}
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    stops = STOP_WORDS.intersection(WORD_EDGES.sub("", word).lower() for word in set(words) if len(word) < 12)
    found = {
        "too-few-words": num_words,
        "too-many-words": num_words,
        "mean-word-length": sum(map(len, words)) / num_words,
        "symbols": max(text.count("#"), len(SYMBOL.findall(text))) / num_words,
        "bullets": sum(line.startswith(BULLETS) for line in lines) / len(lines),
        "ellipsis": sum(line.endswith(ELLIPSES) for line in lines) / len(lines),
        "words-with-letters": sum(LETTER.search(word) is not None for word in words) / num_words,
        "stop-words": len(stops),
        "too-few-sentences": len(SENTENCE.findall(text)),
        "lines-end-as-sentences": sum(line.endswith(SENTENCE_ENDS) for line in lines) / len(lines),
        "placeholder": text.count("{") + text.lower().count("lorem ipsum"),
    }
    paragraphs = [part for part in map(str.strip, re.split(r"\n\s*\n", text)) if part]
    for kind, parts in (("lines", lines), ("paragraphs", paragraphs)):
        distinct = set(parts)
        found[f"repeated-{kind}"] = 1 - len(distinct) / len(parts)
        found[f"repeated-{kind}-by-length"] = 1 - sum(map(len, distinct)) / sum(map(len, parts))
    return found


def repetitions(batch: HashedWords, *, least: float = 0.0) -> dict[int, dict[str, float]]:
    """By text: the share that is the commonest run of 2, 3, 4 words, and what is in runs of 5 to 10 seen before.

    Runs of 6 to 10 are looked at where more than `least` is in runs of 5, in which all of theirs is.
    """
    texts, num_words = batch.counts
    if not len(texts):
        return {}
    ends = np.cumsum(num_words)
    sizes = batch.ends[ends - 1] - batch.starts[ends - num_words]  # (T,) bytes from the first word to the last
    shares: dict[str, np.ndarray] = {}
    for count in TOP:
        shares[f"repeated-words-{count}"] = _commonest(batch, count)[texts] / sizes
    among = None
    for count in REPEATED:
        share = np.add.reduceat(_seen_before(batch, count, among), ends - num_words) / sizes
        shares[f"{RUNS}{count}"] = share
        if not (share > least).any():
            break
        if among is None:
            among = np.repeat(share > least, num_words)
    return {text: {rule: float(share[at]) for rule, share in shares.items()} for at, text in enumerate(texts.tolist())}


def _alike(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the order of runs that puts equal ones of a text together; (N,) whether one is the first such in it."""
    keys = runs.hashes ^ (runs.texts.astype(np.uint64) * np.uint64(ODD))
    order = np.argsort(keys, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = keys[order[1:]] != keys[order[:-1]]
    return order, is_first


def _seen_before(batch: HashedWords, count: int, among: np.ndarray | None) -> np.ndarray:
    """(W,) bytes of each word that is in a run of its text which was there before, else 0.

    Runs are counted one after the other: of thirteen words that come again one run of ten, as datatrove counts.
    """
    runs = batch.runs(count, among=among)
    order, is_first = _alike(runs)  # sorting is stable: the first of a group is the first in the text
    first = runs.first_words[order[~is_first]]
    begins, stops = (np.bincount(at, minlength=len(batch.words) + 1) for at in (first, first + count))
    edges = np.flatnonzero(np.diff(np.cumsum(begins - stops) > 0, prepend=False))
    starts, ends = edges[0::2], edges[1::2]  # of stretches that come again
    whole = (ends - starts) // count * count
    counted = np.cumsum(
        np.bincount(starts, minlength=len(batch.words) + 1)
        - np.bincount(starts + whole, minlength=len(batch.words) + 1)
    )
    return np.where(counted[:-1] > 0, batch.ends - batch.starts, 0)


def _commonest(batch: HashedWords, count: int) -> np.ndarray:
    """(T,) bytes in the commonest run of each text, the longest of several; 0 where none is there twice."""
    runs = batch.runs(count)
    order, is_first = _alike(runs)
    groups = np.flatnonzero(is_first)
    times = np.diff(np.append(groups, len(order)))
    groups, times = groups[times > 1], times[times > 1]
    first = runs.first_words[order[groups]]
    lengths = batch.ends[first + count - 1] - batch.starts[first]
    best = np.zeros(int(batch.texts[-1]) + 1, dtype=np.int64)
    np.maximum.at(best, batch.texts[first], (times << 32) | lengths)
    return (best >> 32) * (best & 0xFFFFFFFF)
