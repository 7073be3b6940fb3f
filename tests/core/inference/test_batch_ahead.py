"""What a batch that runs ahead of its reader must not get wrong; that its answers are a batch's, test_batch says."""

import copy

import pytest
import torch
from core.inference.test_batch import MIXED

from nanochat_core.inference.draw import Cut, RowSettings, draw
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampler, Sampling, next_tokens, settings_of

PYTHON_START, PYTHON_END, OUTPUT_END = 261, 262, 264
CALLS = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END}


@pytest.fixture
def both(scripted_model, tokenizer):
    """The engine that is read in step, and the one that runs ahead."""
    return [Engine(scripted_model(CALLS), tokenizer, runs_ahead=ahead) for ahead in (False, True)]


def test_draws_behind_a_tool_result_are_numbered_as_if_nothing_had_been_chosen_in_its_place(both):
    """Behind the result all tokens are equally likely, so that one number too many or too few is seen."""
    sampling = Sampling(temperature=0.3, top_k=None, seed=8, max_new_tokens=40)
    answers = [engine.generate([[256, ord("?")]], [sampling])[0] for engine in both]
    assert answers[0].tokens[:6] == [PYTHON_START, ord("7"), PYTHON_END, 263, ord("7"), OUTPUT_END]
    assert len(answers[0].tokens) > 12
    assert answers[1] == answers[0]


def test_a_tool_s_result_in_the_first_tokens_of_an_answer_is_fed_at_once(both):
    prompt = [256, ord("?"), PYTHON_START]
    answers = [engine.generate([prompt], [Sampling(max_new_tokens=8, num_logprobs=1)])[0] for engine in both]
    assert [entry.is_forced for entry in answers[1].logprobs] == [entry.is_forced for entry in answers[0].logprobs]
    assert answers[1].tokens == answers[0].tokens


def test_the_last_token_fills_a_row_to_its_end_and_nothing_is_computed_behind_it(full_model, tokenizer):
    engine = Engine(full_model, tokenizer, weights="plain", runs_ahead=True)
    length = full_model.config.sequence_len
    answer = engine.generate([[256, *b"x" * (length - 10)]], [Sampling(max_new_tokens=100, use_tools=False)])[0]
    in_step = Engine(full_model, tokenizer, weights="plain", runs_ahead=False)
    assert answer == in_step.generate([[256, *b"x" * (length - 10)]], [Sampling(max_new_tokens=9, use_tools=False)])[0]


def test_rows_of_every_setting_draw_together_what_each_draws_alone():
    """The table of a device's step mixes rows that the host would draw in groups."""
    logits = 4 * torch.randn(40, 500, generator=torch.Generator().manual_seed(3)).round()  # with many equal values
    kinds = [{"top_k": 5}, {"top_k": None}, {"top_k": 400}, {"top_k": None, "top_p": 0.6}, {"top_k": 9, "top_p": 0.8}]
    samplings = [Sampling(temperature=0.5 + row / 40, seed=row, **kinds[row % 5]) for row in range(40)]
    table = torch.tensor([settings_of(Sampler(sampling), 500) for sampling in samplings], dtype=torch.float64)
    temperatures, top_k, top_p, numbers = table.unbind(1)
    rows = RowSettings(temperatures, top_k.long(), top_p, numbers)
    expected = [next_tokens(logits[row : row + 1], [Sampler(samplings[row])])[0] for row in range(40)]
    for cut in (Cut(500, 500), Cut(400, 500)):
        assert draw(logits, rows, cut).tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_steps_answer_a_mixed_batch_as_uncaptured_ones(full_model, tokenizer):
    model = copy.deepcopy(full_model).cuda()
    answers = []
    for ahead in (False, True):
        engine = Engine(model, tokenizer, weights="plain", runs_ahead=ahead)
        requests = [engine.request(*each) for each in MIXED]
        batch = engine.slots(8)
        batch.add(requests)
        while batch.num_active:
            batch.step()
        answers.append([request.answer.tokens for request in requests])
    assert batch.steps.graphs.failure is None
    assert batch.steps.graphs._captured
    assert answers[1] == answers[0]
