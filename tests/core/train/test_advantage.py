"""The policy gradient: against sums done by hand, against autograd, and what it leaves alone."""

import math

import pytest
import torch
from nudge import nudge

from nanochat_core.model import cross_entropy
from nanochat_core.model.gpt import GPT
from nanochat_core.train.advantage import advantages, batch_of, plain_terms, policy_terms

from .conftest import CONFIG

SEQUENCES = [[261, 5, 6, 7, 8], [261, 9, 10]]
SAMPLED = [[False, False, True, False, True], [False, False, True]]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ([1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ([1, 1, 1], [0, 0, 0]),
        ([0.1, 0.1, 0.1], [0, 0, 0]),
    ],
)
def test_an_advantage_is_the_reward_less_the_mean_of_its_question(rewards, expected):
    assert advantages(rewards) == expected


def test_prompts_forced_tokens_and_padding_are_no_targets():
    ids, targets = batch_of(SEQUENCES, SAMPLED, pad=0)
    assert ids.tolist() == [[261, 5, 6, 7], [261, 9, 10, 0]]
    assert targets.tolist() == [[-1, 6, -1, 8], [-1, 10, -1, -1]]


def test_the_loss_of_a_model_that_knows_nothing_is_what_paper_and_pencil_give():
    model = GPT(CONFIG)  # all weights zero: every token has the chance 1 / 265
    ids, targets = batch_of(SEQUENCES, SAMPLED, pad=0)
    terms = policy_terms(model, ids, targets, row_advantages=torch.tensor([0.5, -0.25]), reference=model)
    assert terms.num_tokens == 3
    assert terms.loss.item() == pytest.approx((2 * 0.5 - 0.25) * math.log(265), rel=1e-6)
    assert float(terms.entropy) == pytest.approx(3 * math.log(265), rel=1e-6)
    assert float(terms.kl) == 0


def test_the_gradient_is_that_of_the_weighted_log_probabilities(picker):
    ids, targets = batch_of(SEQUENCES, SAMPLED, pad=0)
    weights = torch.tensor([0.75, -0.25])
    policy_terms(picker, ids, targets, row_advantages=weights).loss.backward()
    ours = [parameter.grad.clone() for parameter in picker.parameters()]
    picker.zero_grad()
    log_probs = picker(ids).log_softmax(-1)
    total = -sum(weights[row] * log_probs[row, place, targets[row, place]] for row, place in ((0, 1), (0, 3), (1, 1)))
    total.backward()
    for parameter, grad in zip(picker.parameters(), ours, strict=True):
        assert torch.allclose(grad, parameter.grad, atol=1e-6)


def test_a_step_along_the_gradient_makes_the_better_answer_likelier(picker):
    ids, targets = batch_of(SEQUENCES, SAMPLED, pad=0)

    def log_probs():
        return -torch.stack(
            [picker.loss(ids[row : row + 1], targets[row : row + 1], reduction="sum") for row in (0, 1)]
        )

    before = log_probs().detach()
    policy_terms(picker, ids, targets, row_advantages=torch.tensor([0.5, -0.5])).loss.backward()
    with torch.no_grad():
        for parameter in picker.parameters():
            parameter -= 1e-3 * parameter.grad
    after = log_probs().detach()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_divergence_is_zero_from_itself_and_above_zero_from_another(picker):
    ids, targets = batch_of(SEQUENCES, SAMPLED, pad=0)
    zero = torch.zeros(2)
    assert float(policy_terms(picker, ids, targets, row_advantages=zero, reference=picker).kl) == pytest.approx(
        0, abs=1e-6
    )
    other = GPT(CONFIG)
    terms = policy_terms(picker, ids, targets, row_advantages=zero, reference=other)
    # from a uniform one it is log V - entropy
    assert float(terms.kl) == pytest.approx(3 * math.log(265) - float(terms.entropy), rel=1e-5)


def test_the_sweep_in_chunks_is_the_formula_over_all_logits(picker, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_TOKENS", 7)
    monkeypatch.setattr(cross_entropy, "SLICE_ELEMENTS_CPU", 3 * CONFIG.vocab_size)
    reference = GPT(CONFIG)
    reference.load_state_dict(picker.state_dict())
    nudge(reference, 0.05, seed=2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, CONFIG.vocab_size, (5, 30), generator=generator)
    targets = torch.randint(0, CONFIG.vocab_size, (5, 30), generator=generator).masked_fill(ids % 3 == 0, -1)
    told = {"row_advantages": torch.tensor([0.75, -0.25, -0.25, 0.5, -0.75]), "reference": reference}
    found = []
    for terms_of in (policy_terms, plain_terms):
        picker.zero_grad()
        terms = terms_of(picker, ids, targets, **told)
        terms.loss.backward()
        grads = [parameter.grad.clone() for parameter in picker.parameters()]
        found.append((terms, grads))
    (ours, our_grads), (plain, plain_grads) = found
    assert ours.num_tokens == plain.num_tokens
    for name in ("loss", "entropy", "kl"):
        assert float(getattr(ours, name)) == pytest.approx(float(getattr(plain, name)), rel=1e-6), name
    ours, plain = (torch.cat([grad.flatten() for grad in grads]) for grads in (our_grads, plain_grads))
    assert (ours - plain).norm() <= 1e-6 * plain.norm()
    with torch.no_grad():
        measured = policy_terms(picker, ids, targets, **told)
    for name in ("loss", "entropy", "kl"):
        assert float(getattr(measured, name)) == pytest.approx(float(getattr(found[0][0], name)), rel=1e-6), name
