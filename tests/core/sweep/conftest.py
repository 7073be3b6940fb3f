"""Records of sweeps as they would come out of GPUs: plans of the real presets with made-up losses and scores."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from nanochat_core.plan import estimate
from nanochat_core.presets import load_config
from nanochat_core.sweep.cells import Cell, Sweep, plan_miniseries, plan_scaling_laws
from nanochat_core.sweep.results import CellResult, param_counts, to_record

FREE = ["runtime.gpu=CPU"]


def made_up(cell: Cell, *, loss: float, core: float | None = None) -> CellResult:
    derived, guess = cell.plan.pretrain, estimate(cell.plan)
    return CellResult(
        name=cell.name,
        depth=cell.depth,
        n_embd=derived.model.n_embd,
        budget_flops=cell.budget_flops,
        params=param_counts(derived),
        tokens=derived.num_tokens,
        steps=derived.num_steps,
        flops=float(derived.total_flops),
        bits_per_byte=loss,
        core=core,
        core_standard_error=None if core is None else 0.004,
        core_is_whole=core is not None,
        train_s=guess.hours * 3600,
        usd=guess.usd,
        epochs=0.4,
        made=("pretrain", "evaluate_base"),
        fingerprints={"pretrain": "0" * 64},
    )


def record_of(sweep: Sweep, results: list[CellResult]) -> dict[str, Any]:
    guess = estimate(sweep.cells[0].plan)
    return {
        "run_id": f"{sweep.kind.replace('_', '-')}-made-up",
        "kind": sweep.kind,
        "started_at": "2026-11-22T12:00:00+00:00",
        "seconds": 4000.0,
        "preset": sweep.preset,
        "overrides": list(sweep.overrides),
        "config": asdict(load_config(sweep.preset, sweep.overrides)),
        "settings": {**sweep.settings, "noise_bpb": None},
        "notes": list(sweep.notes),
        "hardware": f"{guess.num_gpus} x {guess.gpu}",
        "usd_per_hour": guess.usd / guess.hours,
        "spent_usd": 12.5,
        "cells": [{**to_record(result), "overrides": []} for result in results],
        "left_out": [asdict(cell) for cell in sweep.left_out],
        "steps": [],
    }


@pytest.fixture
def series_record() -> dict[str, Any]:
    """Depths 12 to 26 with scores that pass GPT-2's between 20 and 24."""
    sweep = plan_miniseries("gpt2", depths=[12, 16, 20, 24])
    results = []
    for cell in sweep.cells:
        decades = math.log10(cell.plan.pretrain.total_flops / 1e18)
        results.append(made_up(cell, loss=0.86 - 0.07 * decades, core=0.14 + 0.09 * decades))
    return record_of(sweep, results)


@pytest.fixture
def grid_record() -> dict[str, Any]:
    """Four budgets and seven depths with Chinchilla-like losses; some cells left out."""
    sweep = plan_scaling_laws("d12", budgets=[1e18, 2.15e18, 4.64e18, 1e19], depths=[8, 10, 12, 14, 16, 18, 20])
    generator, results = np.random.default_rng(0), []
    for cell in sweep.cells:
        size, tokens = cell.plan.pretrain.scaling_params, cell.plan.pretrain.num_tokens
        loss = 0.35 + 60 / size**0.3392 + 60 / tokens**0.3 + 0.0015 * generator.standard_normal()
        results.append(made_up(cell, loss=loss))
    return record_of(sweep, results)
