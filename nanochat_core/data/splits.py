"""Which documents of a corpus are for training and which for validation, and what a person is told about it.

Files whose names say so are held out. Where none does, the last file is, as published shards have it; where that one
would not fill a row (a folder of small notes), has all that the others have, or is the only one, documents at even
distances are, so that validation resembles the whole.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from nanochat_core.data.files import held_out, kind_of, last_of, listing
from nanochat_core.data.placed import PlacedText
from nanochat_core.data.texts import PART_CHARS, Tally, part_chars_of_only, read_texts

LARGE_FILE_BYTES = 1 << 20  # such a file fills a row, whatever it holds
BYTES_PER_TOKEN = 8  # more than text has: so many bytes fill a row for certain
Reader = Callable[[], Iterator[PlacedText]]
"""A pass over documents; each call starts a new one in the same order."""


@dataclass(frozen=True)
class Split:
    """Training and validation documents."""

    train: Reader
    validation: Reader
    told: str
    """What is validation, for people."""
    tally: Tally
    """Fills as documents are read."""


def roles(names: Sequence[str]) -> list[str]:
    """What each file is by its name, where that sets anything apart; with order and kind all that a name decides."""
    chosen, last = held_out(names), last_of(names) if names else ""
    return ["held out" if name in chosen else "last" if name == last and not chosen else "" for name in names]


def limited(names: Sequence[str], max_files: int | None) -> list[str]:
    """The first files for training and all that is held out, where only so many are wanted."""
    if not max_files or max_files >= len(names):
        return list(names)
    chosen = held_out(names) or [last_of(names)]
    train = [name for name in names if name not in chosen][: max(1, max_files - 1)]
    return [name for name in names if name in (*train, *chosen)]


def least_bytes(files: Mapping[str, Path], *, sequence_len: int) -> int:
    """How much text the last file must have to be validation; 1 where that does not depend on the length of a row."""
    names = list(files)
    if len(names) == 1 or held_out(names) or files[last_of(names)].stat().st_size >= LARGE_FILE_BYTES:
        return 1
    return BYTES_PER_TOKEN * sequence_len


def split_files(
    files: Mapping[str, Path], column: str, *, validation_docs: int, least_bytes: int, is_published: bool = True
) -> Split:
    """Documents of files by name; see the module, and `read_texts` for `is_published`."""
    names, tally = list(files), Tally()

    def reader(chosen: Sequence[str], tally: Tally | None, part_chars: int = PART_CHARS) -> Reader:
        return lambda: itertools.chain.from_iterable(
            read_texts(files[name], column, tally=tally, name=name, part_chars=part_chars, is_published=is_published)
            for name in chosen
        )

    chosen, last = held_out(names), last_of(names)
    told = f"{listing(chosen)}, by {'their names' if len(chosen) > 1 else 'its name'}"
    others = [name for name in names if name != last]
    is_small = files[last].stat().st_size < LARGE_FILE_BYTES
    if (
        not chosen
        and _has_bytes(reader([last], None), least_bytes)
        and _differ(reader(others, None), reader([last], None) if is_small else lambda: iter(()))
    ):
        chosen, told = [last], f"{last}, the last file"
    if chosen:
        train = [name for name in names if name not in chosen]
        return Split(reader(train, tally), reader(chosen, tally), told, tally)
    part_chars = PART_CHARS
    if len(names) == 1 and kind_of(files[last]) == "txt":
        part_chars = part_chars_of_only(files[last].stat().st_size)
    why = f", since {last} alone, the last file, or what the rest adds to it, is too small" if others else ""
    again = reader(names, None, part_chars)
    return split_documents(again, validation_docs, tally=tally, first=reader(names, tally, part_chars), why=why)


def split_documents(
    read: Reader, validation_docs: int, *, tally: Tally | None = None, first: Reader | None = None, why: str = ""
) -> Split:
    """Set documents aside at even distances; `first` is the pass that counts them."""
    total = sum(1 for _ in (first or read)())
    wanted = min(validation_docs, total // 10) if total >= 10 else min(1, total // 2)
    chosen = {(2 * i + 1) * total // (2 * wanted) for i in range(wanted)}
    return Split(
        lambda: (document for i, document in enumerate(read()) if i not in chosen),
        lambda: (document for i, document in enumerate(read()) if i in chosen),
        f"{wanted:,} of {total:,} documents, spread over all{why}",
        tally or Tally(),
    )


def _differ(read: Reader, known: Reader) -> bool:
    """Whether a document of `read` is not among the known ones: without one there would be nothing to train on."""
    digests = {sha256(document.text.encode()).digest() for document in known()}
    return any(sha256(document.text.encode()).digest() not in digests for document in read())


def _has_bytes(read: Reader, wanted: int) -> bool:
    num_bytes = 0
    for document in read():
        num_bytes += len(document.text.encode())
        if num_bytes >= wanted:
            return True
    return False
