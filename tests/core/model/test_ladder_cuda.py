"""What only a GPU runs: every rung of the attention ladder that is there, and fp8 products by the real hardware."""

import copy

import pytest
import torch
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.model.attention_ladder import RUNGS, TOLERANCE, Case, resolve, self_test
from nanochat_core.model.fp8 import HOPPER
from nanochat_core.model.fp8_scaling import BOOTSTRAP_STEPS
from nanochat_core.model.gpt import GPT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CONFIG = GPTConfig(sequence_len=512, vocab_size=900, n_layer=3, n_head=4, n_kv_head=2, n_embd=256)


@pytest.mark.parametrize("name", RUNGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["full", "window", "documents"])
@pytest.mark.parametrize("has_groups", [False, True])
@pytest.mark.parametrize("is_training", [True, False])
def test_every_rung_without_an_obstacle_computes_attention(name, dtype, kind, has_groups, is_training):
    case = Case(
        device=torch.device("cuda", torch.cuda.current_device()),
        dtype=dtype,
        head_dim=64,
        is_full=kind == "full",
        has_groups=has_groups,
        has_documents=kind == "documents",
        is_training=is_training,
    )
    if obstacle := RUNGS[name].obstacle(case):
        pytest.skip(obstacle)
    assert self_test(RUNGS[name].load(), case) <= TOLERANCE[dtype]


def test_bf16_training_never_falls_back_to_blocks():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("older than Ampere")
    device = torch.device("cuda", torch.cuda.current_device())
    for is_full in (True, False):
        chosen = resolve(Case(device=device, dtype=torch.bfloat16, head_dim=128, is_full=is_full))
        assert chosen.name != "blocked", chosen.reason


@pytest.mark.parametrize("scaling", ["dynamic", "delayed"])
def test_an_fp8_model_computes_on_a_gpu_what_it_emulates_on_a_cpu(scaling):
    if torch.cuda.get_device_capability() < HOPPER:
        pytest.skip("no fp8 products before Hopper")
    cpu = GPT(CONFIG, fp8=scaling)
    cpu.init_weights(0)
    nudge(cpu, 0.02, seed=1)
    gpu = copy.deepcopy(cpu).cuda()
    rows = torch.randint(0, 900, (4, 129), generator=torch.Generator().manual_seed(2))
    for model in (cpu, gpu):
        model.compute_dtype = torch.bfloat16
        for _ in range(BOOTSTRAP_STEPS + 2 if scaling == "delayed" else 1):
            model.zero_grad()
            ids = rows.to(model.device)
            loss = model.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            with torch.no_grad():
                model.layers[0].attn.q.weight.add_(0.0)
    assert gpu.fp8.num_steps == cpu.fp8.num_steps
    for (name, a), b in zip(cpu.named_parameters(), gpu.parameters(), strict=True):
        if a.dim() > 1:
            assert (b.grad.cpu() - a.grad).norm() < 0.1 * a.grad.norm(), name
