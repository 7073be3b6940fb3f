"""Derived numbers against nanochat's own table, and the values no run can be planned for."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, NanochatError
from nanochat_core.bounds import BENCHMARKS
from nanochat_core.config import PretrainConfig
from nanochat_core.model.shape import decode_flops_per_token, kv_bytes_per_token, window_sizes
from nanochat_core.plan import estimate, model_config, optim_values, plan_pretrain, plan_run, summary
from nanochat_core.presets import load_config

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = json.loads((ROOT / "tests/golden/plan.json").read_text())  # nanochat_golden.py says where it is from


def _plan(entry, **changes):
    config = PretrainConfig(
        depth=entry["depth"],
        sequence_len_tokens=entry["sequence_len"],
        window_pattern=entry["window_pattern"],
        tokens_per_param=entry["target_param_data_ratio"],
        **{"max_weight_decay": math.inf, **changes},
    )
    return plan_pretrain(config, vocab_size=entry["vocab_size"])


def _name(entry):
    return f"d{entry['depth']}-v{entry['vocab_size']}-r{entry['target_param_data_ratio']:g}"


def test_the_table_has_every_depth_vocabulary_and_ratio():
    assert len({_name(entry) for entry in ENTRIES}) == 64


@pytest.mark.parametrize("entry", ENTRIES, ids=_name)
def test_every_derived_number_equals_nanochats(entry):
    plan = _plan(entry)
    exact = {
        "n_embd": plan.model.n_embd,
        "n_head": plan.model.n_head,
        "params": plan.num_params,
        "scaling_params": plan.scaling_params,
        "flops_per_token": plan.flops_per_token,
        "target_tokens": plan.target_tokens,
        "total_batch_size_tokens": plan.total_batch_tokens,
        "num_iterations": plan.num_steps,
        "window_sizes": window_sizes(plan.model),
        "total_flops": plan.total_flops,
        "decode_flops_per_token_ctx1024": decode_flops_per_token(plan.model, context=1024),
        "kv_bytes_per_token_bf16": kv_bytes_per_token(plan.model),
    }
    assert exact == {name: entry[name] for name in exact}
    rounded = {
        "lr_scale_batch": plan.lr_scale_batch,
        "lr_scale_adamw_width": plan.lr_scale_adamw_width,
        "weight_decay": plan.weight_decay,
    }
    # nanochat rounds its target tokens before it scales the decay: equal to about 1e-7
    assert rounded == pytest.approx({name: entry[name] for name in rounded}, rel=1e-6)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["depth"] in (2, 8, 12, 24)], ids=_name)
def test_the_cap_lowers_the_decay_and_changes_nothing_else(entry):
    free, capped = _plan(entry), _plan(entry, max_weight_decay=0.35)
    assert capped.weight_decay == min(free.weight_decay, 0.35)
    assert dataclasses.replace(capped, weight_decay=free.weight_decay) == free


def test_the_default_cap_leaves_the_reference_depth_alone():
    plan = plan_pretrain(PretrainConfig(depth=12), vocab_size=32_768)
    assert plan.weight_decay == pytest.approx(0.28)
    assert plan.total_batch_tokens == 2**19
    assert plan.lr_scale_batch == plan.lr_scale_adamw_width == 1.0


def test_tokens_of_a_run_are_whole_batches_within_the_target():
    for depth in range(1, 33):
        plan = plan_pretrain(PretrainConfig(depth=depth), vocab_size=32_768)
        assert 0 <= plan.target_tokens - plan.num_tokens < plan.total_batch_tokens
        assert plan.total_batch_rows * plan.model.sequence_len == plan.total_batch_tokens


def test_max_tokens_is_a_ceiling():
    free = plan_pretrain(PretrainConfig(depth=4), vocab_size=4096)
    less = plan_pretrain(PretrainConfig(depth=4, max_tokens=free.target_tokens // 3), vocab_size=4096)
    more = plan_pretrain(PretrainConfig(depth=4, max_tokens=free.target_tokens * 3), vocab_size=4096)
    assert less.target_tokens == free.target_tokens // 3
    assert more == free


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["pretrain.depth=0"], "depth = 0"),
        (["pretrain.depth=-3"], "depth = -3"),
        (["pretrain.depth=200"], "depth = 200"),
        (["pretrain.n_embd=100"], "n_embd = 100"),
        (["pretrain.head_dim=0"], "head_dim = 0"),
        (["pretrain.head_dim=-32"], "head_dim = -32"),
        (["pretrain.head_dim=33", "pretrain.n_embd=33"], "head_dim = 33"),
        (["pretrain.n_embd=16", "pretrain.head_dim=16"], "n_embd = 16"),
        (["pretrain.n_kv_head=3"], "n_kv_head = 3"),
        (["pretrain.n_kv_head=0"], "n_kv_head = 0"),
        (["pretrain.n_kv_head=8"], "n_kv_head = 8"),
        (["pretrain.window_pattern=SSX"], "SSX"),
        (['pretrain.window_pattern=""'], "window_pattern"),
        (["pretrain.sequence_len_tokens=0"], "sequence_len_tokens = 0"),
        (["pretrain.tokens_per_param=0"], "tokens_per_param = 0"),
        (["pretrain.tokens_per_param=nan"], "tokens_per_param = nan"),
        (["pretrain.tokens_per_param=inf"], "tokens_per_param = inf"),
        (["pretrain.total_batch_tokens=5000"], "5,000 tokens"),
        (["pretrain.total_batch_tokens=-256"], "-256"),
        (["pretrain.total_batch_tokens=1073741824"], "1,073,741,824"),
        (["pretrain.max_tokens=1000"], "1,000"),
        (["tokenizer.vocab_size=264"], "vocab_size = 264"),
        (["tokenizer.vocab_size=-1"], "vocab_size = -1"),
        (["tokenizer.vocab_size=400001"], "vocab_size = 400001"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_refused_and_named(overrides, named):
    with pytest.raises(ConfigError) as error:
        plan_run(load_config("tiny", overrides))
    assert named in error.value.message


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(ConfigError) as error:
        plan_run(load_config("tiny", ["pretrain.total_batch_tokens=5000"]))
    assert error.value.hint == "set pretrain.total_batch_tokens=5120"
    assert plan_run(load_config("tiny", ["pretrain.total_batch_tokens=5120"])).pretrain.total_batch_rows == 20


def test_window_letters_may_be_small():
    small = model_config(PretrainConfig(depth=4, window_pattern="sssl"), vocab_size=4096)
    large = model_config(PretrainConfig(depth=4, window_pattern="SSSL"), vocab_size=4096)
    assert window_sizes(small) == window_sizes(large)


@pytest.mark.parametrize("vocab_size", [265, 400_000])
@pytest.mark.parametrize("depth", [1, 128])
def test_the_outermost_values_can_be_planned(depth, vocab_size):
    assert plan_pretrain(PretrainConfig(depth=depth), vocab_size=vocab_size).num_steps >= 1


def test_the_estimate_falls_with_gpus_and_its_price_does_not():
    one = estimate(plan_run(load_config("gpt2", ["runtime.num_gpus=1"])))
    eight = estimate(plan_run(load_config("gpt2", ["runtime.num_gpus=8"])))
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.usd == pytest.approx(one.usd)
    assert estimate(plan_run(load_config("gpt2", ["runtime.usd_per_gpu_hour=0"]))).usd == 0


@pytest.mark.parametrize("override", ["runtime.gpu=GTX", "runtime.num_gpus=0"])
def test_hardware_that_is_not_in_the_table_is_refused(override):
    with pytest.raises(ConfigError):
        estimate(plan_run(load_config("tiny", [override])))


def test_the_summary_is_json_and_the_optimizers_values_are_numbers():
    plan = plan_run(load_config("tiny"))
    assert json.loads(json.dumps(summary(plan)))["pretrain"]["num_tokens"] == plan.pretrain.num_tokens
    assert all(isinstance(value, float) for value in optim_values(plan).values())


def test_planning_imports_no_torch():
    code = (
        "import sys; from nanochat_core.plan import plan_run, summary; from nanochat_core.presets import load_config\n"
        "summary(plan_run(load_config('tiny')))\n"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["benchmarks.names=mmlu,chess"], "chess"),
        (["benchmarks.names="], "no benchmark ''"),
        (["core.source=path"], "without core.path"),
        (["core.source=path", "core.path=/nowhere/at/all"], "/nowhere/at/all is not there"),
        (["benchmarks.source=path", "benchmarks.path=/nowhere/at/all"], "/nowhere/at/all is not there"),
        (["sft.source=path"], "without sft.path"),
        (["sft.num_spellings=5"], "adds nothing to the built-in"),
        (["sft.source=mix", "sft.gsm8k_repeats=1"], "benchmarks.source is none"),
    ],
)
def test_data_that_a_late_step_would_not_find_is_refused_before_the_first(sets, told):
    with pytest.raises(NanochatError, match=told):
        plan_run(load_config("tiny", sets))


def test_the_plan_knows_every_benchmark_by_name():
    from nanochat_core.evals.benchmarks.registry import BENCHMARKS as REGISTERED

    assert set(BENCHMARKS) == set(REGISTERED)
