"""The decoder against the training forward over the whole sequence, with every feature on and in fp32."""

import pytest
import torch
from nudge import nudge

from benchmarks.reference_decoder import ReferenceDecoder
from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.native import library
from nanochat_core.inference.native_step import NATIVE_ROWS, NativeStep
from nanochat_core.model.gpt import GPT

# windows of 128 in a context of 512, two query heads to a key head, value embeddings on layers 0 and 2
CONFIG = GPTConfig(sequence_len=512, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=64, window_pattern="SSL")
EXACT = {"atol": 1e-5, "rtol": 0}


def make_model(config=CONFIG):
    model = GPT(config)
    model.init_weights(0)
    nudge(model, 0.05, seed=1)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(autouse=True, params=["compiled", "by operations"])
def way(request, monkeypatch):
    """Few rows come from compiled code; everything that is true of it is true of the operations that many rows take."""
    if request.param == "by operations":
        monkeypatch.setattr(NativeStep, "fits", staticmethod(lambda decoder: False))
    elif library() is None:
        pytest.skip("no C compiler")


def ids_of(length, seed):
    return torch.randint(0, 90, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def whole(model, ids):
    """Logits (T, V) of the training forward."""
    return model(torch.tensor([ids]))[0]


def test_steps_equal_the_training_forward_while_rings_wrap_around_three_times(model):
    ids = ids_of(400, seed=2)
    decoder = Decoder(model, num_rows=1, max_len=400)
    assert decoder.weights.kind == "plain"
    assert decoder.cache.sizes == [129, 129, 400]
    expected = whole(model, ids)
    for position, token in enumerate(ids):
        torch.testing.assert_close(decoder.step([token])[0], expected[position], **EXACT)


@pytest.mark.parametrize("pieces", [(300,), (1, 60, 100, 139), (129, 128, 43), (250, 1, 49)])
def test_a_prompt_longer_than_the_windows_may_come_in_any_pieces(model, pieces):
    ids = ids_of(310, seed=3)
    expected, decoder, held = whole(model, ids), Decoder(model, num_rows=1, max_len=310), 0
    for piece in pieces:
        logits = decoder.prefill(0, ids[held : held + piece])
        held += piece
        torch.testing.assert_close(logits, expected[held - 1], **EXACT)
    for token in ids[held:]:
        logits = decoder.step([token])[0]
    torch.testing.assert_close(logits, expected[-1], **EXACT)


def test_rows_that_join_and_leave_do_not_change_the_others(model):
    sequences = [ids_of(220, seed) for seed in (4, 5, 6)]
    expected = [whole(model, ids) for ids in sequences]
    decoder = Decoder(model, num_rows=3, max_len=220)
    held = [0, 0, 0]

    def check(row, logits):
        torch.testing.assert_close(logits, expected[row][held[row] - 1], **EXACT)

    def prefill(row, count):
        logits = decoder.prefill(row, sequences[row][held[row] : held[row] + count])
        held[row] += count
        check(row, logits)

    def step(*rows):
        logits = decoder.step([sequences[row][held[row]] for row in rows], rows)
        for row in rows:
            held[row] += 1
            check(row, logits[rows.index(row)])
        assert decoder.lengths == held

    prefill(0, 140)
    step(0)
    prefill(2, 7)
    for _ in range(5):
        step(2, 0)  # row 1 idles between them
    prefill(1, 131)
    step(0, 1, 2)
    prefill(2, 100)  # a chunk onto a row in use
    step(1)
    decoder.clear_row(0)
    held[0] = 0
    for _ in range(3):
        step(0, 1, 2)
    while held[1] < 219:
        step(1, 2)
    step(0)


def test_rows_prefilled_together_equal_rows_prefilled_alone(model):
    sequences = [ids_of(170, seed) for seed in (7, 8)]
    decoder = Decoder(model, num_rows=3, max_len=200)
    decoder.prefill(2, sequences[0][:150])
    # one row continues, the other begins
    chunks = torch.tensor([sequences[0][150:170], sequences[1][:20]])
    logits = decoder.prefill_rows([2, 0], chunks)
    torch.testing.assert_close(logits[0], whole(model, sequences[0])[169], **EXACT)
    torch.testing.assert_close(logits[1], whole(model, sequences[1])[19], **EXACT)
    assert decoder.lengths == [20, 0, 170]


def test_copied_and_kept_rows_go_on_as_their_sources_would(model):
    ids = ids_of(180, seed=9)
    decoder = Decoder(model, num_rows=4, max_len=200)
    decoder.prefill(3, ids_of(140, seed=10))  # what the copy overwrites was longer in the rings
    decoder.prefill(1, ids[:135])
    decoder.copy_row(1, 3)
    decoder.step([5], [1])
    decoder.shrink([3, 1])
    assert decoder.lengths == [135, 136]
    for token in ids[135:]:
        logits = decoder.step([token, token])
    torch.testing.assert_close(logits[0], whole(model, ids)[-1], **EXACT)
    torch.testing.assert_close(logits[1], whole(model, [*ids[:135], 5, *ids[135:]])[-1], **EXACT)


def test_greedy_tokens_equal_recomputing_everything(model):
    prompt = ids_of(120, seed=11)
    decoder, tokens = Decoder(model, num_rows=2, max_len=200), list(prompt)
    token = int(decoder.prefill(1, prompt).argmax())
    for _ in range(40):
        assert token == int(whole(model, tokens)[-1].argmax())
        tokens.append(token)
        token = int(decoder.step([token], [1])[0].argmax())


def test_any_rows_among_many_step_as_each_alone(model):
    """Fewer and more rows than compiled code takes, with gaps between them, and in any order."""
    num_rows = 3 * NATIVE_ROWS
    decoder, sequences = Decoder(model, num_rows=num_rows, max_len=180), [ids_of(170, seed) for seed in range(num_rows)]
    for row, ids in enumerate(sequences):
        decoder.prefill(row, ids[: 120 + row])
    held = [120 + row for row in range(num_rows)]
    for rows in ([5], [0, 23, 9], list(range(0, num_rows, 2)), [*range(20, 10, -1), 3], list(range(num_rows))):
        logits = decoder.step([sequences[row][held[row]] for row in rows], rows)
        assert logits.shape == (len(rows), CONFIG.vocab_size)
        for row, found in zip(rows, logits, strict=True):
            held[row] += 1
            torch.testing.assert_close(found, whole(model, sequences[row])[held[row] - 1], **EXACT)
        assert decoder.lengths == decoder.cache.positions.tolist() == held


def test_a_full_row_idles_without_disturbing_others(model):
    decoder = Decoder(model, num_rows=3, max_len=6)
    ids = ids_of(6, seed=12)
    decoder.prefill(1, ids_of(6, seed=13))
    for token in ids:
        logits = decoder.step([token, token], [0, 2])
    torch.testing.assert_close(logits[1], whole(model, ids)[-1], **EXACT)
    with pytest.raises(ConfigError, match=r"6 \+ 1 tokens"):
        decoder.step([1], [1])


def test_what_does_not_fit_is_refused_and_changes_nothing(model):
    decoder = Decoder(model, num_rows=2, max_len=8)
    decoder.prefill(0, [1, 2, 3])
    with pytest.raises(ConfigError, match=r"3 \+ 6 tokens do not fit"):
        decoder.prefill(0, [1] * 6)
    with pytest.raises(ConfigError, match="chunks of shape"):
        decoder.prefill_rows([0, 0], torch.ones(2, 1, dtype=torch.long))
    with pytest.raises(ConfigError, match="1 tokens for rows"):
        decoder.step([1])
    with pytest.raises(ConfigError, match="chunks of shape"):
        decoder.prefill(0, [])
    with pytest.raises(ConfigError, match="decode weights"):
        Decoder(model, num_rows=1, max_len=8, weights="int3")
    assert decoder.lengths == [3, 0]
    torch.testing.assert_close(decoder.step([4], [0])[0], whole(model, [1, 2, 3, 4])[-1], **EXACT)


def test_logits_may_be_changed_by_who_asked_for_them(model):
    decoder = Decoder(model, num_rows=2, max_len=8)
    for logits in (decoder.prefill_rows([0, 1], torch.ones(2, 2, dtype=torch.long)), decoder.step([1, 1])):
        logits[0] = 0.0  # an inference tensor would refuse
        assert logits.dtype == torch.float32


def test_a_model_of_one_layer_and_of_full_windows_decodes():
    model = make_model(GPTConfig(sequence_len=64, vocab_size=90, n_layer=1, n_head=2, n_kv_head=2, n_embd=32))
    decoder, ids = Decoder(model, num_rows=1, max_len=64), ids_of(20, seed=14)
    torch.testing.assert_close(decoder.prefill(0, ids), whole(model, ids)[-1], **EXACT)


def test_the_reference_decoder_equals_the_training_forward(model):
    ids = torch.tensor([ids_of(160, seed=15), ids_of(160, seed=16)])
    reference = ReferenceDecoder(model, num_rows=2, max_len=160)
    with torch.no_grad():
        expected = model(ids)
    torch.testing.assert_close(reference.append(ids[:, :140]), expected[:, 139], **EXACT)
    torch.testing.assert_close(reference.append(ids[:, 140:150]), expected[:, 149], **EXACT)
    for position in range(150, 160):
        logits = reference.append(ids[:, position : position + 1])
    torch.testing.assert_close(logits, expected[:, -1], **EXACT)
