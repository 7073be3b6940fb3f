"""lm-eval through its own API models: log-likelihoods equal to a plain forward, generation over chat."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from model_server import byte_tokenizer, scripted_model, serve_here

from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.pool import ModelPool, ServedModel
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.conversation import render_prompt

pytestmark = pytest.mark.slow
CASES = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " the queen"),
    ("quick", " quick quick"),
    ("Grüße aus", " München, 你好"),
    ("", "no context at all"),
    ("a" * 100, "b" * 100),
]
ENDING_CASES = [("xa", "b"), ("xab", "a")]  # after b the likeliest token is the end


def plain_loglikelihood(engine, context, continuation):
    """Summed log-probability of the continuation, and whether it is the greedy one: a forward pass and a loop."""
    tokenizer = engine.tokenizer
    ids = [tokenizer.bos, *tokenizer.encode(context + continuation)]
    first = 1 + len(tokenizer.encode(context))
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([ids]))[0].log_softmax(-1)
    total = sum(float(logprobs[place - 1, ids[place]]) for place in range(first, len(ids)))
    return total, all(int(logprobs[place - 1].argmax()) == ids[place] for place in range(first, len(ids)))


def loglikelihoods(base_url, model, cases, **options):
    client = LocalCompletionsAPI(
        base_url=f"{base_url}/v1/completions", model=model, max_length=255, num_concurrent=1, max_retries=1, **options
    )
    assert client.tokenizer_backend == "remote"  # found by asking our server
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=case, idx=number, metadata=("t", number, 1))
        for number, case in enumerate(cases)
    ]
    return client.loglikelihood(requests)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_are_those_of_a_plain_forward(url, pool, batch_size):
    engine = pool.ready("tiny-base")[1].engine
    got = loglikelihoods(url, "tiny-base", CASES, batch_size=batch_size)
    for (value, is_greedy), case in zip(got, CASES, strict=True):
        expected, is_expected_greedy = plain_loglikelihood(engine, *case)
        assert value == pytest.approx(expected, abs=1e-6 * max(1, abs(expected)))
        assert is_greedy == is_expected_greedy


def test_a_likeliest_end_token_shifts_nothing():
    tokenizer = byte_tokenizer()
    script = {ord("a"): ord("b"), ord("b"): tokenizer.special(tk.ASSISTANT_END)}
    engine = Engine(scripted_model(script), tokenizer)
    card = ModelCard(id="ending", ref="ending@1", kind="chat", context_tokens=256, num_parameters=1)
    pool = ModelPool([ServedModel(card, lambda: engine)])
    with serve_here(pool) as url:
        pool.wait(60)
        got = loglikelihoods(url, "ending", ENDING_CASES)
    for (value, is_greedy), case in zip(got, ENDING_CASES, strict=True):
        expected, is_expected_greedy = plain_loglikelihood(engine, *case)
        assert value == pytest.approx(expected, abs=1e-6 * max(1, abs(expected)))
        assert is_greedy == is_expected_greedy
    assert [is_greedy for _, is_greedy in got] == [True, False]


def test_generation_over_chat_is_the_engines_answer(url, pool):
    client = LocalChatCompletion(
        base_url=f"{url}/v1/chat/completions", model="tiny-chat", num_concurrent=1, max_retries=1
    )
    questions = ["What is 2 + 2?", "Say hello"]
    requests = [
        Instance(
            request_type="generate_until", doc={}, idx=number, metadata=("t", number, 1),
            arguments=(client.apply_chat_template([{"role": "user", "content": text}]),
                       {"until": ["\n\n", "<|assistant_end|>"], "max_gen_toks": 20, "do_sample": False}),
        )
        for number, text in enumerate(questions)
    ]  # fmt: skip
    engine = pool.ready("tiny-chat")[1].engine
    assert client.generate_until(requests) == [greedy(engine, text) for text in questions]


def greedy(engine, text):
    prompt = render_prompt(engine.tokenizer, [{"role": "user", "content": text}])
    [answer] = engine.generate([prompt], [Sampling(max_new_tokens=20, stop=("\n\n",))])
    return answer.text
