"""Several ranks that share the optimizer's work do what one does.

Gradients here have sums that do not depend on their order, so what is left to differ is the update itself.
"""

import pytest
import torch
from gloo_ranks import (
    everything,
    gradients_with_one_bad_number,
    model,
    on_ranks,
    round_trip,
    steps,
    train_early_and_late,
    train_in_fp8,
    train_on_exact_gradients,
)
from threads import one_thread as one_thread

from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]
NUM_STEPS = 3


def saved(found):
    return {name: value for name, value in found.items() if not name.startswith("seen.") and name != "num_held"}


def alone(num_ranks, numbers=range(NUM_STEPS)):
    """One process with the gradients of all ranks."""
    optimizer = MuonAdamW(model(), OptimConfig())
    steps(optimizer, numbers, range(num_ranks))
    return everything(optimizer)


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_ranks_give_the_update_of_one_process(num_ranks, tmp_path):
    expected = alone(num_ranks)
    found = on_ranks(num_ranks, train_on_exact_gradients, tmp_path / "ranks", steps=(0, NUM_STEPS))
    for one in found:
        assert saved(one).keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(one[name], tensor, rtol=1e-6, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}")
    total = sum(tensor.numel() for name, tensor in expected.items() if name.startswith("optim."))
    assert max(one["num_held"] for one in found) < total * (0.25 + 1 / num_ranks)


def test_all_ranks_hold_the_same_bits_in_bf16_and_the_owners_keep_their_masters(tmp_path):
    found = on_ranks(3, train_on_exact_gradients, tmp_path / "ranks", steps=(0, 2), dtype=torch.bfloat16)
    names = [name for name, _ in model().named_parameters()]
    first = found[0]
    for one in found:
        assert all(torch.equal(one[f"seen.{name}"], first[f"seen.{name}"]) for name in names)
        assert all(torch.equal(one[name], first[name]) for name in saved(first))
    rounded = first["seen.embed.weight"]
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert torch.equal(first["embed.weight"].bfloat16().float(), rounded)
    assert not torch.equal(first["embed.weight"], rounded), "the masters were rounded"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sending_gradients_during_the_backward_pass_changes_no_bit(dtype, tmp_path):
    for found in on_ranks(2, train_early_and_late, tmp_path / "ranks", dtype=dtype):
        names = [name.removeprefix("True.") for name in found if name.startswith("True.")]
        assert names
        assert all(torch.equal(found[f"True.{name}"], found[f"False.{name}"]) for name in names)
        assert found["num_sent_in_backward"] >= 10


def test_a_number_that_is_none_is_seen_by_whoever_would_use_it(tmp_path):
    names = ["head.weight", "blocks.1.mlp.fc.weight", "residual_weights"]
    found = on_ranks(2, gradients_with_one_bad_number, tmp_path / "ranks", dtype=torch.bfloat16, names=names)
    assert [one["head.weight"] for one in found] == [True, False], "the last rows are the last rank's"
    assert sorted(one["blocks.1.mlp.fc.weight"] for one in found) == [False, True], "a matrix has one owner"
    assert [one["residual_weights"] for one in found] == [False, False], "all ranks update it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_of_two_ranks_has_the_bits_of_an_unbroken_one(dtype, tmp_path):
    unbroken = on_ranks(2, train_on_exact_gradients, tmp_path / "a", steps=(0, 3), dtype=dtype)
    part = on_ranks(2, train_on_exact_gradients, tmp_path / "b", steps=(0, 2), dtype=dtype)
    resumed = on_ranks(2, train_on_exact_gradients, tmp_path / "c", steps=(2, 3), dtype=dtype, start=saved(part[0]))
    expected = saved(unbroken[0])
    assert all(torch.equal(resumed[0][name], tensor) for name, tensor in expected.items())


def test_a_state_goes_from_one_rank_to_two_and_back_bit_for_bit(tmp_path):
    start = alone(2, range(2))
    [two, _] = on_ranks(2, train_on_exact_gradients, tmp_path / "two", steps=(2, 2), start=start)
    assert all(torch.equal(two[name], tensor) for name, tensor in start.items())
    optimizer = MuonAdamW(model(), OptimConfig())
    prefix = "optim."
    optimizer.load_state_dict({n.removeprefix(prefix): t for n, t in two.items() if n.startswith(prefix)})
    again = everything(optimizer)
    assert all(torch.equal(again[name], tensor) for name, tensor in start.items() if name.startswith(prefix))


def test_a_sharded_checkpoint_is_loaded_by_any_number_of_ranks(tmp_path):
    import torch.distributed.checkpoint as dcp

    [first, second] = on_ranks(2, round_trip, tmp_path / "ranks", checkpoint=str(tmp_path / "saved"))
    for found in (first, second):
        names = [name.removeprefix("again.") for name in found if name.startswith("again.")]
        assert names
        assert all(torch.equal(found[f"again.{name}"], found[name]) for name in names)
    one = MuonAdamW(model(), OptimConfig())
    state = one.sharded_state_dict()
    dcp.load(state, storage_reader=dcp.FileSystemReader(str(tmp_path / "saved")))
    one.load_state_dict(state)
    expected = alone(2, range(2))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, expected[f"optim.{name}"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scaling", ["dynamic", "delayed"])
def test_fp8_has_the_same_bits_with_a_save_and_a_resume_in_between(scaling, tmp_path):
    plain, *others = (
        on_ranks(2, train_in_fp8, tmp_path / then, scaling=scaling, then=then)[0]
        for then in ("nothing", "save", "resume")
    )
    for found in others:
        assert found.keys() == plain.keys()
        assert [name for name, tensor in plain.items() if not torch.equal(found[name], tensor)] == []
