"""Sampling: the same seed gives the same tokens, and each setting does what it says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference import draw as draw_module
from nanochat_core.inference import native, sampling
from nanochat_core.inference.draw import BLOCK, Cut, RowSettings, draw, first_largest, likeliest
from nanochat_core.inference.sampling import Sampler, Sampling, next_tokens


@pytest.fixture(autouse=True, params=["compiled", "by operations"])
def way(request, monkeypatch):
    """Drawn by compiled code, as a CPU with a compiler does, and by tensor operations, as all others do."""
    if request.param == "by operations":
        monkeypatch.setattr(sampling, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no C compiler")


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
        {"top_k": -1}, {"top_p": 0.0}, {"top_p": -0.5}, {"top_p": 1.1}, {"top_p": math.nan}, {"num_logprobs": -1},
        {"max_new_tokens": 0}, {"max_new_tokens": -5}, {"seed": 2**70}, {"seed": -(2**70)},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError):
        Sampler(Sampling(**setting))


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 3, 50, 1000]),
    top_p=st.sampled_from([None, 0.2, 0.9, 1.0]),
    seed=st.integers(0, 5),
)


@given(st.lists(SAMPLINGS, min_size=1, max_size=8), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_row_draws_the_same_alone_and_among_any_others(samplings, seed):
    logits = torch.stack([_logits(seed + row).round() for row in range(len(samplings))])  # with many equal values
    together, alone = ([Sampler(sampling) for sampling in samplings] for _ in range(2))
    for _ in range(3):
        expected = [sampler.next_token(row) for sampler, row in zip(alone, logits, strict=True)]
        assert next_tokens(logits, together) == expected


def test_the_first_draws_of_many_seeds_follow_the_softmax_too():
    """One question is asked with many seeds, and each may draw once."""
    logits = torch.tensor([0.0, 1.0, 2.0])
    drawn = next_tokens(logits.expand(4000, 3), [Sampler(Sampling(temperature=1.0, seed=i)) for i in range(4000)])
    for token, probability in enumerate(logits.softmax(-1).tolist()):
        deviation = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(drawn.count(token) / 4000 - probability) < 5 * deviation


def _nucleus(logits, sampling):
    """The usual definition, in plain Python: the fewest of the top k whose probability reaches p."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: sampling.top_k]
    weights = [math.exp(logits[token] / sampling.temperature) for token in order]
    kept, total = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        kept.append(token)
        total += weight / sum(weights)
        if total >= sampling.top_p:
            break
    return set(kept)


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize(("top_p", "temperature"), [(0.05, 1.0), (0.5, 1.0), (0.8, 0.5), (0.95, 2.0), (0.999999, 1.0)])
def test_exactly_the_nucleus_is_drawn(top_p, top_k, temperature):
    logits = torch.tensor([0.1, 1.2, 2.3, -1.0, 0.7, 1.9, -0.4])
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    expected = _nucleus(logits.tolist(), sampling)
    samplers = [Sampler(Sampling(**{**vars(sampling), "seed": seed})) for seed in range(2000)]
    assert set(next_tokens(logits.expand(2000, -1), samplers)) == expected


def test_frequencies_within_the_nucleus_are_renormalised():
    logits = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1]).log()
    samplers = [Sampler(Sampling(temperature=1.0, top_k=4, top_p=0.7, seed=seed)) for seed in range(4000)]
    drawn = next_tokens(logits.expand(4000, -1), samplers)  # of 0.9: 0.3 and 0.25 reach 0.61, with 0.2 it is 0.83
    for token, probability in enumerate([0.3 / 0.75, 0.25 / 0.75, 0.2 / 0.75, 0.0, 0.0]):
        deviation = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(drawn.count(token) / 4000 - probability) <= 5 * deviation


def test_a_limit_of_one_cuts_nothing():
    for seed in range(30):
        whole = Sampler(Sampling(temperature=1.5, seed=seed)).next_token(_logits(seed))
        assert Sampler(Sampling(temperature=1.5, top_p=1.0, seed=seed)).next_token(_logits(seed)) == whole


