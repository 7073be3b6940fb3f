"""Mixtures: every conversation as often as it should be, one order per seed, nothing read before it is needed."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from core.data.talks import read_conversations
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.errors import MissingError
from nanochat_core.data import conversations
from nanochat_core.data.conversations import pack_conversations
from nanochat_core.data.mixture import Joined, Subset, mixture, permutation
from nanochat_core.data.rows import FileRows, Mapped
from nanochat_core.data.words import is_held_out, words_of_documentation, words_of_file


def source(name, count):
    return [{"messages": [{"role": "user", "content": f"{name} {number}"}]} for number in range(count)]


def said(conversations):
    return [conversation["messages"][0]["content"] for conversation in conversations]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=5), st.integers(0, 2**32))
def test_each_conversation_is_there_as_often_as_its_source_is_repeated(sizes, seed):
    parts = [(source(str(number), size), repeats) for number, (size, repeats) in enumerate(sizes)]
    mixed = mixture(parts, seed=seed)
    expected = Counter({text: repeats for one, repeats in parts for text in said(one) if repeats})
    assert Counter(said(mixed)) == expected
    assert len(mixed) == sum(expected.values())
    assert said(mixed) == [mixed[number]["messages"][0]["content"] for number in range(len(mixed))]


def test_the_order_depends_on_the_seed_and_on_the_sizes_alone():
    parts = [(source("a", 50), 2), (source("b", 30), 1)]
    order = said(mixture(parts, seed=1))
    assert order == said(mixture(parts, seed=1))
    assert order != said(mixture(parts, seed=2))
    assert order != sorted(order)
    other = said(mixture([(source("A", 50), 2), (source("B", 30), 1)], seed=1))
    assert [text.lower() for text in other] == order
    assert permutation(6, 42).tolist() == [3, 2, 5, 4, 1, 0]  # an order that changes would change every model


def test_a_mixture_is_read_when_it_is_looked_at():
    looked_at = []

    class Watched(list):
        def __getitem__(self, number):
            looked_at.append(number)
            return super().__getitem__(number)

    mixed = mixture([(Watched(source("a", 1000)), 3)], seed=0)
    assert len(mixed) == 3000
    assert looked_at == []
    assert mixed[5] in source("a", 1000)
    assert len(looked_at) == 1


def test_slices_and_ends_are_those_of_a_list():
    joined = Joined([(source("a", 3), 2), ([], 5), (source("b", 2), 1)])
    plain = said(joined)
    assert plain == ["a 0", "a 1", "a 2", "a 0", "a 1", "a 2", "b 0", "b 1"]
    assert said(joined[2:7]) == plain[2:7]
    assert said(Subset(joined, np.array([7, 0]))[:1]) == ["b 1"]
    with pytest.raises(IndexError):
        joined[8]


def test_rows_of_many_files_are_found_again_in_any_order(tmp_path):
    files = [tmp_path / f"{number:03d}.jsonl" for number in range(150)]
    for number, file in enumerate(files):
        file.write_text("\n" * (number % 3) + "".join(json.dumps({"n": [number, i]}) + "\n\n" for i in range(3)))
    rows = FileRows(files)
    assert [row["n"] for row in rows] == [[number, i] for number in range(150) for i in range(3)]
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    assert all(rows[number]["n"] == [number // 3, number % 3] for number in order)
    assert rows.where(7) == f"{files[2]}, line 5"


def test_a_conversation_of_the_wrong_form_is_named_by_its_line(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": [{"role": "narrator", "content": "x"}]}\n'
    )
    read = read_conversations(str(path))
    assert said(read[:1]) == ["hi"]
    with pytest.raises(MissingError, match=r"talk\.jsonl, line 2: message 1 is from 'narrator'"):
        list(read)
    assert isinstance(read, Mapped)


@given(st.lists(st.integers(1, 40), max_size=80))
def test_a_piece_goes_into_the_fullest_row_that_has_room(lengths):
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = []
    for piece in order:
        rooms = [(40 - sum(lengths[i] for i in row), number) for number, row in enumerate(rows)]
        fitting = [(room, number) for room, number in rooms if room >= lengths[piece]]
        if fitting:
            rows[min(fitting)[1]].append(piece)
        else:
            rows.append([piece])
    assert conversations._fit(lengths, 40) == rows


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(conversations, "MIN_FOR_PROCESSES", 100)
    rng = random.Random(0)
    talks = [
        {"messages": [{"role": "user", "content": "q" * rng.randint(1, 90)},
                      {"role": "assistant", "content": "a" * rng.randint(1, 90)}]} for _ in range(1100)
    ]  # fmt: skip
    packed = [
        pack_conversations(tokenizer, talks, row_len=65, progress=lambda done: None, num_workers=workers)
        for workers in (1, 2)
    ]
    assert np.array_equal(packed[0][0], packed[1][0])
    assert np.array_equal(packed[0][1], packed[1][1])
    assert packed[0][2] == packed[1][2]
    talks[700] = {"messages": [{"role": "assistant", "content": ""}]}
    with pytest.raises(MissingError, match="message 1"):
        pack_conversations(tokenizer, talks, row_len=65, progress=lambda done: None, num_workers=2)


def test_a_tenth_of_the_words_is_held_out_whatever_else_is_in_the_list(tmp_path):
    words = words_of_documentation()
    assert len(words.train) + len(words.held_out) == 6000
    assert 0.07 < len(words.held_out) / 6000 < 0.13
    (tmp_path / "few.txt").write_text("\n".join([*words.held_out[:50], *words.train[:50], "Word's", "a", "it is"]))
    few = words_of_file(tmp_path / "few.txt")
    assert few.held_out == words.held_out[:50]
    assert few.train == words.train[:50]
    assert all(is_held_out(word) for word in few.held_out)
    (tmp_path / "none.txt").write_text("a\nb\n")
    with pytest.raises(MissingError, match="0 words"):
        words_of_file(tmp_path / "none.txt")
    with pytest.raises(MissingError):
        words_of_file(tmp_path / "absent.txt")
