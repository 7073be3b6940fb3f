"""Rows start with BOS, are full, and are those of a plain best-fit packing written a second time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import MissingError
from nanochat_core.data.packing import BUFFER_DOCS, RowIndex, pack_rows, packing_note

BOS = 256
lengths = st.lists(st.integers(1, 90), max_size=60)


def _rows(shards, row_len, **options):
    index = pack_rows(shards, row_len=row_len, **options)
    return [index.read(shards, row).tolist() for row in range(index.num_rows)]


def _documents(shards):
    return [
        ids[start:end].tolist()
        for ids, starts in zip(shards.tokens, shards.doc_starts, strict=True)
        for start, end in itertools.pairwise(starts)
    ]


def _reference(documents, row_len):
    """Best fit by scanning a plain list: the longest that fits, else the shortest, cropped; the oldest of equals."""
    waiting, buffer, rows = list(documents), [], []
    while True:
        row = []
        while len(row) < row_len:
            while waiting and len(buffer) < BUFFER_DOCS:
                buffer.append(waiting.pop(0))
            if not buffer:
                return rows
            room = row_len - len(row)
            fitting = [document for document in buffer if len(document) <= room]
            size = max(map(len, fitting)) if fitting else min(map(len, buffer))
            chosen = next(i for i, document in enumerate(buffer) if len(document) == size)
            row += buffer.pop(chosen)[:room]
        rows.append(row)


def _cut(document, row_len):
    """A long document as documents of at most a row, each led by BOS."""
    body = document[1:]
    return [[BOS, *body[i : i + row_len - 1]] for i in range(0, max(1, len(body)), row_len - 1)]


@given(first=lengths, second=lengths, row_len=st.integers(2, 40))
def test_cropping_equals_a_plain_best_fit(make_shards, first, second, row_len):
    shards = make_shards(first, second)
    assert _rows(shards, row_len) == _reference(_documents(shards), row_len)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_a_full_buffer_equals_a_plain_best_fit(make_shards, seed):
    drawn = np.random.default_rng(seed).integers(1, 70, size=BUFFER_DOCS + 700).tolist()
    shards = make_shards(drawn)
    assert _rows(shards, 33) == _reference(_documents(shards), 33)


@given(first=lengths, row_len=st.integers(2, 40), how=st.sampled_from(["crop", "split"]))
def test_every_row_starts_with_bos_and_is_full(make_shards, first, row_len, how):
    for row in _rows(make_shards(first), row_len, long_documents=how):
        assert row[0] == BOS
        assert len(row) == row_len


@given(first=lengths, row_len=st.integers(2, 40), how=st.sampled_from(["crop", "split"]))
def test_tokens_of_a_document_stay_in_their_order_and_appear_once(make_shards, first, row_len, how):
    shards = make_shards(first)
    seen = [token for row in _rows(shards, row_len, long_documents=how) for token in row if token != BOS]
    counts = {1000 + number: length - 1 for number, length in enumerate(first)}
    assert all(seen.count(token) <= counts[token] for token in set(seen))


@given(first=lengths, row_len=st.integers(2, 40))
def test_splitting_loses_no_token_but_the_last_partial_row(make_shards, first, row_len):
    rows = _rows(make_shards(first), row_len, long_documents="split")
    kept = sum(token != BOS for row in rows for token in row)
    assert sum(first) - len(first) - kept < row_len


@given(numbers=st.lists(st.integers(0, 4), max_size=30), row_len=st.sampled_from([5, 9, 17]))
def test_splitting_keeps_all_when_every_part_fills_its_row(make_shards, numbers, row_len):
    """Documents of a whole number of parts: nothing is ever cropped, so the rows are the parts."""
    shards = make_shards([1 + number * (row_len - 1) for number in numbers if number])
    parts = [part for document in _documents(shards) for part in _cut(document, row_len)]
    assert sorted(_rows(shards, row_len, long_documents="split")) == sorted(parts)


def test_cropping_drops_what_does_not_fit(make_shards):
    assert _rows(make_shards([100]), 10) == [[BOS, *[1000] * 9]]


def test_splitting_keeps_a_long_document_in_its_order(make_shards):
    shards = make_shards([1])
    shards.tokens[0] = np.array([BOS, *range(300, 328)], dtype=np.uint16)
    shards.doc_starts[0] = np.array([0, 29])
    rows = _rows(shards, 8, long_documents="split")
    assert rows == [[BOS, *range(first, first + 7)] for first in (300, 307, 314, 321)]


def test_documents_shorter_than_a_row_alone_make_none(make_shards):
    assert _rows(make_shards([9]), 10) == []
    assert _rows(make_shards([10]), 10) == [[BOS, *[1000] * 9]]
    assert _rows(make_shards([]), 10) == []


@pytest.mark.parametrize("how", ["crop", "split"])
def test_a_stored_index_gives_the_same_rows(make_shards, tmp_path, how):
    shards = make_shards([5, 30, 12, 7, 7, 7], [50, 3])
    index = pack_rows(shards, row_len=11, long_documents=how)
    index.save(tmp_path / "rows.npz")
    again = RowIndex.load(tmp_path / "rows.npz")
    assert again.num_rows == index.num_rows > 0
    for row in range(index.num_rows):
        assert np.array_equal(again.read(shards, row), index.read(shards, row))


@pytest.mark.parametrize("long_documents", ["crop", "split"])
@given(first=lengths, row_len=st.integers(2, 40))
def test_kept_tokens_are_those_in_rows_each_once(make_shards, long_documents, first, row_len):
    shards = make_shards(first)
    index = pack_rows(shards, row_len=row_len, long_documents=long_documents)
    places = {(shard, start + i) for shard, start, length in index.pieces.tolist() for i in range(length)}
    assert index.kept_tokens == len(places)
    if long_documents == "split":
        assert index.num_cropped == 0


def test_what_packing_drops_is_told_and_next_to_nothing_is_refused():
    def told(split="train", **counts):
        named = {"tokens": 1000, "rows": 10, "kept_tokens": 660, "cropped_docs": 3, **counts}
        return packing_note(split, {f"{split}_{name}": num for name, num in named.items()}, num_docs=9, row_len=65)

    assert told() == "train: 10 rows of 65 keep 660 of 1,000 tokens (66%); 3 of 9 documents lose their end"
    assert told(kept_tokens=999, cropped_docs=0) is None
    with pytest.raises(MissingError, match=r"validation: 0 rows of 65 .* does not fill one row") as error:
        told("validation", rows=0, kept_tokens=0)
    assert "sequence_len_tokens" in error.value.hint
    with pytest.raises(MissingError, match="8 of 9 documents are longer") as error:
        told(kept_tokens=99, cropped_docs=8)
    assert "long_documents=split" in error.value.hint
