"""Token shards: the same bytes from any number of workers; damaged and foreign ones are refused."""

import hashlib
import itertools

import numpy as np
import pytest

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.data import shards, tokenize, workers
from nanochat_core.data.conversations import pack_conversations
from nanochat_core.data.loader import PackedDocuments, read_batch
from nanochat_core.data.packing import pack_rows
from nanochat_core.data.tokenize import load_shards, tokenize_split
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.conversation import render_conversation
from nanochat_core.tokenizer.tokenizer import Tokenizer

TEXTS = [f"Document {n}: " + "the fox said été 🙂 <|bos|> " * (n % 7) for n in range(95)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_DOCS", 10)
        shards.write_shards(TEXTS, folder)
    return folder


def _tokenize(corpus, out, tokenizer_folder, num_workers=1):
    calls = []
    made = tokenize_split(
        corpus,
        out,
        tokenizer_folder=tokenizer_folder,
        num_workers=num_workers,
        progress=lambda done, total: calls.append((done, total)),
    )
    return made, calls


def _digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _documents(made, tokenizer):
    for ids, starts in zip(made.tokens, made.doc_starts, strict=True):
        for start, end in itertools.pairwise(starts):
            assert ids[start] == tokenizer.bos
            yield tokenizer.decode(ids[start + 1 : end].tolist())


def test_every_document_comes_back_led_by_bos(corpus, tokenizer, tokenizer_folder, tmp_path):
    made, calls = _tokenize(corpus, tmp_path, tokenizer_folder)
    assert list(_documents(made, tokenizer)) == TEXTS
    assert made.num_docs == len(TEXTS)
    assert made.num_tokens == sum(len(text.encode()) + 1 for text in TEXTS)
    assert calls == [(done, 10) for done in range(1, 11)]


def test_text_that_spells_a_special_token_gives_none(corpus, tokenizer, tokenizer_folder, tmp_path):
    made, _ = _tokenize(corpus, tmp_path, tokenizer_folder)
    assert sum(int((ids >= 256).sum()) for ids in made.tokens) == made.num_docs


def test_one_and_two_processes_give_the_same_bytes(corpus, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MIN_UNITS_FOR_PROCESSES", 1)
    _, alone = _tokenize(corpus, tmp_path / "one", tokenizer_folder, num_workers=1)
    _, together = _tokenize(corpus, tmp_path / "two", tokenizer_folder, num_workers=2)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert alone == together


def test_many_small_shards_hold_what_one_large_shard_holds(corpus, tokenizer, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "SHARD_TOKENS", 1000)
    made, _ = _tokenize(corpus, tmp_path, tokenizer_folder)
    assert len(made.tokens) > 3
    assert list(_documents(made, tokenizer)) == TEXTS


def test_shards_of_another_vocabulary_are_refused(corpus, tokenizer_folder, tmp_path):
    _tokenize(corpus, tmp_path, tokenizer_folder)
    with pytest.raises(CorruptError, match=r"265.*300"):
        load_shards(tmp_path, vocab_size=300)


def test_a_file_cut_short_or_grown_is_refused(corpus, tokenizer_folder, tmp_path):
    _tokenize(corpus, tmp_path, tokenizer_folder)
    path = tmp_path / "00000.bin"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-2], b"", content + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError):
            load_shards(tmp_path, vocab_size=265)


def test_a_trained_vocabulary_gives_fewer_tokens_and_the_same_text(corpus, tmp_path):
    trained = train_tokenizer(TEXTS, vocab_size=320, max_train_bytes=10**6, max_doc_bytes=10**4)
    trained.save(tmp_path / "tokenizer")
    made, _ = _tokenize(corpus, tmp_path / "tokens", tmp_path / "tokenizer")
    assert list(_documents(made, trained)) == TEXTS
    assert all(ids.max() == trained.bos for ids in made.tokens)


def test_a_folder_without_shards_is_refused(tokenizer_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError):
        _tokenize(tmp_path / "empty", tmp_path / "out", tokenizer_folder)


def test_shards_are_mapped_not_read(corpus, tokenizer_folder, tmp_path):
    made, _ = _tokenize(corpus, tmp_path, tokenizer_folder)
    assert all(isinstance(ids, np.memmap) for ids in made.tokens)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A vocabulary past 16 bits, in which pairs of letters have the last ids."""
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    letters = [bytes([a, b]) for a in range(97, 123) for b in range(97, 123)]
    tokens = [
        *(bytes([value]) for value in range(256)),
        *(pair for pair in pairs if pair not in set(letters)),
        *letters,
    ]
    folder = tmp_path_factory.mktemp("wide")
    (tokenizer := Tokenizer(tokens)).save(folder)
    assert tokenizer.vocab_size == 65_801
    return tokenizer, folder


def test_past_65536_tokens_have_32_bits_in_shards_and_in_rows(corpus, wide, tmp_path):
    tokenizer, folder = wide
    made, _ = _tokenize(corpus, tmp_path, folder)
    assert {ids.dtype for ids in made.tokens} == {np.dtype(np.uint32)}
    assert list(_documents(made, tokenizer)) == TEXTS
    assert max(int(ids.max()) for ids in made.tokens) > np.iinfo(np.uint16).max
    assert (tmp_path / "00000.bin").stat().st_size == 4 * made.num_tokens
    rows = pack_rows(made, row_len=16)
    rows.save(tmp_path.parent / f"{tmp_path.name}.rows.npz")
    source = PackedDocuments(tmp_path.parent, tmp_path.name, vocab_size=tokenizer.vocab_size)
    batch = read_batch(source, np.arange(4))
    assert batch.ids.max() > np.iinfo(np.uint16).max
    assert batch.targets[:, :-1].equal(batch.ids[:, 1:])


def test_conversations_have_32_bits_as_well(wide):
    tokenizer, _ = wide
    talk = {"messages": [{"role": "user", "content": "abcd"}, {"role": "assistant", "content": "efgh"}]}
    ids, mask, _ = pack_conversations(tokenizer, [talk], row_len=12, progress=lambda done: None)
    rendered, learnt = render_conversation(tokenizer, talk["messages"])
    assert ids.dtype == np.uint32
    assert ids[0][: len(rendered)].tolist() == rendered
    assert mask[0][: len(rendered)].tolist() == learnt
    assert max(rendered) > np.iinfo(np.uint16).max
