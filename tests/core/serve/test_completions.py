"""Plain completions: every form of prompt, echo with log-probs equal to a plain forward, the end token in the lists."""

import json

import pytest
import torch
from model_server import byte_tokenizer, scripted_model
from openai.types import Completion

from nanochat_core.inference.engine import Engine
from nanochat_core.serve.logprobs import token_name
from nanochat_core.serve.scoring import score_prompt
from nanochat_core.tokenizer import tokenizer as tk

from .conftest import endless

SCORING = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}  # what lm-eval sends


def forward(engine, ids):
    """Log-probs (T, V) in fp32 of what follows each of ids."""
    with torch.no_grad():
        return engine.model(torch.tensor([ids]))[0].log_softmax(-1)


def strict(body):
    return Completion.model_validate_json(json.dumps(body), strict=True)


def test_every_form_of_prompt_means_the_same(served):
    ids = served.engine("tiny-chat").tokenizer.encode("the queen")
    fields = {"model": "tiny-chat", "temperature": 0, "max_tokens": 8}
    texts = []
    for prompt in ("the queen", ["the queen"], ids, [ids], [byte_tokenizer().bos, *ids]):
        body = served.complete(prompt, **fields).json()
        strict(body)
        texts.append(body["choices"][0]["text"])
        assert body["usage"]["prompt_tokens"] == len(ids) + 1
    assert len(set(texts)) == 1


def test_many_prompts_get_their_own_answers_in_their_order(served):
    prompts = ["a", "the queen", "quick", "", "x" * 50]
    fields = {"model": "tiny-chat", "temperature": 0, "max_tokens": 8}
    choices = served.complete(prompts, **fields).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3, 4]
    alone = [served.complete(prompt, **fields).json()["choices"][0]["text"] for prompt in prompts]
    assert [choice["text"] for choice in choices] == alone


def test_a_stream_of_completions_says_what_the_whole_says(served):
    fields = {"model": "tiny-chat", "temperature": 1.0, "seed": 3, "max_tokens": 25, "echo": True}
    whole = served.complete(["one", "two"], **fields).json()
    chunks = served.chunks("/v1/completions", prompt=["one", "two"], stream_options={"include_usage": True}, **fields)
    for choice in whole["choices"]:
        own = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == whole["usage"]
    for chunk in chunks:
        strict(chunk | {"choices": [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in chunk["choices"]]})


