"""Which language a document is in, by py3langid: a naive Bayes over byte sequences, which the package ships whole.

It needs no network and knows 140 languages (Lui and Baldwin 2012's langid.py, kept up by A. Barbaresi). A document is
told by a few pieces of it at even distances, so that one which begins in English and goes on in German is neither, and
a long one costs no more than a page.
"""

import functools
from collections.abc import Collection
from typing import Any

from nanochat_core.base.errors import ConfigError
from nanochat_core.data.cleaning import Documents, Judge, Judged

PIECES, PIECE_CHARS = 3, 300
NEAR = 0.15  # a document that stays is near the line within so much probability above it


def wanted_languages(told: str) -> tuple[str, ...]:
    """The codes of a setting like "en,de"; ConfigError for one that nobody knows."""
    wanted = tuple(dict.fromkeys(code.strip().lower() for code in told.split(",") if code.strip()))
    known = _identifier().labels
    for code in wanted or ("",):
        if code not in known:
            raise ConfigError(
                f"clean.languages = {told}: there is no language {code!r}", hint=f"there are {', '.join(sorted(known))}"
            )
    return wanted


def language_judge(wanted: tuple[str, ...], least: float) -> Judge:
    """What takes documents out that are in other languages, or in none."""

    def judge(documents: Documents) -> list[Judged]:
        found = []
        for row, text in enumerate(documents.texts):
            language, score = language_of(text, wanted)
            if score < least:
                found.append(Judged(row, f"language {language}", round(score, 4)))
            elif score < least + NEAR:
                found.append(Judged(row, f"language {language}", round(score, 4), is_kept=True))
        return found

    return judge


def language_of(text: str, wanted: Collection[str]) -> tuple[str, float]:
    """The likeliest language of a document ("none" where it has no letter), and how likely it is a wanted one rather
    than the likeliest other."""
    pieces = [piece for piece in pieces_of(text) if any(map(str.isalpha, piece))]
    if not pieces:
        return "none", 0.0
    means: dict[str, float] = {}
    for piece in pieces:
        for code, probability in _identifier().rank(piece):
            means[code] = means.get(code, 0.0) + float(probability) / len(pieces)
    ours = sum(means[code] for code in wanted)
    other = max((probability for code, probability in means.items() if code not in wanted), default=0.0)
    return max(means, key=lambda code: means[code]), ours / (ours + other)


def pieces_of(text: str) -> list[str]:
    """A few pieces of a text, begun at words; a short one whole."""
    if len(text) <= PIECES * PIECE_CHARS:
        return [text]
    starts = [number * (len(text) - PIECE_CHARS) // (PIECES - 1) for number in range(PIECES)]
    return [text[start : start + PIECE_CHARS] for start in starts]


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
