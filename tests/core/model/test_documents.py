"""A packed row against each of its documents alone, through the whole model."""

import pytest
import torch
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.model.documents import Documents
from nanochat_core.model.gpt import GPT

CONFIG = GPTConfig(sequence_len=512, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=64)
STARTS, T = [0, 3, 150], 300


@pytest.fixture(scope="module")
def model():
    model = GPT(CONFIG)
    model.init_weights(0)
    nudge(model, 0.05, seed=1)
    return model


@pytest.fixture(scope="module")
def row():
    return torch.randint(0, 90, (1, T + 1), generator=torch.Generator().manual_seed(2))


def _documents():
    is_start = torch.zeros(1, T, dtype=torch.bool)
    is_start[0, STARTS] = True
    return Documents.starting_at(is_start)


@torch.no_grad()
def test_logits_of_a_packed_document_are_those_of_the_document_alone(model, row):
    ids = row[:, :-1]
    found = model(ids, documents=_documents())
    for first, last in zip(STARTS, [*STARTS[1:], T], strict=True):
        torch.testing.assert_close(found[:, first:last], model(ids[:, first:last]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[:, 3:150], model(ids)[:, 3:150], atol=1e-2)


def test_gradients_of_a_packed_row_are_the_sum_over_its_documents(model, row):
    ids, targets = row[:, :-1], row[:, 1:]
    model.zero_grad()
    model.loss(ids, targets, reduction="sum", documents=_documents()).backward()
    packed = {name: param.grad.clone() for name, param in model.named_parameters()}
    model.zero_grad()
    for first, last in zip(STARTS, [*STARTS[1:], T], strict=True):
        model.loss(ids[:, first:last], targets[:, first:last], reduction="sum").backward()
    for name, param in model.named_parameters():
        assert (packed[name] - param.grad).norm() < 1e-3 * param.grad.norm() + 1e-4, name
