"""Groups and five training steps against nanochat's."""

import nanochat_golden
import pytest
import torch

from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint, our_name
from nanochat_core.optim.groups import OptimConfig, parameter_groups
from nanochat_core.optim.optimizer import MuonAdamW

CONFIG = OptimConfig(adamw_lr_scale=(128 / 768) ** -0.5)


@pytest.fixture(scope="module")
def golden():
    return nanochat_golden.numbers()


def test_groups_equal_nanochats(golden, golden_d4):
    groups = parameter_groups(load_nanochat_checkpoint(golden_d4), CONFIG)
    for group, expected in zip(groups, golden["optimizer_groups"], strict=True):
        assert group.kind == expected["kind"]
        assert group.lr == pytest.approx(expected["lr"], rel=1e-12)
        assert group.weight_decay == expected["weight_decay"]
        assert len(group.params) == expected["n"]
        shapes = sorted({tuple(param.shape) for param in group.params.values()})
        assert shapes == sorted(tuple(shape) for shape in expected["shapes"])
        betas = expected["betas"] or [expected["momentum"], expected["beta2"]]
        assert list(group.betas) == betas
        assert group.eps == (expected["eps"] or 0.0)


def test_five_steps_equal_nanochats(golden, golden_d4):
    model = load_nanochat_checkpoint(golden_d4)
    optimizer = MuonAdamW(model, CONFIG)
    for step in golden["train_steps"]:
        generator = torch.Generator().manual_seed(step["batch_ids_seed"])
        ids = torch.randint(0, 272, (2, 301), generator=generator)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        assert loss.item() == pytest.approx(step["loss"], abs=1e-4)
        loss.backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.95, weight_decay=0.28)
        optimizer.zero_grad()
        params = dict(model.named_parameters())
        for name, norm in step["param_l2"].items():
            assert params[our_name(name)].norm().item() == pytest.approx(norm, rel=1e-3)
    for name, expected in nanochat_golden.arrays("after_5_steps").items():
        found = params[our_name(name)].flatten()
        found = found[:: nanochat_golden.EVERY] if len(expected) < len(found) else found
        assert (found - expected).norm() < 1e-3 * expected.norm(), name
