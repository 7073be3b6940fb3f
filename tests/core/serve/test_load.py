"""Many streams at once, in short: benchmarks/serve_load.py against a server in this process."""

import asyncio

import httpx
import pytest
from model_server import serve_here

from benchmarks.serve_load import alone, together
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.pool import ModelPool

NUM_STREAMS, MAX_TOKENS = 50, 24


@pytest.mark.slow
def test_no_stream_is_lost_or_mixed_up_among_fifty(store):
    limits = Limits(num_rows=8, max_waiting=NUM_STREAMS)
    pool = ModelPool.from_store(store, ["tiny-chat"], device="cpu", dtype="fp32", limits=limits)

    async def run(url):
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as http:
            numbers = range(NUM_STREAMS)
            reference = await alone(http, numbers, MAX_TOKENS)
            return reference, await together(http, numbers, MAX_TOKENS, expected=reference.texts, seconds=0)

    with serve_here(pool) as url:
        pool.wait(60)
        reference, load = asyncio.run(run(url))
    assert len(set(reference.texts.values())) > NUM_STREAMS // 2  # else a mix-up could not be told
    assert load.num_asked == NUM_STREAMS
    assert (load.num_lost, load.num_differing) == (0, 0), load.first_problem
    assert load.num_tokens == reference.num_tokens
    assert pool.metrics.registry.get_sample_value("nanochat_running_requests", {"model": "tiny-chat"}) == 0
