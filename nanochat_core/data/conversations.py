"""Packed conversations for fine-tuning: rows with padding, no token lost, the loss mask kept.

Conversations are put into rows best-fit by descending length; what is left of a row is padded with BOS and masked.
One that is longer than a row is cut into consecutive pieces, each overlapping the one before by a token, so no target
is dropped. Large mixtures are rendered by worker processes; the result does not depend on how many.
"""

import collections
import hashlib
import heapq
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError
from nanochat_core.base.process import die_with_parent
from nanochat_core.data import files, forms, streams
from nanochat_core.data.asked import Asked
from nanochat_core.data.rows import Row
from nanochat_core.tokenizer.conversation import check_messages, render_conversation
from nanochat_core.tokenizer.tokenizer import Added, Tokenizer, id_type

Conversation = dict[str, Any]
AS_IT_IS = Asked()  # each row is told by what it holds
KINDS = ("jsonl", "json", "parquet", "csv")
CHUNK_CONVERSATIONS = 250  # what a worker renders at a time
MIN_FOR_PROCESSES = 40_000  # below this, starting processes costs more than they save
CHUNKS_PER_WORKER = 4  # in flight: enough to keep it busy, few enough not to hold the mixture in memory


def select(path: str | None, *, setting: str = "sft.path", asked: Asked = AS_IT_IS) -> files.Found:
    """What a path of conversations means: the files to read, sorted by name, and what is left out."""
    found = files.find(path, KINDS, setting=setting)
    reasons = {
        each: _unfit_file(each, asked) for each in found.files if len(found.files) > 1 and files.kind_of(each) == "json"
    }
    left_out = [files.LeftOut(found.name(each), why) for each, why in reasons.items() if why]
    kept = [each for each in found.files if not reasons.get(each)]
    return replace(found, files=kept, left_out=[*found.left_out, *left_out])


def _unfit_file(path: Path, asked: Asked) -> str | None:
    """Why a .json file of a folder holds no conversations."""
    try:
        first = next((value for _, value in streams.json_values(path)), None)
    except MissingError:
        return None  # reading it says why
    try:
        is_one = isinstance(first, dict) and forms.form_of(asked.row(first))
    except MissingError:
        is_one = None
    return None if is_one else "its first value is no conversation"


def notes_of(path: str | None, *, setting: str = "sft.path", asked: Asked = AS_IT_IS) -> list[str]:
    """What a person is told of the files each time, made or cached."""
    if not path:
        return []
    note = files.note_of(select(path, setting=setting, asked=asked), setting=setting)
    return [note] if note else []


def conversation_of_row(row: Row, index: int, asked: Asked = AS_IT_IS) -> Conversation:
    """{"messages", "form", "remarks"} of a row in any form (data/forms.py), or in the one that is asked for."""
    made = forms.conversation(asked.row(row))
    check_messages(made["messages"])
    return made


def unfit(conversation: Conversation) -> str | None:
    """Why a conversation teaches nothing; None where it has an answer and no empty turn."""
    messages = conversation["messages"]
    if any(_is_empty(message) for message in messages):
        return "with an empty turn"
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        return "without an answer to learn from"
    return None if any(map(_is_learnt, answers)) else "with nothing to learn: its answers are context (weight or train)"


def _is_learnt(message: dict[str, Any]) -> bool:
    """Whether an answer has a target; its end alone is none."""
    if isinstance(message["content"], str):
        return bool(message.get("train", True))
    return any(part["type"] != "python_output" and part.get("train", True) for part in message["content"])


def _is_empty(message: dict[str, Any]) -> bool:
    content = message.get("content")
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else [content]
    return not any(isinstance(part, str) and part.strip() for part in parts)


def key_of(conversation: Conversation) -> int:
    """What makes two conversations the same: 63 bits of the sha256 of what is said."""
    said = json.dumps([(message["role"], message["content"]) for message in conversation["messages"]], sort_keys=True)
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8]) >> 1


@dataclass(frozen=True)
class _Pieces:
    """Rendered conversations, cut so that each piece fits into a row."""

    ids: np.ndarray
    """(tokens,) uint16 or uint32, piece after piece."""
    mask: np.ndarray
    """(tokens,) uint8: 1 where the id is to be learnt."""
    lengths: np.ndarray
    """(pieces,) int64."""
    pieces_of: np.ndarray
    """(conversations,) int64: how many pieces each is; several where it is longer than a row."""

    @property
    def num_cut(self) -> int:
        return int((self.pieces_of > 1).sum())


