"""langchain-openai: chat and plain models, streams, token counts."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chat(url):
    return ChatOpenAI(
        base_url=f"{url}/v1", api_key="none", model="tiny-chat", seed=3, max_tokens=12, max_retries=0, temperature=1
    )


def test_a_conversation_is_answered_with_its_token_counts(chat):
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("one"), AIMessage("two"), HumanMessage("three")])
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata["output_tokens"] <= 12
    assert answer.usage_metadata["input_tokens"] > 4
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_an_agents_history_need_not_alternate(chat):
    history = [SystemMessage("Be brief."), SystemMessage("Be kind."), AIMessage("hello"), HumanMessage("one"),
               HumanMessage("two"), AIMessage(""), AIMessage("three"), SystemMessage("now"),
               HumanMessage("four")]  # fmt: skip
    joined = [HumanMessage("Be brief.\n\nBe kind."), AIMessage("hello"), HumanMessage("one\n\ntwo"),
              AIMessage("three"), HumanMessage("now\n\nfour")]  # fmt: skip
    assert chat.invoke(history).text == chat.invoke(joined).text


def test_a_stream_adds_up_to_the_answer(chat):
    chunks = list(chat.stream("hello", stream_usage=True))
    assert "".join(chunk.text for chunk in chunks) == chat.invoke("hello").text
    assert sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata) > 0


def test_a_plain_model_completes_several_prompts(url):
    llm = OpenAI(base_url=f"{url}/v1", api_key="none", model="tiny-base", max_tokens=5, temperature=0, max_retries=0)
    made = llm.generate(["the", "quick"])
    assert len(made.generations) == 2
    assert made.llm_output["token_usage"]["completion_tokens"] > 0
    assert made.generations[0][0].text == llm.invoke("the")
