"""What the server says no to, and in which words; and what it must not say no to."""

import gzip
import json
import re
from pathlib import Path

import pytest

from nanochat_core.serve.refused import CHAT_FIELDS, COMPLETION_FIELDS

from .conftest import eventually

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ROOT = Path(__file__).resolve().parents[3]
HI = [{"role": "user", "content": "hi"}]


def refusal(answer, status, *, param=None, code=None):
    """Check OpenAI's shape and return the message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["code"] == code
    return error["message"]


ASKING = {
    "n": 2, "best_of": 3, "frequency_penalty": 0.5, "presence_penalty": -1, "logit_bias": {"5": 1.0}, "suffix": "end",
    "response_format": {"type": "json_object"}, "tools": [{"type": "function"}], "functions": [{"name": "f"}],
    "tool_choice": "required", "function_call": {"name": "f"}, "web_search_options": {},
    "modalities": ["text", "audio"], "audio": {"voice": "alloy"}, "guided_json": {"type": "object"},
    "guided_regex": "a+", "guided_choice": ["a", "b"], "guided_grammar": "root", "structured_outputs": {"json": 1},
    "json_schema": {"type": "object"}, "grammar": "root ::= x",
}  # fmt: skip
"""A value of every field of the table that asks for something."""


@pytest.mark.parametrize(("path", "fields"), [(CHAT, CHAT_FIELDS), (COMPLETIONS, COMPLETION_FIELDS)])
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(served, path, fields):
    ask = {"messages": HI} if path == CHAT else {"prompt": "x"}
    for field in fields:
        answer = served.http.post(path, json={**ask, "max_tokens": 1, field.name: ASKING[field.name]})
        assert field.reason in refusal(answer, 400, param=field.name, code="unsupported_parameter")
        for plain in (None, *field.plain):
            taken = served.http.post(path, json={**ask, "max_tokens": 1, field.name: plain})
            assert taken.status_code == 200, taken.text


def test_the_document_lists_what_is_refused_and_what_is_taken_instead():
    rows = re.findall(r"^\| (`.+?`) \| (.*?) \| (.*?) \|$", (ROOT / "docs/serving.md").read_text(), re.MULTILINE)
    listed = {name: (values, reason) for names, values, reason in rows for name in re.findall(r"`(\w+)`", names)}
    for field in (*CHAT_FIELDS, *COMPLETION_FIELDS):
        values = ", ".join(f"`{json.dumps(plain)}`" for plain in field.plain) or "-"
        assert listed[field.name] == (values, field.reason), field.name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 11.0), ("temperature", -1), ("temperature", "0"), ("top_p", 1.1), ("max_tokens", 0),
        ("max_tokens", 1.5), ("max_tokens", -2), ("max_tokens", "16"), ("max_tokens", True), ("seed", 2**64),
        ("seed", 1e300), ("top_logprobs", 21), ("stream", "yes"), ("stop", 5), ("logprobs", 2), ("stop", [None]),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(served, field, value):
    answer = served.chat(model="tiny-chat", **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


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


def test_a_whole_number_with_a_point_is_that_number(served):
    raw = json.dumps({"messages": HI, "max_tokens": 3.0, "seed": 7.0, "n": 1.0, "top_k": 40.0, "top_logprobs": 2.0,
                      "logprobs": True, "temperature": 1e0, "logit_bias": {}})  # fmt: skip
    pointed = served.http.post(CHAT, content=raw, headers={"Content-Type": "application/json"}).json()
    plain = served.chat(max_tokens=3, seed=7, top_k=40, logprobs=True, top_logprobs=2, temperature=1).json()
    assert pointed["choices"] == plain["choices"]
    assert served.complete([65.0, 66.0], max_tokens=0, echo=True).json()["choices"][0]["text"] == "AB"


def test_limits_that_ask_for_nothing_are_none(served):
    def tokens(**limits):
        return served.chat(model="tiny-base", seed=1, **limits).json()["usage"]["completion_tokens"]

    assert tokens(max_tokens=-1) == tokens(max_tokens=None) == tokens() > 30
    assert tokens(max_tokens=50, max_completion_tokens=2) == tokens(max_tokens=2, max_completion_tokens=None) == 2
    made = served.complete("x", model="tiny-base", seed=1, max_tokens=-1).json()
    assert made["usage"]["completion_tokens"] > 16


def test_a_nucleus_of_nothing_is_the_likeliest_token(served):
    fields = {"model": "tiny-chat", "max_tokens": 20}
    answers = [served.chat(**fields, **how).json()["choices"] for how in ({"top_p": 0}, {"temperature": 0})]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("value", [None, False, 0])
def test_log_probs_that_are_not_wanted_are_not_told(served, value):
    assert served.chat(logprobs=value, top_logprobs=0, max_tokens=1).json()["choices"][0]["logprobs"] is None
    told = served.complete("x", logprobs=value, max_tokens=1).json()["choices"][0]["logprobs"]
    assert (told is None) == (value in (None, False) and type(value) is not int)  # 0: of the tokens themselves


@pytest.mark.parametrize("stop", [None, "", [], [""], ["zz"] * 16])
def test_stops_may_be_nothing_one_or_many(served, stop):
    assert served.chat(stop=stop, max_tokens=1).status_code == 200


def test_too_many_stops_are_told_how_many_may_be(served):
    assert "16" in refusal(served.chat(stop=["s"] * 17), 400, param="stop")


@pytest.mark.parametrize(
    ("messages", "param", "word"),
    [
        ([], "messages", "at least 1"),
        ([*HI, {"role": "assistant", "content": "so"}], "messages", "the last message is the assistant's"),
        ([*HI, {"role": "tool", "content": "x"}], "messages[1].role", "calculator of its own"),
        ([*HI, {"role": "function", "name": "f", "content": "x"}], "messages[1].role", "calculator of its own"),
        ([{"role": "User", "content": "x"}], "messages[0].role", "'user'"),
        (
            [*HI, {"role": "assistant", "content": None, "tool_calls": [{}]}, *HI],
            "messages[1].tool_calls",
            "calculator",
        ),
        (
            [*HI, {"role": "assistant", "content": "", "function_call": {"name": "f"}}],
            "messages[1].function_call",
            "not",
        ),
        ([{"role": "user"}], "messages[0].content", "required"),
        ([{"role": "user", "content": 5}], "messages[0].content", "a text, null, or a list"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "dictionary"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "required"),
        ([{"role": "user", "content": [{"type": "python", "text": "1"}]}], "messages[0]", "only an assistant's"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content", "text only"),
        (
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            "messages[0].content",
            "part 0 is of type input_audio",
        ),
    ],
)
def test_conversations_that_the_model_cannot_be_told_are_refused_with_the_place_and_the_reason(
    served, messages, param, word
):
    answer = served.http.post(CHAT, json={"messages": messages, "model": "tiny-chat"})
    assert word in refusal(answer, 400, param=param)


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


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "empty"), (b'{"messages": caf\xe9}', "byte 16"), (b'{\n"a" 1}', "line 2 column 5"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "no end"), (b"[" * 100_000, "no end"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_told_where_it_breaks_off(served, raw, word):
    answer = served.http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    assert word in refusal(answer, 400)


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_without_the_type_of_json_is_told_of_the_header(served, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = served.http.post(CHAT, content=json.dumps({"messages": HI}).encode(), headers=headers)
    assert "Content-Type: application/json" in refusal(answer, 400, code="unsupported_content_type")


def test_a_compressed_body_is_refused(served):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = served.http.post(CHAT, content=gzip.compress(json.dumps({"messages": HI}).encode()), headers=headers)
    assert "Content-Encoding" in refusal(answer, 415, code="unsupported_content_encoding")


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
    for path in ("/v1/nothing", "/chat/completions", "/v1/v1/models", "/v1/models/../nothing"):
        assert "base URL ends in /v1" in refusal(served.http.get(path), 404)
    for path in ("/v1/embeddings", "/v1/responses", "/v1/moderations", "/v1/audio/speech"):
        assert "embeddings" in refusal(served.http.post(path, json={"model": "tiny-chat", "input": "x"}), 404)
    assert "POST only" in refusal(served.http.get(CHAT), 405)
    no = served.http.post("/health", json={})
    assert "GET, HEAD only" in refusal(no, 405)
    assert no.headers["Allow"] == "GET, HEAD"


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
