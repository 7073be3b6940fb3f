"""One model, one answer: every way to ask a model gives the same greedy tokens and the same numbers.

The training forward is what the others are held against: the engine alone, the engine among seven other requests that
come and go, the server's stream, the server's whole answer, and the weights after they were exported and read again.
The model has every feature on and the prompt is longer than its windows, so that rings turn round.
"""

from dataclasses import asdict

import httpx
import pytest
import torch
from model_server import byte_tokenizer, serve_here
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.export.folder import export_model
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import has_value_embed, window_sizes
from nanochat_core.model.weights import load_model, save_model
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.logprobs import token_name
from nanochat_core.serve.pool import ModelPool
from nanochat_core.store.store import Store
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.conversation import render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer

from .conftest import Served

NUM_TOKENS = 40
NUM_TOP = 20  # the most that the API tells
EXACT = {"atol": 1e-5, "rtol": 0}
MESSAGES = [
    {"role": "system", "content": "Say the next words."},
    {"role": "user", "content": "the queen and the king " * 6},
    {"role": "assistant", "content": [{"type": "text", "text": "it is "}, {"type": "python", "text": "2+3"},
                                      {"type": "python_output", "text": "5"}, {"type": "text", "text": " then"}]},
    {"role": "user", "content": "and the other one? " * 8 + "\u00e9\u4e16"},
]  # fmt: skip
CHAT = {"messages": MESSAGES, "temperature": 0, "max_tokens": NUM_TOKENS, "logprobs": True, "top_logprobs": NUM_TOP}


@pytest.fixture(scope="module")
def model():
    """Grouped heads, windows, value embeddings, smear, backout, and no weight that is zero."""
    vocab_size = byte_tokenizer().vocab_size
    config = GPTConfig(sequence_len=384, vocab_size=vocab_size, n_layer=4, n_head=4, n_kv_head=2, n_embd=64)
    assert window_sizes(config) == [128, 128, 128, 384]
    assert sum(has_value_embed(config, layer) for layer in range(4)) == 2
    model = GPT(config)
    model.init_weights(0)
    nudge(model, 0.2, seed=7)
    with torch.no_grad():
        ends = [byte_tokenizer().special(name) for name in tk.SPECIAL_TOKENS]
        model.head.weight[ends] = 1e-3  # an answer that ends at its second token shows little
    assert all(parameter.abs().min() > 0 for parameter in model.parameters())
    return model.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory, model):
    """The model in a store, as a chat model."""
    root = tmp_path_factory.mktemp("one-answer")
    store = Store.open(str(root / "store"), cache_folder=root / "cache")
    made = {}

    def publish(step, config=None):
        made[step] = store.publish(
            root / step, step=step, fingerprint=f"{step}-1", config=config or {}, code={}, packages={}, metrics={},
            inputs={name: artifact.result_digest for name, artifact in made.items()}, provenance={},
        )  # fmt: skip

    byte_tokenizer().save(root / "tokenizer")
    publish("tokenizer")
    save_model(root / "sft", model)
    publish("sft", {"model": asdict(model.config)})
    store.set_ref("full", "1", made["sft"])
    return store


@pytest.fixture(scope="module")
def prompt():
    return render_prompt(byte_tokenizer(), MESSAGES)


@pytest.fixture(scope="module")
def answer(model, prompt):
    """The greedy tokens by the training forward over the whole sequence, and its log-probs (NUM_TOKENS, V)."""
    ids, logprobs = list(prompt), []
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            logprobs.append(model(torch.tensor([ids]))[0, -1].log_softmax(-1))
            ids.append(int(logprobs[-1].argmax()))
    tokens = ids[len(prompt) :]
    assert len(prompt) > 200
    assert len(set(tokens)) > 5
    best = torch.stack(logprobs).topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-3  # else rounding could choose another token
    return tokens, torch.stack(logprobs)


