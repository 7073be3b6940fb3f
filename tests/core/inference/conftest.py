"""A byte vocabulary and tiny models in fp32 with nothing switched off by a zero."""

import pytest
import torch

from nanochat_core.config import GPTConfig
from nanochat_core.inference.engine import Engine
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture(scope="session")
def make_model():
    def make(seed=0, sequence_len=96):
        model = GPT(GPTConfig(sequence_len=sequence_len, vocab_size=265, n_layer=2, n_head=2, n_kv_head=1, n_embd=32))
        model.init_weights(seed)
        generator = torch.Generator().manual_seed(seed + 100)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def engine(make_model, tokenizer):
    return Engine(make_model(), tokenizer)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
