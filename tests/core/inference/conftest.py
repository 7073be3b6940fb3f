"""A byte vocabulary and tiny models in fp32 with nothing switched off by a zero."""

import pytest
import torch
from nudge import nudge
from threads import one_thread as one_thread

from nanochat_core.config import GPTConfig
from nanochat_core.inference.engine import Engine
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import window_sizes
from nanochat_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture(scope="session")
def make_model():
    def make(seed=0, sequence_len=96):
        model = GPT(GPTConfig(sequence_len=sequence_len, vocab_size=265, n_layer=2, n_head=2, n_kv_head=1, n_embd=32))
        model.init_weights(seed)
        nudge(model, 0.2, seed=seed + 100)
        return model

    return make


@pytest.fixture(scope="session")
def scripted_model(make_model):
    """A model that always goes on from one token to a chosen next one: the embedding decides alone."""

    def make(script):
        model = make_model(sequence_len=96)
        width = model.config.n_embd
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.residual_weights.fill_(1.0)
            codes = torch.randn(265, width, generator=torch.Generator().manual_seed(0))
            model.embed.weight[:265] = codes
            for before, after in script.items():
                unit = codes[before] / codes[before].pow(2).mean().sqrt()
                model.head.weight[after] += 15 * unit / width
        return model

    return make


@pytest.fixture(scope="session")
def full_model():
    """Every feature of the network on: windows of 128 in a context of 512, groups of heads, and no weight is zero."""
    config = GPTConfig(sequence_len=512, vocab_size=265, n_layer=4, n_head=4, n_kv_head=2, n_embd=64)
    model = GPT(config)
    model.init_weights(0)
    nudge(model, 0.2, seed=7)
    assert all(parameter.abs().min() > 0 for parameter in model.parameters())
    assert window_sizes(config) == [128, 128, 128, 512]
    return model.eval()


@pytest.fixture(scope="session", params=[False, True], ids=["in step", "ahead"])
def runs_ahead(request):
    """What is true of a batch is true of one that runs a step ahead of its reader."""
    return request.param


@pytest.fixture(scope="session")
def engine(make_model, tokenizer, runs_ahead):
    return Engine(make_model(), tokenizer, runs_ahead=runs_ahead)