def check(found, answer):
    """`found`: for each token its id and the log-probs of some tokens by id."""
    tokens, expected = answer
    assert [token for token, _ in found] == tokens
    for place, (_, values) in enumerate(found):
        ids = torch.tensor(list(values))
        torch.testing.assert_close(torch.tensor(list(values.values())), expected[place, ids], **EXACT)


def told(request):
    """What the engine says of a request's tokens."""
    return [(entry.token, dict(entry.top)) for entry in request.answer.logprobs]


def everything(model):
    return Sampling(max_new_tokens=NUM_TOKENS, num_logprobs=model.config.vocab_size)


def generated_alone(model, tokenizer, prompt):
    request = (engine := Engine(model, tokenizer)).request(prompt, everything(model))
    batch = engine.slots(1)
    batch.add([request])
    while not request.is_done:
        batch.step()
    return told(request)


def test_the_engine_alone_says_what_the_training_forward_says(model, prompt, answer):
    check(generated_alone(model, byte_tokenizer(), prompt), answer)


def test_the_engine_says_the_same_among_seven_others_that_come_and_go(model, prompt, answer):
    engine = Engine(model, byte_tokenizer())
    batch = engine.slots(8, chunk_tokens=48)
    draw = torch.Generator().manual_seed(0)

    def other(number):
        ids = torch.randint(0, 256, (1 + 37 * number,), generator=draw).tolist()
        sampling = Sampling(
            temperature=number % 3 * 0.7, top_k=None if number % 2 else 9, top_p=0.9 if number % 4 == 1 else None,
            seed=number, max_new_tokens=3 + 5 * number, stop=("e",) if number == 4 else (),
            num_logprobs=2 if number == 5 else None, use_tools=number != 6,
        )  # fmt: skip
        return engine.request(ids, sampling)

    request = engine.request(prompt, everything(model))
    waiting = [other(number) for number in (1, 2, 3, 4, 5, 6, 7, 2, 4, 6)]
    cancelled = waiting[6]
    batch.add([waiting.pop(0), waiting.pop(0), request, waiting.pop(0)])
    while not request.is_done:
        if batch.num_free and waiting:
            batch.add([waiting.pop(0)])
        batch.step()
        if len(request.answer.tokens) == 20:
            batch.drop(cancelled)
    assert not waiting
    check(told(request), answer)


@pytest.fixture(scope="module")
def served(store):
    pool = ModelPool.from_store(store, ["full"], device="cpu", dtype="fp32", limits=Limits(num_rows=4))
    with serve_here(pool) as url, httpx.Client(base_url=url, timeout=60) as http:
        pool.wait(60)
        yield Served(pool, http)


def told_by_api(entries):
    ids = {token_name(byte_tokenizer(), token): token for token in range(byte_tokenizer().vocab_size)}
    return [
        (ids[entry["token"]], {ids[top["token"]]: top["logprob"] for top in entry["top_logprobs"]}) for entry in entries
    ]


def test_the_server_says_it_whole(served, prompt, answer):
    body = served.http.post("/v1/chat/completions", json=CHAT).json()
    assert body["usage"]["prompt_tokens"] == len(prompt)
    choice = body["choices"][0]
    assert choice["message"]["content"] == byte_tokenizer().decode(answer[0])
    check(told_by_api(choice["logprobs"]["content"]), answer)


def test_the_server_streams_it(served, answer):
    pieces = [chunk["choices"][0] for chunk in served.chunks(**CHAT)]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces) == byte_tokenizer().decode(answer[0])
    entries = [entry for piece in pieces if piece["logprobs"] for entry in piece["logprobs"]["content"]]
    check(told_by_api(entries), answer)


def test_exported_weights_read_again_say_it(store, model, tmp_path, prompt, answer):
    export_model(store, "full", tmp_path / "taken", form="safetensors")
    read, tokenizer = load_model(tmp_path / "taken"), Tokenizer.load(tmp_path / "taken")
    assert render_prompt(tokenizer, MESSAGES) == prompt
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), model.parameters(), strict=True))
    check(generated_alone(read, tokenizer, prompt), answer)
