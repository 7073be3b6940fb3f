"""Packed conversations from arrays: rows with targets of which some are ignored."""

import numpy as np
import pytest
from threads import one_thread as one_thread

from nanochat_core.data.loader import PackedConversations
from nanochat_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture
def make_rows(tmp_path):
    def make(ids, mask=None):
        ids = np.asarray(ids, dtype=np.uint16)
        np.save(tmp_path / "validation.ids.npy", ids)
        np.save(tmp_path / "validation.mask.npy", np.ones_like(ids, np.uint8) if mask is None else mask)
        return PackedConversations(tmp_path, "validation")

    return make