def test_echoed_log_probs_are_those_of_a_plain_forward(served):
    engine = served.engine("tiny-chat")
    ids = engine.tokenizer.encode("the quick queen, Grüße 你好")
    expected = forward(engine, [engine.tokenizer.bos, *ids])
    choice = served.complete([ids], model="tiny-chat", **SCORING).json()["choices"][0]
    got = choice["logprobs"]
    assert {len(got[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")} == {len(ids) + 1}
    wanted = [float(expected[place, token]) for place, token in enumerate(ids)]
    assert got["token_logprobs"][:-1] == pytest.approx(wanted, abs=1e-6)
    assert [max(top.values()) for top in got["top_logprobs"]] == pytest.approx(
        expected.max(-1).values.tolist(), abs=1e-6
    )
    for name, value, top in zip(got["tokens"], got["token_logprobs"], got["top_logprobs"], strict=True):
        assert top[name] == value  # the very same float
    assert got["tokens"][-1] == token_name(engine.tokenizer, int(expected[-1].argmax()))
    assert got["text_offset"][:2] == [0, 3]


def test_bos_of_the_client_is_echoed_and_has_no_log_prob(served):
    engine = served.engine("tiny-chat")
    ids = [engine.tokenizer.bos, *b"abc"]
    got = served.complete([ids], model="tiny-chat", **SCORING).json()["choices"][0]["logprobs"]
    assert len(got["tokens"]) == len(ids) + 1
    assert got["tokens"][0] == tk.BOS
    assert got["token_logprobs"][0] is None
    assert got["token_logprobs"][1] == pytest.approx(float(forward(engine, ids)[0, ord("a")]), abs=1e-6)


@pytest.fixture
def ending():
    """After a: b. After b: the end token, as surely as the scripted model can."""
    tokenizer = byte_tokenizer()
    script = {ord("a"): ord("b"), ord("b"): tokenizer.special(tk.ASSISTANT_END)}
    return Engine(scripted_model(script), tokenizer)


def test_an_end_token_is_in_the_lists_although_it_has_no_text(serve_endless, ending):
    with serve_endless(endless("ending", load=lambda: ending)) as served:
        scored = served.complete([list(b"xab")], **SCORING).json()
        made = served.complete("xa", logprobs=1, max_tokens=9, temperature=0).json()
    choice = scored["choices"][0]
    assert choice["text"] == "xab"
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == ["x", "a", "b", tk.ASSISTANT_END]
    assert scored["usage"]["completion_tokens"] == 1
    assert made["choices"][0]["text"] == "b"
    assert made["choices"][0]["logprobs"]["tokens"] == ["b", tk.ASSISTANT_END]
    assert made["choices"][0]["logprobs"]["text_offset"] == [0, 1]


def test_the_name_of_the_end_token_among_the_stops_is_the_token(serve_endless, ending):
    with serve_endless(endless("ending", load=lambda: ending)) as served:
        for stop in (tk.ASSISTANT_END, [tk.ASSISTANT_END], ["zzz", tk.ASSISTANT_END]):
            choice = served.complete("xa", stop=stop, max_tokens=9, temperature=0).json()["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == ("b", "stop")


def test_stop_texts_are_never_sent(serve_endless):
    with serve_endless() as served:
        body = served.chat(temperature=0, max_tokens=50, stop=["bab"]).json()
        assert body["choices"][0]["message"]["content"] == "a"
        assert body["choices"][0]["finish_reason"] == "stop"
        chunks = served.chunks(messages=[{"role": "user", "content": "x"}], temperature=0, max_tokens=50, stop="bab")
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "a"


def test_log_probs_of_generated_tokens_are_those_of_a_plain_forward(served):
    engine = served.engine("tiny-chat")
    got = served.complete("the", model="tiny-chat", temperature=0, max_tokens=6, logprobs=2).json()["choices"][0]
    ids = [engine.tokenizer.bos, *engine.tokenizer.encode("the")]
    for name, value, top in zip(
        *(got["logprobs"][k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True
    ):
        row = forward(engine, ids)[-1]
        token = int(row.argmax())
        assert name == token_name(engine.tokenizer, token)
        assert value == pytest.approx(float(row[token]), abs=1e-5)
        assert len(top) == 2
        ids.append(token)


def test_nothing_is_generated_when_no_token_is_wanted(served):
    body = served.complete("the", model="tiny-chat", max_tokens=0, echo=True, logprobs=0).json()
    assert body["choices"][0]["text"] == "the"
    assert body["usage"]["completion_tokens"] == 0
    assert len(body["choices"][0]["logprobs"]["tokens"]) == len(byte_tokenizer().encode("the"))


def test_no_two_tokens_have_one_name():
    tokenizer = byte_tokenizer()
    names = [token_name(tokenizer, token) for token in range(tokenizer.vocab_size)]
    assert len(set(names)) == tokenizer.vocab_size


def test_scores_do_not_depend_on_how_many_logits_are_held_at_once(served, monkeypatch):
    engine = served.engine("tiny-chat")
    ids = list(b"a longer text than five tokens")
    whole = score_prompt(engine.model, ids, num_top=1)
    monkeypatch.setattr("nanochat_core.serve.scoring.HEAD_ELEMENTS", 5 * engine.model.config.vocab_size)
    parts = score_prompt(engine.model, ids, num_top=1)
    assert [entry.token for entry in parts] == [entry.token for entry in whole]
    assert [entry.logprob for entry in parts] == pytest.approx([entry.logprob for entry in whole], abs=1e-6)
