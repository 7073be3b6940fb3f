"""Packed conversations for fine-tuning: rows with padding, no token lost, the loss mask kept.

Conversations are put into rows best-fit by descending length; what is left of a row is padded with BOS and masked.
One that is longer than a row is cut into consecutive pieces, each overlapping the one before by a token, so no target
is dropped.
"""

import bisect
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.tokenizer.conversation import render_conversation
from nanochat_core.tokenizer.tokenizer import Tokenizer

Rendered = tuple[list[int], list[int]]


def list_files(path: str | None) -> list[Path]:
    """A .jsonl file, or all of those in a folder, sorted by name."""
    if not path:
        raise ConfigError("sft.source = path needs sft.path", hint="--set sft.path=FILE.jsonl")
    root = Path(path).expanduser()
    files = sorted(root.glob("*.jsonl")) if root.is_dir() else [root]
    if not files or not files[0].is_file():
        raise MissingError(f"sft.path = {path} is no .jsonl file and no folder of them", hint="check the path")
    return files


def read_conversations(path: str | None) -> Iterator[dict[str, Any]]:
    """Conversations of a .jsonl file or of a folder of them."""
    for file in list_files(path):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[dict[str, Any]]:
    """Conversations of one .jsonl file."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise MissingError(f"{file}, line {number} is not JSON in UTF-8: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
            raise MissingError(
                f"{file}, line {number} has no list `messages`", hint='{"messages": [{"role", "content"}]}'
            )
        yield record


def pack_conversations(
    tokenizer: Tokenizer, conversations: Iterable[dict[str, Any]], *, row_len: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(rows, row_len) ids uint16 and mask uint8, and counts."""
    pieces: list[Rendered] = []
    num_conversations = 0
    for number, conversation in enumerate(conversations, start=1):
        pieces += _pieces(render_conversation(tokenizer, conversation["messages"]), row_len)
        num_conversations = number
        if number % 1000 == 0:
            progress(number)
    if not pieces:
        raise MissingError(
            "there is not one conversation to learn from", hint="check sft.path or the sft.num_* settings"
        )
    rows = _fit([len(ids) for ids, _ in pieces], row_len)
    ids = np.full((len(rows), row_len), tokenizer.bos, dtype=np.uint16)
    mask = np.zeros((len(rows), row_len), dtype=np.uint8)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            piece_ids, piece_mask = pieces[member]
            ids[row, start : start + len(piece_ids)] = piece_ids
            mask[row, start : start + len(piece_ids)] = piece_mask
            start += len(piece_ids)
    num_tokens = sum(len(piece_ids) for piece_ids, _ in pieces)
    return (
        ids,
        mask,
        {"conversations": num_conversations, "tokens": num_tokens, "targets": int(mask.sum()), "rows": len(rows)},
    )


def _pieces(rendered: Rendered, row_len: int) -> Iterator[Rendered]:
    """Cut a long conversation so that no target is lost: a piece starts with the last id of the one before, masked."""
    ids, mask = rendered
    start = 0
    while True:
        end = min(start + row_len, len(ids))
        first = [0] if start else mask[:1]
        yield ids[start:end], [*first, *mask[start + 1 : end]]
        if end == len(ids):
            return
        start = end - 1


def _fit(lengths: list[int], row_len: int) -> list[list[int]]:
    """Best fit by descending length: rows as lists of piece numbers."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for piece in order:
        at = bisect.bisect_left(open_rows, (lengths[piece], -1))
        room, row = open_rows.pop(at) if at < len(open_rows) else (row_len, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        if room > lengths[piece]:
            bisect.insort(open_rows, (room - lengths[piece], row))
    return rows
