"""Work in proportion to the length, whatever the text: long runs are encoded in parts that give the same ids.

White space: above about a million blanks the split pattern's backtracking overflows and the native code panics, so a
run is cut every 50,000 characters, always at the same places; decoding joins it again.

Words and marks without an end (a megabyte of letters, of #) are one piece to the split pattern, and merging a piece
takes n log n steps and a hundred bytes of memory for each of its own. They are cut every few thousand characters, and
the cuts are mended: encodings of two neighbouring texts, put one after the other, are the encoding of the whole exactly
where the two tokens at the seam would stay apart if they were all there is. Merges go by rank, what happens within a
token of the result never crosses its ends, so whether anything crosses the seam depends on these two alone.
"""

import itertools
import re
from collections.abc import Callable, Sequence

MAX_RUN_CHARS = 50_000
WINDOW_CHARS = 4_096
MENDED_TOKENS = (4, 16, 64)  # encoded anew on each side of a seam; more than a few are never needed
BLANKS = re.compile(r"\s*")
# marks in any version of Unicode: no letter, number or white space is among them
MARKS = re.compile(
    r"[\0-\x08\x0e-\x1b!-/:-@\[-`{-\x7f\u0300-\u036f\u200b-\u200f\u2010-\u2027\u2190-\u23ff\u2500-\u26ff\u3001-\u3003\ufe0f"
    r"\ufffd\U0001f300-\U0001f64f]+"
)


def cut_runs(text: str) -> list[str]:
    """The text in pieces without a longer run of white space than the split pattern's engine can take.

    A run that is long enough covers a multiple of its least length, so only those places are looked at.
    """
    ends: list[int] = []
    passed = 0  # where the last run that was looked at ends
    for place in range(0, len(text), MAX_RUN_CHARS):
        if place < passed or not text[place].isspace():
            continue
        before = max(0, place - MAX_RUN_CHARS)
        start = before + len(text[before:place].rstrip())
        passed = BLANKS.match(text, place).end()  # type: ignore[union-attr]
        ends += range(start + MAX_RUN_CHARS, passed + 1, MAX_RUN_CHARS)
    return [text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)]) if start < end]


def cut_words(text: str) -> list[str]:
    """The text cut where a window on either side is letters alone, or marks alone: within one piece of the pattern."""
    places = range(WINDOW_CHARS, len(text) - WINDOW_CHARS + 1, WINDOW_CHARS)
    cuts = [place for place in places if _is_one_piece(text, place - WINDOW_CHARS, place + WINDOW_CHARS)]
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def _is_one_piece(text: str, start: int, end: int) -> bool:
    return text[start:end].isalpha() or MARKS.fullmatch(text, start, end) is not None


def join(
    left: list[int], right: Sequence[int], *, merge: Callable[[bytes], list[int]], bytes_of: Callable[[int], bytes]
) -> bool:
    """Append the ids of the part that follows to those of what came before; False where the seam cannot be mended.

    `merge` encodes the bytes of one piece; both sides of the seam are at least a window of one piece.
    """

    def stay_apart(one: int, other: int) -> bool:
        return merge(bytes_of(one) + bytes_of(other)) == [one, other]

    if stay_apart(left[-1], right[0]):
        left += right
        return True
    for count in MENDED_TOKENS:
        if min(len(left), len(right)) <= count:
            return False
        before, after = [b"".join(map(bytes_of, side)) for side in (left[-count:], right[:count])]
        outer = bytes_of(left[-count - 1]), bytes_of(right[count])
        if max(len(outer[0]) + len(before), len(after) + len(outer[1])) > WINDOW_CHARS:
            return False  # it might reach beyond the piece
        mended = merge(before + after)
        if stay_apart(left[-count - 1], mended[0]) and stay_apart(mended[-1], right[count]):
            left[-count:] = mended
            left += right[count:]
            return True
    return False
