"""What a person is told of a corpus: what was read of which file, dropped, or is odd, and why nothing is left."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from nanochat_core.base.errors import MissingError
from nanochat_core.base.text import NoUtf8
from nanochat_core.config import CorpusConfig
from nanochat_core.data import files, streams
from nanochat_core.data.files import Found, listing
from nanochat_core.data.splits import Split

CUT, REPEATED, AGAIN = "corpus.max_bytes", "also in validation", "again"  # why documents are dropped, or stay
SCANNED_BYTES = 64 << 20  # of each file, for all that are no UTF-8 to be named at once


@contextlib.contextmanager
def all_encodings_told(select: Callable[[], Found] | None) -> Iterator[None]:
    """Within the block, the first file that is no UTF-8 has all such files named, each with its command.

    `select` says which files are read; None where they are not somebody's own.
    """
    try:
        yield
    except NoUtf8 as error:
        if select is None:
            raise
        found = select()
        plain = [path for path in found.files if files.kind_of(path) != "parquet"]
        wrong = {path: reason for path in plain if (reason := streams.no_utf8(path, most_bytes=SCANNED_BYTES))}
        if len(wrong) < 2:
            raise
        told = [reason.message.replace(str(path), found.name(path)) for path, reason in wrong.items()]
        commands = [reason.hint for reason in wrong.values() if reason.hint]
        raise NoUtf8(
            f"{len(wrong):,} files are not UTF-8: {'; '.join(told[: files.NAMES_SHOWN])}",
            hint="; ".join(commands[: files.NAMES_SHOWN]),
        ) from error


def corpus_notes(split: Split, dropped: Counter[str], train_docs: int, config: CorpusConfig) -> Iterator[str]:
    """What a person is told of what was read, held out and dropped."""
    tally = split.tally
    if config.source != "embedded":
        yield f"validation is {split.told}"
        read = [f"{tally.documents[name]:,} of {name}" for name in {**tally.documents, **tally.empty}]
        yield f"documents: {listing(read)}"
    for name, chars in tally.parts_of.items():
        yield f"{name} is cut into parts of at most {chars:,} characters, at blank lines where it has any"
    lost = [f"{tally.empty.total():,} empty documents"] if tally.empty else []
    if dropped[REPEATED]:
        lost.append(f"{dropped[REPEATED]:,} training documents that are also in validation")
    if lost:
        yield f"left out: {', '.join(lost)}"
    noticed = [f"{num:,} {flaw} (the first: {tally.first[flaw]})" for flaw, num in tally.noticed.items()]
    if noticed:
        yield f"noticed: of {tally.documents.total():,} documents {'; '.join(noticed)}"
    if dropped[AGAIN]:
        yield f"{dropped[AGAIN]:,} training documents are the same as an earlier one (duplicates); they stay"
    if dropped[CUT]:
        yield f"corpus.max_bytes = {config.max_bytes:,} ends the training text after {train_docs:,} documents"


def nothing(split: Split, train: int, validation: int, dropped: Counter[str], config: CorpusConfig) -> MissingError:
    """The error for a corpus that lacks training or validation, with the reason in its hint."""
    tally = split.tally
    hint = "one document gives nothing to validate on: cut it into several, or give it a file valid.txt as well"
    if not tally.documents.total():
        hint = "its files hold no text" + (f": {tally.empty.total():,} documents are empty" if tally.empty else "")
    elif not validation and tally.documents.total() > 1:
        hint = f"validation is {split.told}, and holds no text: take it out, or give it some"
    elif not train and dropped[CUT]:
        hint = f"the first document alone is larger than corpus.max_bytes = {config.max_bytes:,}"
    elif not train and dropped[REPEATED]:
        hint = f"every training document is also in validation ({split.told}): give it other text"
    elif not train and validation > 1:
        hint = f"validation is {split.told}, and the other files hold no text"
    return MissingError(
        f"the corpus has {train} training and {validation} validation documents; it needs both", hint=hint
    )
