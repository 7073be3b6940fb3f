"""A store with one small model that has every feature on, with real merges in its vocabulary and a made-up history."""

import json

import pytest
import torch
from nudge import nudge
from threads import one_thread as one_thread

from nanochat_core.config import GPTConfig
from nanochat_core.data import documentation
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import save_model
from nanochat_core.store.store import Store
from nanochat_core.tokenizer.bpe import train_tokenizer

VOCAB_SIZE = 601  # padded to 640
SHAPE = GPTConfig(sequence_len=512, vocab_size=VOCAB_SIZE, n_layer=5, n_head=4, n_kv_head=2, n_embd=64)
PROVENANCE = {
    "arguments": ["run", "tiny", "--set", "corpus.path=/home/somebody/texts/a.txt"],
    "git_commit": "c0ffee",
    "packages": {"torch": "9.9"},
    "python": "3.11.7",
    "finished_at": "2026-01-01T00:00:00+00:00",
}


@pytest.fixture(scope="session")
def texts():
    """Real documentation, about 300 KB."""
    modules = [entries for entries in documentation.package_entries("networkx") if entries][:40]
    return [f"{entry.signature}\n\n{entry.doc}" for entries in modules for entry in entries if len(entry.doc) > 60]


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, vocab_size=VOCAB_SIZE, max_train_bytes=200_000, max_doc_bytes=10_000)


@pytest.fixture(scope="session")
def model():
    """Random values everywhere, also where training starts from zero."""
    model = GPT(SHAPE)
    model.init_weights(0)
    nudge(model, 0.1, seed=1)
    with torch.no_grad():
        model.head.weight.mul_(4)  # logits that reach into the cap
    return model.eval()


@pytest.fixture(scope="session")
def store(tmp_path_factory, model, tokenizer):
    """corpus -> tokenizer, tokens -> pretrain -> sft, and two measurements; names: a-base, a-chat."""
    root = tmp_path_factory.mktemp("export")
    store = Store.open(str(root / "store"), cache_folder=root / "cache")
    made = {}

    def publish(step, fill, *, inputs=(), config=None, metrics=None):
        folder = root / "made" / step
        folder.mkdir(parents=True)
        fill(folder)
        made[step] = store.publish(
            folder,
            step=step,
            fingerprint=f"{step}-1",
            inputs={name: made[name].result_digest for name in inputs},
            config=config or {},
            code={},
            packages={},
            metrics=metrics or {},
            provenance=PROVENANCE,
        )

    def note(folder):
        (folder / "note.json").write_text(json.dumps({"step": folder.name}))

    size = {"total_batch_rows": 16, "model": {"sequence_len": 512}}
    publish("corpus", note, config={"source": "path"}, metrics={"train_docs": 1234, "train_bytes": 987_654,
            "licence": "CC BY-NC 4.0", "origin": "a survey"})  # fmt: skip
    publish("tokenizer", tokenizer.save, inputs=["corpus"], metrics={"vocab_size": 601, "bytes_per_token": 3.21})
    publish("tokens", note, inputs=["corpus", "tokenizer"])
    publish(
        "pretrain",
        lambda folder: save_model(folder, model),
        inputs=["tokenizer", "tokens"],
        config=size,
        metrics={"num_steps": 77, "train_s": 61.0, "dtype": "bfloat16", "device": "cpu"},
    )
    publish(
        "sft",
        lambda folder: save_model(folder, model),
        inputs=["tokenizer", "pretrain"],
        config=size,
        metrics={"num_steps": 5},
    )
    publish(
        "evaluate_core",
        note,
        inputs=["pretrain"],
        metrics={"core": 0.1234, "core_standard_error": 0.01, "is_complete": False, "num_benchmarks": 3},
    )
    score = {"accuracy": 0.25, "num_asked": 200, "interval_95": [0.195, 0.314], "is_limited": True}
    publish(
        "benchmark_chat",
        note,
        inputs=["tokenizer", "sft"],
        metrics={"benchmarks": {"gsm8k": score}, "chat_core": 0.25, "chat_core_standard_error": 0.03},
    )
    store.set_ref("a-base", "1", made["pretrain"])
    store.set_ref("a-chat", "1", made["sft"])
    return store


@pytest.fixture(scope="session")
def transformers(tmp_path_factory):
    """The library, offline, with its own folder for the code that comes with models."""
    library = pytest.importorskip("transformers")
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield library


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory, store):
    from nanochat_core.export.folder import export_model

    folder = tmp_path_factory.mktemp("exported") / "hf"
    export_model(store, "a-chat", folder, form="hf")
    return folder


@pytest.fixture(scope="session")
def hf_model(transformers, hf_folder):
    return transformers.AutoModelForCausalLM.from_pretrained(hf_folder, trust_remote_code=True).eval()


@pytest.fixture(scope="session")
def hf_tokenizer(transformers, hf_folder):
    return transformers.AutoTokenizer.from_pretrained(hf_folder, trust_remote_code=True)
