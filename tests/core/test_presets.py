"""Presets and --set: what is read, and what is refused with the nearest right name."""

import os

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config, preset_names


def test_a_preset_for_a_laptop_and_one_for_the_speedrun_are_there():
    assert {"tiny", "gpt2"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_plans(name):
    plan = plan_run(load_config(name))
    assert plan.config.preset == name
    assert plan.pretrain.num_steps >= 100
    assert plan.pretrain.total_batch_rows % plan.config.runtime.num_processes == 0


def _error(*overrides, preset="tiny"):
    with pytest.raises(ConfigError) as error:
        load_config(preset, overrides)
    return error.value


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("pretrain.dept=3", "unknown setting pretrain.dept", "pretrain.depth"),
        ("pretrian.depth=3", "unknown setting pretrian", "pretrain"),
        ("zzz=3", "unknown setting zzz", "corpus"),
        ("pretrain.depth.more=3", "pretrain.depth.more", None),
        ("seed.more=3", "seed", "a whole number"),
        ("pretrain=3", "pretrain = 3", "pretrain.<field>"),
        ("pretrain.depth=deep", "pretrain.depth = 'deep'", "a whole number"),
        ("pretrain.depth=2.5", "pretrain.depth = 2.5", "a whole number"),
        ("pretrain.depth=true", "pretrain.depth = True", "a whole number"),
        ("pretrain.depth=none", "pretrain.depth = None", "a whole number"),
        ("pretrain.matrix_lr=fast", "pretrain.matrix_lr", "a number"),
        ("pretrain.matrix_lr=true", "pretrain.matrix_lr", "a number"),
        ("pretrain.depth=[3]", "pretrain.depth", "a whole number"),
        ("corpus.source=web", "corpus.source = 'web'", '"embedded", "path", "hub"'),
        ("corpus.path=5", "corpus.path = 5", "text or none"),
        ("pretrain.dtype=fp8", "pretrain.dtype", '"bf16"'),
        ("runtime.device=none", "runtime.device", '"auto"'),
        ("pretrain.depth", "not of the form", "sft.epochs=2"),
        ("=3", "not of the form", "sft.epochs=2"),
        ("", "not of the form", "sft.epochs=2"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_could(override, message, hint):
    error = _error(override)
    assert message in error.message
    assert hint is None or hint in error.hint
    assert error.exit_code == 2


def test_a_missing_preset_names_the_nearest_and_all():
    error = _error(preset="tinny")
    assert "'tinny'" in error.message
    assert "'tiny'" in error.hint
    assert all(name in error.hint for name in preset_names())
    assert "absent/of.toml" in _error(preset="absent/of.toml").message


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("seed=7", lambda c: c.seed, 7),
        (" sft.epochs = 2 ", lambda c: c.sft.epochs, 2),
        ("sft.epochs=2.0", lambda c: c.sft.epochs, 2),
        ("tokenizer.vocab_size=4_096", lambda c: c.tokenizer.vocab_size, 4096),
        ("pretrain.matrix_lr=1", lambda c: c.pretrain.matrix_lr, 1.0),
        ("pretrain.matrix_lr=2e-2", lambda c: c.pretrain.matrix_lr, 0.02),
        ("corpus.path=../some where/a=b", lambda c: c.corpus.path, os.path.abspath("../some where/a=b")),
        ('corpus.path="5"', lambda c: c.corpus.path, os.path.abspath("5")),
        ("pretrain.dtype=bf16", lambda c: c.pretrain.dtype, "bf16"),
        ("pretrain.total_batch_tokens=none", lambda c: c.pretrain.total_batch_tokens, None),
        ("pretrain.validate_every_steps=off", lambda c: c.pretrain.validate_every_steps, None),
        ("pretrain.validate_every_steps=None", lambda c: c.pretrain.validate_every_steps, None),
        ("pretrain.n_kv_head=null", lambda c: c.pretrain.n_kv_head, None),
    ],
)
def test_one_value_is_set_and_no_other_changes(override, read, value):
    changed = load_config("tiny", [override])
    assert read(changed) == value
    assert type(read(changed)) is type(value)
    section, _, field = override.partition("=")[0].strip().rpartition(".")
    before = vars(getattr(load_config("tiny"), section)) if section else vars(load_config("tiny"))
    after = vars(getattr(changed, section)) if section else vars(changed)
    assert {name for name in before if before[name] != after[name]} <= {field}


def test_the_last_of_two_settings_wins():
    assert load_config("tiny", ["seed=1", "seed=2"]).seed == 2


def test_a_file_is_a_preset(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 5\n[pretrain]\ndepth = 2\n")
    config = load_config(str(tmp_path / "mine.toml"))
    assert (config.preset, config.seed, config.pretrain.depth) == ("mine", 5, 2)


@pytest.mark.parametrize(
    "content", [b"[pretrain\ndepth=2", b"\xff\xfe", b"unknown = 1", b"pretrain = 4", b"[pretrain]\ndepth='x'"]
)
def test_a_file_that_is_no_preset_is_refused(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(str(path))
