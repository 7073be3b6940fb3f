"""The distinct pieces of a text with their counts, many times faster than a pattern finds them.

Two neighbouring bytes often tell alone that every pattern a vocabulary is learnt with cuts there: a letter and a
comma, a comma and a blank. Arrays of bytes are cut at those places, what lies between is counted by hashing, and the
pattern itself sees each distinct stretch once, however often it stands in the text. A place left uncut costs time,
never a different piece. Why a cut holds, whatever stands around it:

- a piece with a letter in it ends with a letter, and a piece with a digit has nothing but digits, at its end and its
  beginning, so an ASCII letter and what is certainly none are apart;
- white space belongs to what is before it only as the end of a line, and then only after a mark;
- of white space before anything else, the last blank begins a piece, whatever precedes it; the ends of lines never do.

Only bytes of ASCII and those that begin a character which is no white space are judged; the rest never cuts.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MOST_STRETCH_BYTES = 1 << 25  # of different ones, before the pattern cuts them
BATCH_BYTES = 1 << 21  # cut and counted at once: what this takes stays in the processor's cache
UNKNOWN, LETTER, DIGIT, BLANK, LINE, MARK, BEGINS = range(7)
"""Kinds of bytes. BEGINS: the first of a character past ASCII that is a letter, a mark or a number."""
_APART = {
    LETTER: (DIGIT, BLANK, LINE, MARK),
    DIGIT: (LETTER, BLANK, LINE, MARK),
    MARK: (DIGIT, BLANK),
    LINE: (LETTER, DIGIT, MARK, BEGINS),
}
_BEFORE_BLANK = (LETTER, DIGIT, MARK, BEGINS)  # the blank before one of these begins a piece
BETWEEN, EARLIER = 1, 2  # a cut between two bytes; before the first of them
ONE_PIECE = r"^([ -&(-/:-@\[-`{-~]?[A-Za-z]+|[0-9]{1,2}| ?[!-/:-@\[-`{-~]+)$"
"""Stretches of ASCII that are one piece to every pattern: a word with what is before it, a number, marks."""


def _kinds() -> bytes:
    kinds = bytearray(256)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = (
            LETTER if char.isalpha() else DIGIT if char.isdigit() else LINE if char in "\r\n" else
            BLANK if char in " \t\v\f" else MARK
        )  # fmt: skip
    # white space past ASCII begins with C2, E1, E2 or E3
    for byte in (*range(0xC3, 0xE1), *range(0xE4, 0xF5)):
        kinds[byte] = BEGINS
    return bytes(kinds)


def _cuts() -> bytes:
    """What is cut at two bytes of kinds a and b, at place 8 a + b."""
    cuts = bytearray(256)
    for first, seconds in _APART.items():
        for second in seconds:
            cuts[8 * first + second] = BETWEEN
    for second in _BEFORE_BLANK:
        cuts[8 * BLANK + second] = EARLIER
    return bytes(cuts)


KINDS, CUTS = _kinds(), _cuts()


class Counts:
    """Texts with how often each was met, as a table of columns `content` (bytes of UTF-8) and `count`."""

    def __init__(self) -> None:
        import pyarrow as pa

        self._schema = pa.schema([("content", pa.binary()), ("count", pa.int64())])
        self._summed, self._fresh = self._schema.empty_table(), list[pa.Table]()

    def add(self, contents: "pa.Array", counts: "pa.Array") -> None:
        """Count these too."""
        import pyarrow as pa

        self._fresh.append(pa.Table.from_arrays([contents, counts], schema=self._schema))
        # so that what was summed is summed again a few times, whatever the length of the text
        if sum(map(len, self._fresh)) > 2 * len(self._summed):
            self.table()

    @property
    def num_bytes(self) -> int:
        """In memory; of what was not summed yet too."""
        return sum(part.nbytes for part in (self._summed, *self._fresh))

    def table(self) -> "pa.Table":
        """Each content once."""
        import pyarrow as pa

        parts = pa.concat_tables([self._summed, *self._fresh]).group_by("content", use_threads=False)
        self._summed = parts.aggregate([("count", "sum")]).rename_columns(self._schema.names).cast(self._schema)
        self._fresh = []
        return self._summed


def count_pieces(texts: Iterable[str], pattern: str) -> list[tuple[str, int]]:
    """Every piece that `pattern` cuts the texts into, with how often, sorted.

    Words that are alike then lie side by side, which spares the merges an eighth of their time. Any pattern of
    `patterns.NAMED` in either of its forms.
    """
    import pyarrow as pa

    pieces, stretches = Counts(), Counts()
    for batch in _batches(texts):
        stretches.add(*cut(batch).value_counts().flatten())
        if stretches.num_bytes > MOST_STRETCH_BYTES:
            _add_pieces(pieces, stretches.table(), pattern)
            stretches = Counts()
    _add_pieces(pieces, stretches.table(), pattern)
    found = pieces.table().sort_by("content")
    pa.default_memory_pool().release_unused()  # a hundred MB, which the merges take next
    return list(zip(found["content"].cast(pa.string()).to_pylist(), found["count"].to_pylist(), strict=True))


def _add_pieces(pieces: Counts, stretches: "pa.Table", pattern: str) -> None:
    """Count the pieces of stretches that were counted."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from ffbpe import PreTokenizer

    is_one = pc.match_substring_regex(stretches["content"], ONE_PIECE)
    alone, others = stretches.filter(is_one), stretches.filter(pc.invert(is_one))
    pieces.add(alone["content"].combine_chunks(), alone["count"].combine_chunks())
    words, times = others["content"].cast(pa.string()), others["count"].to_numpy()
    for bit in range(int(times.max(initial=0)).bit_length()):
        # once for each bit of its count: a stretch of a million is not looked at a million times
        counter = PreTokenizer([], pat_str=pattern).word_counter()
        counter.add_batch(words.filter((times >> bit) & 1 == 1).to_pylist())
        met = counter.words()
        pieces.add(pa.array(met, pa.string()).cast(pa.binary()), pa.array([n << bit for n in met.values()], pa.int64()))


def _batches(texts: Iterable[str]) -> Iterator[list[bytes]]:
    batch, num_bytes = [], 0
    for text in texts:
        batch.append(text.encode())
        num_bytes += len(batch[-1])
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if num_bytes:
        yield batch


def cut(documents: list[bytes]) -> "pa.BinaryArray":
    """The documents, a byte or more of them, cut wherever two bytes tell that any pattern cuts."""
    import pyarrow as pa

    content = b"".join(documents)
    ends = np.cumsum([len(document) for document in documents])
    kinds = np.frombuffer(content.translate(KINDS), np.uint8)
    pairs = kinds[:-1] << 3
    pairs |= kinds[1:]
    told = np.frombuffer(bytearray(pairs.tobytes().translate(CUTS)), np.uint8)
    told[ends[(ends > 0) & (ends < len(content))] - 1] = 0  # not by a byte of the next document
    is_cut = np.zeros(len(content) + 1, np.uint8)
    is_cut[1:-1] = told & BETWEEN
    is_cut[:-2] |= told >> 1
    is_cut[ends] = is_cut[0] = 1
    offsets = np.flatnonzero(is_cut.view(bool)).astype(np.int32)
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )  # fmt: skip
