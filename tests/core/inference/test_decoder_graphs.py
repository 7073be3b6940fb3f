"""The CUDA path as far as it needs no GPU (buckets, a step that may run twice), and all of it where there is one."""

import pytest
import torch
from core.inference.test_decoder import EXACT, ids_of, make_model, whole

from nanochat_core.inference.decoder import VISIBLE_BUCKET, Decoder
from nanochat_core.inference.decoder_graphs import StepGraphs, bucket

has_cuda = torch.cuda.is_available()


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_a_bucket_is_the_next_power_of_two_steps_up_to_the_limit():
    assert [bucket(rows, 1, limit=6) for rows in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert [bucket(places, 256, limit=2048) for places in (1, 256, 257, 1025, 2048)] == [256, 256, 512, 2048, 2048]
    assert bucket(3, 256, limit=100) == 100  # a context shorter than the smallest bucket


def test_the_body_of_a_graph_gives_the_step_s_logits_however_often_it_runs(model):
    """Rows of different lengths, one of them past its window, all looked at through whole buckets."""
    prompts = [ids_of(150, seed=1), ids_of(3, seed=2), ids_of(40, seed=3)]
    decoder = Decoder(model, num_rows=3, max_len=300)
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    decoder._ids[:] = torch.tensor([5, 6, 7])
    with torch.inference_mode():
        for visible in (VISIBLE_BUCKET, 300):
            logits, _ = decoder._graph_body(3, visible)
            for row, token in enumerate((5, 6, 7)):
                torch.testing.assert_close(logits[row], whole(model, [*prompts[row], token])[-1], **EXACT)
    torch.testing.assert_close(decoder.step([5, 6, 7]), logits.clone(), **EXACT)


def test_a_decoder_over_graphs_equals_one_without(model):
    """Where nothing can be captured the same code path runs its body, which is what this machine may have to do."""
    plain, bucketed = Decoder(model, num_rows=5, max_len=300), Decoder(model, num_rows=5, max_len=300)
    bucketed._graphs = StepGraphs(bucketed._graph_body)
    if not has_cuda:
        bucketed._graphs.failure = "no GPU"
    prompts = {0: ids_of(20, seed=4), 2: ids_of(270, seed=5), 3: ids_of(1, seed=6)}
    for decoder in (plain, bucketed):
        for row, prompt in prompts.items():
            decoder.prefill(row, prompt)
    for rows in ([2, 0], [0], [0, 2, 3], [3], [3, 2]):
        expected, found = (decoder.step([9] * len(rows), rows) for decoder in (plain, bucketed))
        torch.testing.assert_close(found[rows], expected[rows], **EXACT)
    assert bucketed.lengths == plain.lengths
    torch.testing.assert_close(bucketed._cache.last_embedding, plain._cache.last_embedding)


@pytest.mark.skipif(has_cuda, reason="capture works here")
def test_steps_run_without_a_graph_where_capture_fails():
    graphs = StepGraphs(lambda rows, visible: (torch.full((rows,), visible), torch.zeros(rows)))
    assert graphs.run(3, 256)[0].tolist() == [256, 256, 256]
    assert graphs.failure


@pytest.mark.skipif(not has_cuda, reason="needs a GPU")
def test_captured_steps_equal_the_training_forward_on_a_gpu():
    model, ids = make_model().cuda(), ids_of(300, seed=7)
    decoder = Decoder(model, num_rows=4, max_len=300, weights="plain")
    decoder.prefill(1, ids[:140])
    with torch.no_grad():
        expected = model(torch.tensor([ids], device="cuda"))[0]
    for position in range(140, 300):
        logits = decoder.step([ids[position]], [1])
        torch.testing.assert_close(logits[1], expected[position], atol=1e-3, rtol=0)
    assert decoder._graphs.failure is None
    assert len(decoder._graphs._captured) == 2  # 2 rows, 256 and 300 places
