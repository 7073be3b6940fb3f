"""Sampling: the same seed gives the same tokens, and each setting does what it says."""

import math

import pytest
import torch

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.sampling import Sampler, Sampling


def _logits(seed=0, size=200):
    return 4 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def _draw(sampling, count, logits=None):
    sampler = Sampler(sampling)
    return [sampler.next_token(_logits(step) if logits is None else logits) for step in range(count)]


@pytest.mark.parametrize("top_k", [None, 1, 5, 50, 10_000])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 10.0])
def test_the_same_seed_gives_the_same_tokens(temperature, top_k):
    sampling = Sampling(temperature=temperature, top_k=top_k, seed=5)
    assert _draw(sampling, 40) == _draw(sampling, 40)


def test_other_seeds_give_other_tokens():
    drawn = {tuple(_draw(Sampling(temperature=1.0, seed=seed), 40)) for seed in range(5)}
    assert len(drawn) == 5


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _draw(Sampling(temperature=1.0, seed=5), 20)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert _draw(Sampling(temperature=1.0, seed=5), 20) == first


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.0, seed=9), Sampling(temperature=5.0, top_k=1)], ids=repr
)
def test_no_temperature_and_top_one_take_the_likeliest(sampling):
    assert _draw(sampling, 40) == [int(_logits(step).argmax()) for step in range(40)]


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-38, 1e-40, 1e-45, 1e-300])
@pytest.mark.parametrize("top_k", [None, 5])
def test_a_temperature_near_zero_is_nearly_greedy(temperature, top_k):
    logits = torch.tensor([1.0, 14.0, -14.0, 3.0, 5.0, 2.0, 1.5])
    assert _draw(Sampling(temperature=temperature, top_k=top_k), 5, logits) == [1] * 5


def test_only_the_top_k_are_drawn():
    logits = torch.arange(20.0) / 10
    assert set(_draw(Sampling(temperature=2.0, top_k=3), 300, logits)) == {17, 18, 19}


def test_frequencies_follow_the_softmax_at_the_temperature():
    logits, temperature = torch.tensor([0.0, 1.0, 2.0]), 0.7
    expected = (logits / temperature).softmax(-1).tolist()
    drawn = _draw(Sampling(temperature=temperature, top_k=None), 3000, logits)
    for token, probability in enumerate(expected):
        deviation = math.sqrt(probability * (1 - probability) / 3000)
        assert abs(drawn.count(token) / 3000 - probability) < 5 * deviation


def test_top_k_of_all_tokens_draws_as_without_it():
    logits = torch.randn(30, generator=torch.Generator().manual_seed(3))
    assert _draw(Sampling(temperature=1.0, top_k=30), 30, logits) == _draw(
        Sampling(temperature=1.0, top_k=None), 30, logits
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1}, {"temperature": 10.1}, {"temperature": math.nan}, {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": -1}, {"max_new_tokens": 0}, {"max_new_tokens": -5}, {"seed": 2**70}, {"seed": -(2**70)},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError):
        Sampler(Sampling(**setting))
