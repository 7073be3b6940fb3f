"""What ranks exchange arrives as it was sent."""

import pytest
import torch
from gloo_ranks import exchange_small_tensors, on_ranks

from nanochat_core.base.distributed import World, current_world


def test_without_a_process_group_the_world_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert current_world() == World()


@pytest.mark.slow
def test_parts_arrive_bit_for_bit_and_sums_at_their_owners(tmp_path):
    found = on_ranks(2, exchange_small_tensors, tmp_path / "ranks")
    bits = torch.tensor([-0.0, 1e-42, torch.nan, -7.0]).view(torch.int32)
    for rank, one in enumerate(found):
        assert torch.equal(one["whole"], bits), "a sum of floats loses the sign of a zero"
        for dtype in (torch.float32, torch.bfloat16):
            assert one[f"reduced {dtype}"].tolist() == [[10, 12, 14], [16, 18, 20]][rank]
            assert one[f"gathered {dtype}"].tolist() == [0, 1, 10, 11]
    assert [one["size_and_rank"] for one in found] == [[2, 0], [2, 1]]