def pack_conversations(
    tokenizer: Tokenizer,
    conversations: Iterable[Conversation],
    *,
    row_len: int,
    progress: Callable[[int], None],
    num_workers: int | None = None,
    places: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(rows, row_len) ids (uint16 or uint32) and mask uint8, and counts. `num_workers` None: one per core.

    `places`: a parquet file to write, with what each row has of which conversation, and the file and line of that.
    """
    chunks: list[_Pieces] = []
    origins: list[tuple[str | None, int | None]] = []
    num_conversations = 0
    noted = _noting(conversations, origins)
    for chunk in _render_all(tokenizer, noted, row_len=row_len, num_workers=_workers(conversations, num_workers)):
        chunks.append(chunk)
        num_conversations += len(chunk.pieces_of)
        if num_conversations % 1000 < CHUNK_CONVERSATIONS:
            progress(num_conversations)
    if not chunks:
        raise MissingError(
            "there is not one conversation to learn from", hint="check sft.path or the sft.num_* settings"
        )
    pieces = _joined(chunks)
    chunks.clear()
    rows = _fit(pieces.lengths.tolist(), row_len)
    ids, mask = _filled(pieces, rows, row_len=row_len, padding=tokenizer.bos)
    if places:
        _write_places(places, pieces, rows, origins)
    if not pieces.mask.any():
        raise MissingError(
            f"not one of {num_conversations:,} conversations has a target: there is no answer to learn from",
            hint="check sft.path: the assistant's messages are what is learnt",
        )
    counts = {
        "conversations": num_conversations,
        "tokens": len(pieces.ids),
        "targets": int(pieces.mask.sum(dtype=np.int64)),
        "rows": len(rows),
        "cut": pieces.num_cut,
    }
    return ids, mask, counts


def _noting(
    conversations: Iterable[Conversation], origins: list[tuple[str | None, int | None]]
) -> Iterator[list[dict[str, Any]]]:
    """The messages of each, and in `origins` where they are from, as far as anybody says (pipeline/mixture.py)."""
    for one in conversations:
        origins.append((one.get("file"), one.get("line")))
        yield one["messages"]


def _workers(conversations: Iterable[Conversation], num_workers: int | None) -> int:
    is_many = isinstance(conversations, Sequence) and len(conversations) >= MIN_FOR_PROCESSES
    return num_workers or os.cpu_count() or 1 if is_many else 1


def _render_all(
    tokenizer: Tokenizer, several: Iterator[list[dict[str, Any]]], *, row_len: int, num_workers: int
) -> Iterator[_Pieces]:
    """Chunks of the conversations in order, rendered here or by worker processes."""
    chunks = iter(lambda: list(itertools.islice(several, CHUNK_CONVERSATIONS)), [])
    workers = num_workers
    if workers == 1:
        yield from (_render(tokenizer, chunk, row_len) for chunk in chunks)
        return
    # spawn: forking a process that has threads (Arrow, torch, Prefect) can deadlock the child
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.ranks, tokenizer.pattern, tokenizer.added, row_len),
    ) as pool:
        waiting: collections.deque[Future[_Pieces]] = collections.deque()
        for chunk in chunks:
            waiting.append(pool.submit(_render_in_worker, chunk))
            if len(waiting) >= CHUNKS_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_worker: tuple[Tokenizer, int] | None = None  # one per worker process, set by its initializer


def _start_worker(ranks: list[bytes], pattern: str, added: tuple[Added, ...], row_len: int) -> None:
    global _worker
    die_with_parent(signal.SIGKILL)
    _worker = Tokenizer(ranks, pattern, added), row_len


def _render_in_worker(chunk: list[list[dict[str, Any]]]) -> _Pieces:
    assert _worker is not None
    return _render(_worker[0], chunk, _worker[1])


def _render(tokenizer: Tokenizer, chunk: list[list[dict[str, Any]]], row_len: int) -> _Pieces:
    ids: list[np.ndarray] = []
    mask: list[np.ndarray] = []
    pieces_of: list[int] = []
    for messages in chunk:
        rendered, learnt = render_conversation(tokenizer, messages)
        before = len(ids)
        for start, end in _cuts(len(rendered), row_len):
            ids.append(np.array(rendered[start:end], dtype=id_type(tokenizer.vocab_size)))
            mask.append(np.array(learnt[start:end], dtype=np.uint8))
            if start:
                mask[-1][0] = 0  # the last id of the piece before: its target was learnt there
        pieces_of.append(len(ids) - before)
    lengths = np.array([len(piece) for piece in ids], dtype=np.int64)
    return _Pieces(np.concatenate(ids), np.concatenate(mask), lengths, np.array(pieces_of, dtype=np.int64))


def _cuts(length: int, row_len: int) -> Iterator[tuple[int, int]]:
    """Cut a long conversation so that no target is lost: a piece starts with the last id of the one before."""
    start = 0
    while start + row_len < length:
        yield start, start + row_len
        start += row_len - 1
    yield start, length


def _joined(chunks: Sequence[_Pieces]) -> _Pieces:
    return _Pieces(
        np.concatenate([chunk.ids for chunk in chunks]),
        np.concatenate([chunk.mask for chunk in chunks]),
        np.concatenate([chunk.lengths for chunk in chunks]),
        np.concatenate([chunk.pieces_of for chunk in chunks]),
    )


def _write_places(
    path: Path, pieces: _Pieces, rows: Sequence[Sequence[int]], origins: Sequence[tuple[str | None, int | None]]
) -> None:
    """A line for each piece in the order of the rows: where it stands, what it is of, and which tokens of that."""
    order = np.array([piece for members in rows for piece in members])
    sizes = np.array([len(members) for members in rows])
    own = np.cumsum(pieces.lengths - 1) - (pieces.lengths - 1)  # a piece begins with the last token of the one before
    first = np.cumsum(pieces.pieces_of) - pieces.pieces_of
    conversation = np.repeat(np.arange(len(first)), pieces.pieces_of)
    whole = np.add.reduceat(pieces.lengths - 1, first) + 1
    lengths = pieces.lengths[order]
    begins, row_first = np.cumsum(lengths) - lengths, np.cumsum(sizes) - sizes
    number = conversation[order]
    files, lines = zip(*(origins[each] for each in number.tolist()), strict=True)
    columns = {
        "row": np.repeat(np.arange(len(rows)), sizes),
        "start": begins - np.repeat(begins[row_first], sizes),
        "length": lengths,
        "conversation": number,
        "offset": own[order] - own[first][number],
        "of_tokens": whole[number],
        "file": pa.array(files, pa.string()),
        "line": pa.array(lines, pa.int64()),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def _filled(
    pieces: _Pieces, rows: Sequence[Sequence[int]], *, row_len: int, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((len(rows), row_len), padding, dtype=pieces.ids.dtype)
    mask = np.zeros((len(rows), row_len), dtype=np.uint8)
    ends = np.cumsum(pieces.lengths).tolist()
    lengths = pieces.lengths.tolist()
    for row, members in enumerate(rows):
        at = 0
        for piece in members:
            start, end = ends[piece] - lengths[piece], ends[piece]
            ids[row, at : at + end - start] = pieces.ids[start:end]
            mask[row, at : at + end - start] = pieces.mask[start:end]
            at += end - start
    return ids, mask


def _fit(lengths: Sequence[int], row_len: int) -> list[list[int]]:
    """Best fit by descending length: rows as lists of piece numbers.

    A piece goes into the fullest row that has room for it, of equals into the first. Rows wait in one heap per room
    left; a bit per room says which heaps are not empty, so a million pieces take seconds.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    waiting: list[list[int]] = [[] for _ in range(row_len + 1)]
    has_rows = 0  # bit r: some row has room for exactly r more tokens
    for piece in order:
        length = lengths[piece]
        enough = has_rows >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = heapq.heappop(waiting[room])
            if not waiting[room]:
                has_rows &= ~(1 << room)
        else:
            room, row = row_len, len(rows)
            rows.append([])
        rows[row].append(piece)
        if room > length:
            heapq.heappush(waiting[room - length], row)
            has_rows |= 1 << (room - length)
    return rows
