"""Logits after a prompt: those of the whole model, whatever the batch."""

import pytest
import torch

from nanochat_core.inference.next_token import next_token_logits

PROMPTS = [[256, *b"a" * length, 65 + length % 7] for length in (1, 40, 33, 7, 90, 62, 3, 94)]
CANDIDATES = [[65, 66, 67 + number] for number in range(len(PROMPTS))]


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 100, 300, 10_000])
def test_they_are_what_the_whole_model_says_alone(make_model, batch_tokens):
    model = make_model(1)
    told = []
    found = next_token_logits(model, PROMPTS, CANDIDATES, batch_tokens=batch_tokens, on_done=told.append)
    for prompt, candidates, logits in zip(PROMPTS, CANDIDATES, found, strict=True):
        alone = model(torch.tensor([prompt]))[0, -1, candidates]
        assert logits == pytest.approx(alone.tolist(), abs=1e-4)
    assert told == sorted(told)
    assert told[-1] == len(PROMPTS)


def test_no_prompts_have_no_logits(make_model):
    assert next_token_logits(make_model(), [], [], batch_tokens=10) == []
