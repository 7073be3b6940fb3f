"""Packed conversations: no token and no target is lost, whatever their lengths."""

import json

import numpy as np
import pytest
from core.data.talks import read_conversations
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data.conversations import pack_conversations, select
from nanochat_core.tokenizer.conversation import render_conversation

BOS, ASSISTANT_END = 256, 260
words = st.text("abcdefgh", max_size=60)
talks = st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=3), min_size=1, max_size=12)


def _conversation(pairs):
    roles = ("user", "assistant")
    return {"messages": [{"role": r, "content": t} for pair in pairs for r, t in zip(roles, pair, strict=True)]}


def _pack(tokenizer, conversations, row_len):
    return pack_conversations(tokenizer, conversations, row_len=row_len, progress=lambda done: None)


def _targets(ids, mask):
    """(the id before, the learnt id) of every target that a row trains on."""
    return [
        (int(a), int(b))
        for row, learnt in zip(ids, mask, strict=True)
        for a, b, is_learnt in zip(row[:-1], row[1:], learnt[1:], strict=True)
        if is_learnt
    ]


@given(talks=talks, row_len=st.integers(2, 120))
def test_no_target_is_lost_and_none_is_added(tokenizer, talks, row_len):
    conversations = [_conversation(talk) for talk in talks]
    rendered = [render_conversation(tokenizer, conversation["messages"]) for conversation in conversations]
    expected = [pair for ids, mask in rendered for pair in _targets([ids], [mask])]
    ids, mask, counts = _pack(tokenizer, conversations, row_len)
    assert sorted(_targets(ids, mask)) == sorted(expected)
    assert int(mask.sum()) == counts["targets"] == sum(sum(mask) for _, mask in rendered)
    assert not mask[:, 0].any()


@given(talks=talks, row_len=st.integers(2, 120))
def test_no_token_is_lost(tokenizer, talks, row_len):
    conversations = [_conversation(talk) for talk in talks]
    ids, _, counts = _pack(tokenizer, conversations, row_len)
    rendered = [render_conversation(tokenizer, c["messages"])[0] for c in conversations]
    held = np.bincount(ids.ravel(), minlength=265)
    needed = np.bincount(np.concatenate(rendered), minlength=265)
    assert (held >= needed).all()
    cuts = counts["tokens"] - sum(map(len, rendered))  # a piece starts with the last id of the one before
    padding = ids.size - counts["tokens"]
    assert held.sum() - needed.sum() == cuts + padding
    assert counts["conversations"] == len(conversations)
    assert counts["rows"] == len(ids)


def test_a_long_conversation_is_cut_and_can_be_put_together_again(tokenizer):
    conversation = _conversation([("q" * 30, "abcdefghij" * 10)])
    whole, whole_mask = render_conversation(tokenizer, conversation["messages"])
    ids, mask, _ = _pack(tokenizer, [conversation], 32)
    found = next(i for i in range(len(ids)) if ids[i].tolist() == whole[:32])
    assert mask[found].tolist() == whole_mask[:32]
    assert sorted(_targets(ids, mask)) == sorted(_targets([whole], [whole_mask]))


def test_short_conversations_share_a_row_and_the_rest_is_masked_padding(tokenizer):
    one = _conversation([("a", "b")])
    rendered, rendered_mask = render_conversation(tokenizer, one["messages"])
    row_len = 2 * len(rendered) + 3
    ids, mask, counts = _pack(tokenizer, [one, one, one], row_len)
    assert counts["rows"] == 2
    assert ids[0].tolist() == [*rendered, *rendered, BOS, BOS, BOS]
    assert mask[0].tolist() == [*rendered_mask, *rendered_mask, 0, 0, 0]


@given(talks=talks)
def test_packing_is_deterministic_and_wastes_less_than_half(tokenizer, talks):
    conversations = [_conversation(talk) for talk in talks]
    ids, mask, counts = _pack(tokenizer, conversations, 64)
    again, mask_again, _ = _pack(tokenizer, iter(conversations), 64)
    assert np.array_equal(ids, again)
    assert np.array_equal(mask, mask_again)
    assert counts["tokens"] > 64 * (counts["rows"] - 1) / 2


def test_nothing_to_learn_from_is_refused(tokenizer):
    with pytest.raises(MissingError):
        _pack(tokenizer, [], 64)


def _lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_folder_is_read_file_by_file_in_order(tmp_path):
    _lines(tmp_path / "b.jsonl", _conversation([("3", "3")]))
    _lines(tmp_path / "a.jsonl", _conversation([("1", "1")]), _conversation([("2", "2")]))
    (tmp_path / "notes.md").write_text("no conversation")
    asked = [c["messages"][0]["content"] for c in read_conversations(str(tmp_path))]
    assert asked == ["1", "2", "3"]
    assert select(str(tmp_path)).names == ["a.jsonl", "b.jsonl"]
    assert len(list(read_conversations(str(tmp_path / "a.jsonl")))) == 2


@pytest.mark.parametrize(
    "line", [b"{", b"5", b"[]", b'{"messages": {}}', b'{"text": "x"}', b'{"messages": "\xff"}', b"\xff\xfe"]
)
def test_a_line_that_is_no_conversation_is_named(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"messages": [{"role": "user", "content": "hi"}]}\n\n' + line + b"\n")
    with pytest.raises(MissingError, match="line 3"):
        list(read_conversations(str(path)))


@pytest.mark.parametrize("messages", [["hello"], [None], [5], [["role", "user"]]])
def test_messages_that_are_no_objects_are_refused(tokenizer, tmp_path, messages):
    _lines(tmp_path / "mine.jsonl", {"messages": messages})
    with pytest.raises(MissingError):
        _pack(tokenizer, read_conversations(str(tmp_path)), 64)


def test_absent_and_empty_paths_are_refused(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "absent.jsonl"), str(tmp_path / "absent")):
        with pytest.raises(MissingError):
            list(read_conversations(path))
    with pytest.raises(ConfigError):
        list(read_conversations(None))
