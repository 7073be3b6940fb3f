"""A tiny chat model that answers from a script, and an empty home."""

import pytest
import torch
from threads import one_thread as one_thread

from nanochat_core.cli.chat import ChatModel
from nanochat_core.config import GPTConfig
from nanochat_core.inference.engine import Engine
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """NANOCHAT_HOME of its own and no other setting of the machine."""
    for name in ("NANOCHAT_STORE", "PREFECT_API_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def make_chat():
    """A model whose next token follows from the last one alone, as `script` says."""

    def make(script, sequence_len=96):
        config = GPTConfig(sequence_len=sequence_len, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)
        model = GPT(config)
        codes = torch.randn(265, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.residual_weights.fill_(1.0)
            model.embed.weight[:265] = codes
            for before, after in script.items():
                unit = codes[before] / codes[before].pow(2).mean().sqrt()
                model.head.weight[after] += 15 * unit / 32
        tokenizer = Tokenizer([bytes([value]) for value in range(256)])
        return ChatModel("scripted", Engine(model, tokenizer))

    return make
