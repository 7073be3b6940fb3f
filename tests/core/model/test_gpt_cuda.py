"""The GPU's routes against the CPU's: attention, loss, generation and one optimizer step."""

import copy

import pytest
import torch
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.inference.decoder import Decoder
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CONFIG = GPTConfig(sequence_len=512, vocab_size=900, n_layer=3, n_head=4, n_kv_head=2, n_embd=128)


@pytest.fixture
def models():
    model = GPT(CONFIG)
    model.init_weights(0)
    nudge(model, 0.02, seed=1)
    return model, copy.deepcopy(model).cuda()


def _ids(*shape):
    return torch.randint(0, 900, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 0.1)])
def test_loss_and_gradients_equal_the_cpus(models, dtype, tolerance):
    cpu, gpu = models
    gpu.compute_dtype = dtype
    ids = _ids(4, 301)
    expected = cpu.loss(ids[:, :-1], ids[:, 1:])
    found = gpu.loss(ids[:, :-1].cuda(), ids[:, 1:].cuda())
    assert abs(found.item() - expected.item()) < tolerance * 0.1
    expected.backward()
    found.backward()
    for (name, a), b in zip(cpu.named_parameters(), gpu.parameters(), strict=True):
        if a.dim() > 1:
            assert (b.grad.cpu() - a.grad).norm() < tolerance * a.grad.norm(), name


@torch.no_grad()
def test_generation_by_the_decoder_equals_full_recompute(models):
    _, gpu = models
    ids = _ids(2, 150)
    decoder = Decoder(gpu, num_rows=2, max_len=256)
    steps = [decoder.prefill_rows([0, 1], ids[:, :140])]
    steps += [decoder.step(ids[:, t]) for t in range(140, 150)]
    torch.testing.assert_close(torch.stack(steps, dim=1), gpu(ids.cuda())[:, 139:], atol=1e-3, rtol=0)


def test_an_optimizer_step_equals_the_cpus(models):
    ids = _ids(4, 301)
    for model in models:
        optimizer = MuonAdamW(model, OptimConfig())
        model.loss(ids[:, :-1].to(model.device), ids[:, 1:].to(model.device)).backward()
        optimizer.step(lr_multiplier=0.1, momentum=0.9, weight_decay=0.1)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (b.detach().cpu() - a.detach()).norm() < 1e-2 * a.detach().norm(), name