def test_a_nucleus_wider_than_the_head_is_whole_and_nobody_elses_business():
    """Beside a row whose nucleus is a few tokens, one whose nucleus is most of 3,000."""
    flat, peaked = torch.arange(3000) * -1e-3, _logits(size=3000)
    sampling = Sampling(temperature=1.0, top_k=None, top_p=0.9)
    expected = _nucleus(flat.tolist(), sampling)
    assert len(expected) > 1024
    samplers = [Sampler(Sampling(**{**vars(sampling), "seed": seed})) for seed in range(4000)]
    rows = torch.stack([flat, peaked]).repeat(2000, 1)
    drawn = next_tokens(rows, samplers)
    assert set(drawn[::2]) <= expected
    assert max(drawn[::2]) > 1024
    alone = [Sampler(Sampling(**{**vars(sampling), "seed": seed})).next_token(rows[seed]) for seed in range(40)]
    assert drawn[:40] == alone


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("shape", ["smooth", "peaked", "coarse", "equal", "in one block", "ends"])
def test_reading_only_the_blocks_of_the_likeliest_draws_what_reading_all_draws(rows, shape):
    """Ties across the last kept token too, where more blocks than k hold one."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, 64 * BLOCK, generator=generator)
    if shape == "peaked":
        logits *= 20
    elif shape == "coarse":
        logits = logits.round()
    elif shape == "equal":
        logits[:] = 0.0
    elif shape == "in one block":
        logits[:, 3 * BLOCK : 4 * BLOCK] += 100
    elif shape == "ends":
        logits[:, [0, -1]] = 50.0
    assert first_largest(logits).tolist() == logits.argmax(-1).tolist()
    for round_number in range(40):
        top_k = torch.randint(1, 31, (rows,), generator=generator)
        settings = RowSettings(
            temperatures=torch.rand(rows, generator=generator, dtype=torch.float64) + 0.5,
            top_k=top_k,
            top_p=torch.full((rows,), 1.0 if round_number % 2 else 0.8, dtype=torch.float64),
            numbers=torch.rand(rows, generator=generator, dtype=torch.float64),
        )
        cut = Cut(int(top_k.max()), logits.size(1))
        found, tokens = likeliest(logits, top_k, largest_k=int(top_k.max()))
        assert found.size(1) < logits.size(1) or shape == "equal"
        chosen = tokens.gather(1, draw(found, settings, cut).unsqueeze(1)).squeeze(1)
        assert chosen.tolist() == draw(logits, settings, cut).tolist()


def test_a_token_reads_the_vocabulary_for_its_maxima_alone(monkeypatch):
    """What comes after works on the k blocks that hold the likeliest: a second pass over all was 8% of a token."""
    sizes = []
    compact = draw_module._compact

    def counting(logits, last):
        sizes.append(logits.numel())
        return compact(logits, last)

    monkeypatch.setattr(draw_module, "_compact", counting)
    monkeypatch.setattr(sampling, "library", lambda: None)
    logits = torch.randn(4, 32768, generator=torch.Generator().manual_seed(0))
    next_tokens(logits, [Sampler(Sampling(temperature=1.0, top_k=50, seed=row)) for row in range(4)])
    assert sizes == [4 * 50 * BLOCK]


@pytest.mark.parametrize("vocab_size", [1, 7, 128, 265, 4096])
def test_compiled_code_draws_what_tensor_operations_draw(vocab_size, monkeypatch):
    """Ties, flat and peaked rows, any k and p: weights may differ by a rounding, and no draw of these falls between."""
    generator = torch.Generator().manual_seed(vocab_size)
    for scale, decimals in ((0.0, 0), (1.0, 0), (1.0, 3), (8.0, 3)):
        logits = (scale * torch.randn(64, vocab_size, generator=generator)).round(decimals=decimals)
        limits = torch.randint(1, vocab_size + 1, (64,), generator=generator).tolist()
        numbers = torch.rand(64, 3, generator=generator, dtype=torch.float64).tolist()
        settings = [
            (0.0 if row % 8 == 0 else 0.3 + first, top_k, 1.0 if row % 3 else max(second, 1e-3), number)
            for row, (top_k, (first, second, number)) in enumerate(zip(limits, numbers, strict=True))
        ]
        found = sampling.choose(logits, settings)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "library", lambda: None)
            assert sampling.choose(logits, settings) == found


def test_rows_without_a_largest_number_are_told_and_change_no_other():
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    whole = sampling.choose(logits, [(1.0, 50, 1.0, 0.5)] * 6)
    logits[1, 299] = logits[2, 0] = torch.nan
    logits[3, 130], logits[4] = torch.inf, -torch.inf
    logits[5, whole[5] - 1] = -torch.inf  # a token that may not come: the others go on
    for each in ((1.0, 50, 1.0, 0.5), (0.0, 1, 1.0, 0.0), (1.0, 300, 1.0, 0.5)):
        tokens = sampling.choose(logits, [each] * 6)
        assert [row for row, token in enumerate(tokens) if token == sampling.NOT_FINITE] == [1, 2, 3, 4]
    assert sampling.choose(logits, [(1.0, 50, 1.0, 0.5)] * 6)[0] == whole[0]
