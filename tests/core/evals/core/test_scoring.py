"""Shared prefixes, windows and batches against one plain forward per item."""

import math

import numpy as np
import pytest
import torch

from benchmarks import reference_core
from nanochat_core.base.errors import NanochatError
from nanochat_core.evals.core.bundle import read_bundle
from nanochat_core.evals.core.prompts import Prompt, Prompts, write_prompts
from nanochat_core.evals.core.scoring import GPTScorer, Score

ITEMS_EACH = 6


def _ids(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 900, length).astype(np.uint16) for length in lengths]


def _prompt(prefix_len, suffix_lens, *, scored=None, gold=0, seed=0):
    prefix, *suffixes = _ids(prefix_len, *suffix_lens, seed=seed)
    return Prompt(prefix, suffixes, list(scored or suffix_lens), gold)


def _score(model, prompts, batch_tokens=4096):
    return GPTScorer(model, batch_tokens=batch_tokens).score(prompts, lambda done: None)


@torch.no_grad()
def _plain(model, prompt, choice):
    """Mean loss of one choice from the training forward over its whole sequence."""
    ids = torch.from_numpy(np.concatenate([prompt.prefix, prompt.suffixes[choice]]).astype(np.int64))
    losses = -torch.log_softmax(model(ids[None, :-1])[0], dim=-1).gather(1, ids[1:, None])[:, 0]
    return float(losses[-prompt.num_scored[choice] :].mean())


def test_every_answer_of_the_real_bundle_is_the_references(real_bundle, bpe, make_model, tmp_path):
    model = make_model()
    bundle = read_bundle(real_bundle)
    write_prompts(bundle, bpe, tmp_path, max_per_benchmark=ITEMS_EACH, progress=lambda done, total: None)
    prompts = Prompts(tmp_path)
    for task, entry in zip(reference_core.read_tasks(real_bundle), prompts.benchmarks, strict=True):
        items = reference_core.read_task(real_bundle, task, ITEMS_EACH)
        scores = _score(model, [prompts.prompt(entry.first + index) for index in range(entry.num_items)])
        for index, score in enumerate(scores):
            expected = reference_core.score_item(model, bpe, task, items, index)
            assert score.chosen == expected["chosen"], (task["label"], index)
            assert score.is_greedy == expected["is_greedy"]
            np.testing.assert_allclose(score.losses, expected["losses"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"n_layer": 1}, {"n_layer": 2}, {"n_layer": 5, "window_pattern": "SSLL"}])
def test_losses_are_those_of_whole_sequences_whatever_the_windows(make_model, changes):
    """Prompts far longer than all windows together, and far shorter, and schemas whose scored part starts late."""
    model = make_model(sequence_len=128, **changes)
    prompts = [
        _prompt(900, [5, 40, 1], seed=1),
        _prompt(700, [3, 2], seed=2),
        _prompt(1, [7, 4], seed=3),
        _prompt(300, [20, 30], scored=[4, 4], seed=4),
        _prompt(600, [150], seed=5, gold=None),
        _prompt(130, [1, 1, 1, 1], seed=6),
    ]
    for prompt, score in zip(prompts, _score(model, prompts), strict=True):
        expected = [_plain(model, prompt, choice) for choice in range(len(prompt.suffixes))]
        np.testing.assert_allclose(score.losses, expected, atol=2e-5, rtol=0)


def test_an_item_scores_the_same_alone_as_in_any_batch(make_model):
    model = make_model()
    prompts = [_prompt(10 * n + 3, [n % 4 + 1, 5, 9][: n % 3 + 1], seed=n) for n in range(24)]
    together, alone = _score(model, prompts), [_score(model, [prompt])[0] for prompt in prompts]
    tight = _score(model, prompts, batch_tokens=1)
    for one, other, third in zip(together, alone, tight, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, atol=1e-5, rtol=0)
        np.testing.assert_allclose(one.losses, third.losses, atol=1e-5, rtol=0)
        assert one.is_greedy == other.is_greedy == third.is_greedy


def test_bf16_differs_from_fp32_by_its_rounding_only(make_model):
    model = make_model()
    prompts = [_prompt(200 + n, [3, 8, 1], seed=n) for n in range(4)]
    exact = _score(model, prompts)
    model.compute_dtype = torch.bfloat16
    for one, other in zip(exact, _score(model, prompts), strict=True):
        np.testing.assert_allclose(one.losses, other.losses, atol=0.15, rtol=0)


def test_greedy_is_what_the_model_would_say(make_model):
    model = make_model()
    prompt = _prompt(40, [6], gold=None)
    ids = prompt.prefix.astype(np.int64).tolist()
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    said = Prompt(prompt.prefix, [np.array(ids[40:], dtype=np.uint16)], [6], None)
    other = Prompt(prompt.prefix, [np.array([*ids[40:45], (ids[45] + 1) % 900], dtype=np.uint16)], [6], None)
    assert [score.is_greedy for score in _score(model, [prompt, said, other])] == [[False], [True], [False]]


def test_beyond_ten_contexts_the_beginning_is_cut_for_all_choices_alike(make_model):
    model = make_model(sequence_len=16)
    prompt = _prompt(300, [9, 4])
    cropped = Prompt(prompt.prefix[300 + 9 - 160 :], prompt.suffixes, prompt.num_scored, 0)
    expected = [_plain(model, cropped, choice) for choice in range(2)]
    np.testing.assert_allclose(_score(model, [prompt])[0].losses, expected, atol=2e-5, rtol=0)


def test_a_choice_without_a_token_of_its_own_never_wins_by_having_no_loss(make_model):
    prefix, longer = _ids(30, 4)
    empty = longer[:0]
    first, second, both = _score(
        make_model(),
        [
            Prompt(prefix, [empty, longer], [0, 4], 0),
            Prompt(prefix, [longer, empty], [4, 0], 0),
            Prompt(prefix, [empty, empty], [0, 0], 0),
        ],
    )
    assert (first.losses[0], first.chosen) == (math.inf, 1)
    assert (second.losses[1], second.chosen) == (math.inf, 0)
    assert (both.losses, both.chosen, both.is_greedy) == ([math.inf] * 2, 0, [False] * 2)
    assert first.losses[1] == second.losses[0]


def test_equal_choices_have_equal_losses_and_the_first_is_taken(make_model):
    prefix, one, other = _ids(50, 5, 5)
    score = _score(make_model(), [Prompt(prefix, [other, one, one], [5, 5, 5], 2)])[0]
    assert score.losses[1] == score.losses[2]
    assert Score([2.0, 1.0, 1.0], [False] * 3).chosen == 1


def test_a_model_with_damaged_weights_is_an_error_and_not_an_accuracy(make_model):
    model = make_model()
    with torch.no_grad():
        model.head.weight[3] = float("nan")
    with pytest.raises(NanochatError, match="not finite"):
        _score(model, [_prompt(20, [3, 4])])


def test_scoring_leaves_a_model_that_can_still_be_trained(make_model):
    model = make_model(sequence_len=64)
    _score(model, [_prompt(200, [3, 4])])
    rows = torch.randint(0, 900, (2, 65))
    model.loss(rows[:, :-1], rows[:, 1:]).backward()
    assert model.blocks[0].attn.q.weight.grad.abs().sum() > 0


def test_progress_ends_at_all_items(make_model):
    heard = []
    prompts = [_prompt(20, [3, 4], seed=n) for n in range(5)]
    GPTScorer(make_model(), batch_tokens=64).score(prompts, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 5
