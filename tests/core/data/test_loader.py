"""Batches are a function of rows, seed and step, however many ranks share them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.data.loader import IGNORED, BatchOrder, PackedConversations, PackedDocuments, read_batch
from nanochat_core.data.packing import pack_rows

orders = st.builds(
    BatchOrder, num_rows=st.integers(1, 50), total_batch_rows=st.integers(1, 24), seed=st.integers(0, 2**32)
)


@pytest.fixture(scope="module")
def documents(make_shards, save_split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    shards = make_shards(np.random.default_rng(0).integers(2, 30, size=60).tolist(), [25, 4, 17])
    save_split(shards, folder / "train", vocab_size=2000)
    pack_rows(shards, row_len=9).save(folder / "train.rows.npz")
    return PackedDocuments(folder, "train", vocab_size=2000)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversations")
    rng = np.random.default_rng(1)
    np.save(folder / "train.ids.npy", rng.integers(0, 265, size=(12, 9)).astype(np.uint16))
    np.save(folder / "train.mask.npy", rng.integers(0, 2, size=(12, 9)).astype(np.uint8))
    return PackedConversations(folder, "train")


@given(order=orders, steps=st.integers(1, 30))
def test_each_epoch_visits_every_row_once(order, steps):
    visited = np.concatenate([order.rows_at(step) for step in range(steps)])
    for first in range(0, len(visited), order.num_rows):
        epoch = visited[first : first + order.num_rows].tolist()
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(order.num_rows))


@given(order=orders, steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=5))
def test_the_rows_of_a_step_do_not_depend_on_what_was_asked_before(order, steps):
    expected = {step: order.rows_at(step).tolist() for step in sorted(steps)}
    fresh = BatchOrder(num_rows=order.num_rows, total_batch_rows=order.total_batch_rows, seed=order.seed)
    assert {step: fresh.rows_at(step).tolist() for step in reversed(steps)} == expected


def test_the_order_is_pinned():
    order = BatchOrder(num_rows=10, total_batch_rows=4, seed=42)
    expected = np.concatenate([np.random.Generator(np.random.PCG64([42, e])).permutation(10) for e in range(2)])
    assert [row for step in range(5) for row in order.rows_at(step).tolist()] == expected.tolist()


def test_seeds_and_epochs_give_different_orders():
    orders = [
        BatchOrder(num_rows=100, total_batch_rows=100, seed=seed).rows_at(step).tolist()
        for seed in range(3)
        for step in range(3)
    ]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("name", ["documents", "conversations"])
def test_the_ranks_slices_together_are_the_global_batch(request, name, world_size):
    source = request.getfixturevalue(name)
    rows = BatchOrder(num_rows=source.num_rows, total_batch_rows=12, seed=3).rows_at(1)
    whole = read_batch(source, rows)
    parts = [read_batch(source, rows, rank=rank, world_size=world_size) for rank in range(world_size)]
    for field in ("ids", "targets"):
        together = torch.empty_like(getattr(whole, field))
        for rank, part in enumerate(parts):
            together[rank::world_size] = getattr(part, field)
        assert torch.equal(together, getattr(whole, field))
    assert {part.num_targets for part in parts} == {whole.num_targets}
    assert sum(int((part.targets != IGNORED).sum()) for part in parts) == whole.num_targets


def test_a_documents_target_is_the_next_id(documents):
    batch = read_batch(documents, np.arange(4))
    for row in range(4):
        ids, mask = documents.read(row)
        assert mask is None
        assert batch.ids[row].tolist() == ids[:-1].tolist()
        assert batch.targets[row].tolist() == ids[1:].tolist()
    assert batch.num_targets == 4 * 8


def test_a_conversations_target_is_the_next_id_where_the_mask_says_so(conversations):
    batch = read_batch(conversations, np.arange(12))
    expected = np.where(conversations.mask[:, 1:] == 1, conversations.ids[:, 1:].astype(np.int64), IGNORED)
    assert np.array_equal(batch.targets.numpy(), expected)
    assert batch.num_targets == conversations.mask[:, 1:].sum()


def test_more_processes_than_rows_and_uneven_shares_are_refused(documents):
    for world_size in (8, 5):
        with pytest.raises(ConfigError, match=f"{world_size} processes"):
            read_batch(documents, np.arange(6), world_size=world_size)


def test_text_that_does_not_fill_a_row_is_refused(make_shards, save_split, tmp_path):
    shards = make_shards([4])
    save_split(shards, tmp_path / "train", vocab_size=2000)
    pack_rows(shards, row_len=9).save(tmp_path / "train.rows.npz")
    with pytest.raises(MissingError, match="train text of 4 tokens"):
        PackedDocuments(tmp_path, "train", vocab_size=2000)


def test_rows_of_another_vocabulary_are_refused(make_shards, save_split, tmp_path):
    shards = make_shards([40])
    save_split(shards, tmp_path / "train", vocab_size=2000)
    pack_rows(shards, row_len=9).save(tmp_path / "train.rows.npz")
    with pytest.raises(CorruptError, match="2000"):
        PackedDocuments(tmp_path, "train", vocab_size=265)
