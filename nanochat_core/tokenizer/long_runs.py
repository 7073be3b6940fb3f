"""Work in proportion to the length, whatever the text: long runs are encoded in parts that give the same ids.

White space: above about a million blanks the split pattern's backtracking overflows and the native code panics, so a
run is cut every 50,000 characters, always at the same places; decoding joins it again.

Words, marks and blanks without an end (a megabyte of letters, of #) are one piece to the split pattern, and merging a
piece takes n log n steps and a hundred bytes of memory for each of its own. They are cut every thousand characters, and
the cuts are mended: encodings of two neighbouring texts, put one after the other, are the encoding of the whole exactly
where the two tokens at the seam would stay apart if they were all there is. Merges go by rank, what happens within a
token of the result never crosses its ends, so whether anything crosses the seam depends on these two alone.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

MAX_RUN_CHARS = 50_000
WINDOW_CHARS = 1_024
# Tokens before a seam that are encoded anew; more than a few are never needed. One, where four are more than a window:
# a vocabulary may have tokens of hundreds of marks.
TAKEN_BACK = (4, 1, 16, 64)
BLANKS = re.compile(r"\s*")
# what the split pattern takes for white space: Python's own has four characters more
WHITE = " \t\n\x0b\x0c\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
WHITES, NO_LINES = re.compile(f"[{WHITE}]*"), re.compile(f"[{WHITE.translate({10: None, 13: None})}]+")
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


def whole(text: str) -> str:
    """The text with halves of characters (surrogates) put together; U+FFFD for the lone ones. As tiktoken does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def cut(text: str) -> list[tuple[list[str], bool]]:
    """The text in parts that are encoded each by itself, a part in windows whose seams are to be mended.

    True beside a part that is one piece and is merged without the pattern: white space up to its last end of a line.
    In a window of it the pattern would see a piece end at an earlier line.
    """
    parts: list[tuple[list[str], bool]] = []
    done = passed = 0
    for place in range(0, len(text) - WINDOW_CHARS + 1, WINDOW_CHARS):
        if place < passed or not text[place : place + WINDOW_CHARS].isspace():
            continue
        start, passed = _white(text, place)
        end = max(text.rfind("\n", start, passed), text.rfind("\r", start, passed)) + 1
        if end - start < 2 * WINDOW_CHARS:
            continue
        lines = end - len(text[start:end].lstrip("\r\n"))
        before = unicodedata.category(text[start - 1]) if lines > start > 0 else "L"
        if before == "Cn":  # a later Unicode may call it a letter or a mark; not cut
            parts.append(([text[done:end]], False))
        else:
            start = start if before[0] in "LN" else lines  # a mark takes the ends of lines that follow it
            parts.append((_cut_words(text[done:start]), False))
            if start < end:
                parts.append((_cut_at(text[start:end], _places(end - start)), True))
        done = end
    return [*parts, (_cut_words(text[done:]), False)]


def _white(text: str, place: int) -> tuple[int, int]:
    """Where the white space around a place begins and ends."""
    before = max(0, place - MAX_RUN_CHARS)
    return before + len(text[before:place].rstrip(WHITE)), WHITES.match(text, place).end()  # type: ignore[union-attr]


def _cut_words(text: str) -> list[str]:
    """Cut where a window on either side is letters alone, marks alone, or blanks alone: within one piece."""
    places = _places(len(text))
    return _cut_at(text, [at for at in places if _is_one_piece(text, at - WINDOW_CHARS, at + WINDOW_CHARS)])


def _places(num_chars: int) -> range:
    return range(WINDOW_CHARS, num_chars - WINDOW_CHARS + 1, WINDOW_CHARS)


def _cut_at(text: str, places: Iterable[int]) -> list[str]:
    return [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]


def _is_one_piece(text: str, start: int, end: int) -> bool:
    return (
        text[start:end].isalpha()
        or MARKS.fullmatch(text, start, end) is not None
        or NO_LINES.fullmatch(text, start, end) is not None
    )


def encode_windows(
    windows: Sequence[str],
    *,
    encode: Callable[[str], list[int]],
    merge: Callable[[bytes], list[int]],
    bytes_of: Callable[[int], bytes],
) -> list[int] | None:
    """Ids of the text in these windows, which `encode` encodes; None where a seam cannot be mended.

    `merge` encodes the bytes of one piece. A window begins a few tokens early, where one of those before it begins: so
    a token that repeats goes on repeating, whatever its length.
    """
    ids = encode(windows[0])
    for window in windows[1:]:
        for count in TAKEN_BACK:
            taken = b"".join(map(bytes_of, ids[-count:]))
            while count < len(ids) and taken[0] & 0xC0 == 0x80:  # no character is taken apart
                count += 1
                taken = bytes_of(ids[-count]) + taken
            if count >= len(ids) or _num_chars(bytes_of(ids[-count - 1]) + taken) > WINDOW_CHARS:
                continue  # it might reach beyond the piece
            following = encode(taken.decode() + window)
            if merge(bytes_of(ids[-count - 1]) + bytes_of(following[0])) == [ids[-count - 1], following[0]]:
                ids[-count:] = following
                break
        else:
            return None
    return ids


def _num_chars(content: bytes) -> int:
    """How many characters these bytes are a part of."""
    return 1 + len(content.decode(errors="ignore"))
