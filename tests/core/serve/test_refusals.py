"""What the server says no to, and in which words; and what it must not say no to."""

import json

import pytest

from .conftest import eventually

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]


def refusal(answer, status, *, param=None, code=None):
    """Check OpenAI's shape and return the message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["code"] == code
    return error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("tools", [{"type": "function"}]), ("functions", [{"name": "f"}]), ("frequency_penalty", 0.5),
        ("response_format", {"type": "json_object"}), ("logit_bias", {"5": 1.0}), ("presence_penalty", -1),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(served, field, value):
    refusal(served.chat(model="tiny-chat", **{field: value}), 400, param=field, code="unsupported_parameter")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 11.0), ("temperature", -1), ("temperature", "0"), ("top_p", 0.0), ("max_tokens", 0),
        ("max_tokens", 1.5), ("seed", 2**64), ("top_logprobs", 21), ("stream", "yes"), ("stop", 5),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(served, field, value):
    answer = served.chat(model="tiny-chat", **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


def test_nulls_and_unknown_fields_and_plain_values_are_taken(served):
    nulls = dict.fromkeys(
        ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "stream", "stream_options", "n", "tools",
         "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "model")
    )  # fmt: skip
    answer = served.http.post(CHAT, json={**nulls, "messages": HI, "max_completion_tokens": 2})
    assert answer.status_code == 200, answer.text
    plain = {
        "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "tools": [],
        "user": "u", "metadata": {"a": [1]}, "top_k": -1, "stop": [], "temperature": 1, "max_tokens": 2,
    }  # fmt: skip
    assert served.http.post(CHAT, json={**plain, "messages": HI}).status_code == 200
    langchain = {"prompt": ["x"], "logprobs": None, "seed": None, "n": 1, "frequency_penalty": 0, "max_tokens": 2}
    assert served.http.post(COMPLETIONS, json=langchain).status_code == 200


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "hi"}],
        [*HI, *HI],
        [*HI, {"role": "assistant", "content": "so"}],
        [{"role": "system", "content": "only"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "python", "text": "1"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
    ],
)
def test_conversations_that_cannot_be_rendered_are_refused(served, messages):
    raw = json.dumps({"messages": messages, "model": "tiny-chat"})
    answer = served.http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")


def test_half_of_a_character_is_taken_as_a_replacement_character(served):
    raw = json.dumps({"prompt": "a\ud800b", "model": "tiny-chat", "echo": True, "max_tokens": 0})
    answer = served.http.post(COMPLETIONS, content=raw, headers={"Content-Type": "application/json"})
    assert answer.json()["choices"][0]["text"] == "a\ufffdb"


def test_no_refusal_repeats_what_was_written(served):
    secret = "a private sentence"
    for body in (
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": {"text": secret}}]},
        {"messages": HI, "model": secret},
        {"messages": HI, "temperature": secret},
        {"messages": [{"role": "user", "content": secret * 100}]},
    ):
        answer = served.http.post(CHAT, json=body)
        assert answer.status_code in (400, 404)
        assert secret not in answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"messages":', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(served, raw):
    answer = served.http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_numbers_that_json_does_not_have_are_refused(served):
    raw = b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'
    answer = served.http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    refusal(answer, 400, param="temperature")


def test_a_prompt_that_outgrows_the_context_is_told_both_numbers(served):
    message = refusal(served.chat("x" * 400, model="tiny-chat"), 400, param="messages", code="context_length_exceeded")
    assert "256" in message
    assert "404" in message
    answer = served.complete([[65] * 300], model="tiny-chat")
    message = refusal(answer, 400, param="prompt", code="context_length_exceeded")
    assert "256" in message
    assert "301" in message


def test_an_answer_may_fill_the_context_to_its_last_token(served):
    body = served.complete([[65] * 250], model="tiny-chat", max_tokens=99, temperature=0).json()
    assert body["usage"]["total_tokens"] <= 256
    exact = served.complete([[65] * 255], model="tiny-chat", max_tokens=1, temperature=0, echo=True, logprobs=1)
    assert len(exact.json()["choices"][0]["logprobs"]["tokens"]) == 256
    assert served.complete([[65] * 255], model="tiny-chat", max_tokens=1).status_code == 400


def test_ids_outside_the_vocabulary_are_refused(served):
    size = served.engine("tiny-chat").tokenizer.vocab_size
    for path, body in ((COMPLETIONS, {"prompt": [65, size]}), ("/detokenize", {"tokens": [size]})):
        answer = served.http.post(path, json=body)
        assert answer.status_code == 400
        assert str(size) in answer.json()["error"]["message"]
    assert served.complete([-1]).status_code == 400
    assert served.complete([]).status_code == 400


def test_an_unknown_model_and_an_unknown_path_are_not_found(served):
    message = refusal(served.chat(model="gpt-5"), 404, param="model", code="model_not_found")
    assert "tiny-chat" in message
    refusal(served.http.get("/v1/models/none"), 404, param="model", code="model_not_found")
    refusal(served.http.get("/v1/nothing"), 404)
    refusal(served.http.get(CHAT), 405)


def test_a_full_queue_is_told_when_to_come_back(serve_endless):
    with serve_endless(num_rows=1, max_waiting=1) as served:
        with (
            served.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "temperature": 0}) as first,
            served.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "temperature": 0}) as second,
        ):
            assert first.status_code == second.status_code == 200
            answer = served.chat()
            refusal(answer, 429, code="queue_full")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert served.metric("nanochat_rejected_requests_total", "endless") == 1
            two = served.complete(["a", "b", "c"])
            assert two.status_code == 400  # it would never fit, so waiting is no advice
            refusal(served.chat("x" * 20_000), 429, code="queue_full")  # not read in vain to find it too long
        eventually(lambda: served.chat(max_tokens=2).status_code == 200)


def test_more_prompts_than_the_limit_are_refused(serve_endless):
    with serve_endless(max_prompts=2) as served:
        assert served.complete(["a", "b"], max_tokens=1).status_code == 200
        message = refusal(served.complete(["a", "b", "c"]), 400, param="prompt")
        assert "3" in message
        assert "2" in message
