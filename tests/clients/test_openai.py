"""The openai package: lists, answers, streams, errors and stopping, as its users write them."""

import openai
import pytest
from model_server import SCRIPT_TEXT

pytestmark = pytest.mark.slow
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_and_looked_up(client):
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["tiny-chat", "tiny-base", "scripted-chat"]
    assert client.models.retrieve("tiny-base").nanochat["core"] == 0.125


def test_a_stream_is_the_whole_answer_and_usage_comes_when_asked(client):
    ask = {"model": "tiny-chat", "messages": HI, "seed": 11, "max_tokens": 20}
    whole = client.chat.completions.create(**ask)
    plain = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in plain) == whole.choices[0].message.content
    assert all(chunk.usage is None for chunk in plain)
    counted = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert counted[-1].usage == whole.usage


def test_the_parsing_stream_helper_builds_the_message(client):
    with client.chat.completions.stream(model="scripted-chat", messages=HI, temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == SCRIPT_TEXT


def test_errors_arrive_as_the_exceptions_that_callers_catch(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny-chat", messages=HI, n=2)
    assert bad.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="256"):
        client.completions.create(model="tiny-chat", prompt="x" * 300)


def test_completions_with_log_probs(client):
    made = client.completions.create(model="tiny-base", prompt=["a", "b"], max_tokens=4, logprobs=2, temperature=0)
    assert len(made.choices) == 2
    assert len(made.choices[0].logprobs.token_logprobs) == 4


def test_breaking_off_a_stream_gives_its_row_back(client, pool):
    stream = client.chat.completions.create(model="tiny-base", messages=HI, stream=True, seed=1)
    next(stream)
    stream.close()
    after = client.chat.completions.create(model="tiny-base", messages=HI, max_tokens=1)
    assert after.usage.completion_tokens == 1
