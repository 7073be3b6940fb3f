"""One real server for the clients of a file: a base and a chat model nobody trained, in fp32."""

import pytest
import torch
from model_server import serve_here

from nanochat_core.serve.limits import Limits
from nanochat_core.serve.pool import ModelPool
from nanochat_core.store.store import Store


@pytest.fixture(scope="module")
def pool(model_home):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only wait for each other's threads
    store = Store.open(str(model_home / "store"), cache_folder=model_home / "cache")
    names = ["tiny-chat", "tiny-base", "scripted-chat"]
    yield ModelPool.from_store(store, names, device="cpu", dtype="fp32", limits=Limits(num_rows=4))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def url(pool):
    with serve_here(pool) as url:
        pool.wait(60)
        yield url


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No client may reach for anything but our server, nor read the developer's settings."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
