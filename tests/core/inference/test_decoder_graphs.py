"""The CUDA path as far as it needs no GPU (buckets, a step that may run twice), and all of it where there is one."""

import contextlib

import pytest
import torch
from core.inference.test_decoder import EXACT, ids_of, make_model, whole

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.decoder_graphs import StepGraphs, bucket
from nanochat_core.inference.device_steps import VISIBLE_BUCKET, DeviceSteps, Feed

has_cuda = torch.cuda.is_available()


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_a_bucket_is_the_next_power_of_two_steps_up_to_the_limit():
    assert [bucket(rows, 1, limit=6) for rows in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert [bucket(places, 256, limit=2048) for places in (1, 256, 257, 1025, 2048)] == [256, 256, 512, 2048, 2048]
    assert bucket(3, 256, limit=100) == 100  # a context shorter than the smallest bucket


def test_the_logits_of_a_graph_are_the_step_s_however_often_it_runs(model):
    """Rows of different lengths, one of them past its window, all looked at through whole buckets."""
    prompts = [ids_of(150, seed=1), ids_of(3, seed=2), ids_of(40, seed=3)]
    decoder = Decoder(model, num_rows=3, max_len=300)
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    decoder.ids[:] = torch.tensor([5, 6, 7])
    with torch.inference_mode():
        for visible in (VISIBLE_BUCKET, 300):
            logits, _ = decoder.next_logits(3, visible)
            for row, token in enumerate((5, 6, 7)):
                torch.testing.assert_close(logits[row], whole(model, [*prompts[row], token])[-1], **EXACT)
    torch.testing.assert_close(decoder.step([5, 6, 7]), logits.clone(), **EXACT)


def test_steps_on_the_device_leave_what_a_step_leaves(model):
    plain, other = Decoder(model, num_rows=5, max_len=300), Decoder(model, num_rows=5, max_len=300)
    steps = DeviceSteps(other)
    prompts = {0: ids_of(20, seed=4), 2: ids_of(270, seed=5), 3: ids_of(1, seed=6)}
    for decoder in (plain, other):
        for row, prompt in prompts.items():
            decoder.prefill(row, prompt)
    for rows in ([2, 0], [0], [0, 2, 3], [3], [3, 2]):
        expected = plain.step([9] * len(rows), rows)
        with steps._rehearsal():  # as a capture does, which must leave nothing behind
            steps._step(5, 300, None)
        chosen = steps.launch([Feed(row, 9) for row in rows], with_logits=True)
        torch.testing.assert_close(chosen.logits, expected, **EXACT)
        assert chosen.read() == expected.argmax(-1).tolist()
    assert other.lengths == plain.lengths == other.cache.positions.tolist()
    torch.testing.assert_close(other.cache.last_embedding, plain.cache.last_embedding)


def test_a_token_that_was_chosen_is_fed_without_the_host_having_read_it(model):
    prompt = ids_of(30, seed=8)
    decoder = Decoder(model, num_rows=2, max_len=100)
    decoder.prefill(1, prompt)
    steps = DeviceSteps(decoder)
    chosen = [steps.launch([Feed(1, 9)]), *(steps.launch([Feed(1)]) for _ in range(5))]
    tokens = [token for step in chosen for token in step.read()]
    assert whole(model, [*prompt, 9, *tokens])[30:-1].argmax(-1).tolist() == tokens


def test_a_full_row_is_refused_before_anything_runs(model):
    decoder = Decoder(model, num_rows=1, max_len=4)
    decoder.prefill(0, ids_of(4, seed=9))
    with pytest.raises(ConfigError, match="do not fit into a row of 4"):
        DeviceSteps(decoder).launch([Feed(0, 9)])


@pytest.mark.skipif(has_cuda, reason="capture works here")
def test_steps_run_without_a_graph_where_capture_fails():
    graphs = StepGraphs(
        lambda rows, visible, cut: (torch.full((rows,), visible), torch.zeros(rows)), contextlib.nullcontext
    )
    assert graphs.run((3, 256, None))[0].tolist() == [256, 256, 256]
    assert graphs.failure


@pytest.mark.skipif(not has_cuda, reason="needs a GPU")
def test_captured_steps_equal_the_training_forward_on_a_gpu():
    model, ids = make_model().cuda(), ids_of(300, seed=7)
    decoder = Decoder(model, num_rows=4, max_len=300, weights="plain")
    decoder.prefill(1, ids[:140])
    steps = DeviceSteps(decoder)
    with torch.no_grad():
        expected = model(torch.tensor([ids], device="cuda"))[0]
    for position in range(140, 300):
        chosen = steps.launch([Feed(1, ids[position])], with_logits=True)
        torch.testing.assert_close(chosen.logits[0], expected[position], atol=1e-3, rtol=0)
    assert steps.graphs.failure is None
    assert len(steps.graphs._captured) == 2  # 2 rows, 256 and 300 places
