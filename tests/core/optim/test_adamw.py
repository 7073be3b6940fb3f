"""AdamW against torch's plain loop."""

import torch

from nanochat_core.optim.adamw import adamw_step

HYPER = {"lr": 0.01, "betas": (0.8, 0.96), "eps": 1e-10, "weight_decay": 0.1}


def test_steps_equal_torchs_adamw():
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in ((5, 7), (3,), (1,))]
    expected = [param.clone().requires_grad_() for param in params]
    reference = torch.optim.AdamW(expected, **HYPER, foreach=False, fused=False)
    exp_avgs, exp_avg_sqs = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    for step in range(1, 8):
        grads = [torch.randn(param.shape, generator=generator) for param in params]
        for param, grad in zip(expected, grads, strict=True):
            param.grad = grad.clone()
        reference.step()
        adamw_step(params, grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs, step=step, **HYPER)
    torch.testing.assert_close(params, [param.detach() for param in expected], atol=1e-6, rtol=1e-5)


def test_a_step_raises_the_version_by_which_kept_casts_of_a_weight_are_told_to_be_old():
    weight = torch.nn.Parameter(torch.ones(4, 3))
    before = weight._version
    adamw_step(
        [weight], [torch.ones(4, 3)], exp_avgs=[torch.zeros(4, 3)], exp_avg_sqs=[torch.zeros(4, 3)], step=1, lr=0.1,
        betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0,
    )  # fmt: skip
    assert weight._version > before
