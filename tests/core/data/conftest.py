"""A byte-level vocabulary in a folder, and token shards of documents with known lengths."""

import json

import numpy as np
import pytest

from nanochat_core.data.tokenize import TokenShards
from nanochat_core.tokenizer.tokenizer import Tokenizer

BOS = 256


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def make_shards():
    """Shards in memory: document i has lengths[i] tokens, BOS and then 1000 + i, again and again."""

    def make(*shard_lengths):
        tokens, starts, number = [], [], 0
        for lengths in shard_lengths:
            ids = []
            for length in lengths:
                ids += [BOS, *[1000 + number] * (length - 1)]
                number += 1
            tokens.append(np.array(ids, dtype=np.uint16))
            starts.append(np.cumsum([0, *lengths], dtype=np.int64))
        return TokenShards(tokens, starts)

    return make


@pytest.fixture(scope="session")
def save_split():
    """The same, as the files that a tokenized split consists of."""

    def save(shards, folder, *, vocab_size):
        folder.mkdir(parents=True)
        for number, (ids, starts) in enumerate(zip(shards.tokens, shards.doc_starts, strict=True)):
            ids.tofile(folder / f"{number:05d}.bin")
            np.save(folder / f"{number:05d}.starts.npy", starts)
        index = {"vocab_size": vocab_size, "shard_tokens": [len(ids) for ids in shards.tokens]}
        (folder / "index.json").write_text(json.dumps(index))

    return save
