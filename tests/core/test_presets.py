"""Presets and --set: what is read, and what is refused with the nearest right name."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from flows.parameters import Settings
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.pipeline.ingredients import toml_of
from nanochat_core.plan import plan_run
from nanochat_core.presets import PATHS, load_config, portable, preset_names


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
        ("rl.enabled=1", "rl.enabled = 1", "true or false"),
        ("seed=2026-11-29", "seed = '2026-11-29' does not fit", "a whole number"),
        ("pretrain.matrix_lr=.", "pretrain.matrix_lr = '.'", "a number"),
        ("pretrain.depth=[3]", "pretrain.depth", "a whole number"),
        ("corpus.source=web", "corpus.source = 'web'", '"embedded", "path", "hub"'),
        ("depth=4", "unknown setting depth", "did you mean pretrain.depth?"),
        ("vocab_size=4", "unknown setting vocab_size", "did you mean tokenizer.vocab_size?"),
        ("tokeniser.vocabsize=4", "unknown setting tokeniser.vocabsize", "did you mean tokenizer.vocab_size?"),
        ("sft.path.x=4", "sft.path = {'x': 4} does not fit", "text or none"),
        ("enabeld=true", "unknown setting enabeld", "did you mean rl.enabled?"),
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
        ("pretrain.matrix_lr=.02", lambda c: c.pretrain.matrix_lr, 0.02),
        ("pretrain.matrix_lr=2.e-2", lambda c: c.pretrain.matrix_lr, 0.02),
        ("pretrain.matrix_lr=2e-2", lambda c: c.pretrain.matrix_lr, 0.02),
        ("corpus.path=../some where/a=b", lambda c: c.corpus.path, os.path.abspath("../some where/a=b")),
        ('corpus.path="5"', lambda c: c.corpus.path, os.path.abspath("5")),
        ("pretrain.dtype=bf16", lambda c: c.pretrain.dtype, "bf16"),
        ("pretrain.total_batch_tokens=none", lambda c: c.pretrain.total_batch_tokens, None),
        ("pretrain.validate_every_steps=off", lambda c: c.pretrain.validate_every_steps, None),
        ("pretrain.validate_every_steps=None", lambda c: c.pretrain.validate_every_steps, None),
        ("pretrain.n_kv_head=null", lambda c: c.pretrain.n_kv_head, None),
        ("pretrain.fp8=off", lambda c: c.pretrain.fp8, "off"),
        ("runtime.compile=none", lambda c: c.runtime.compile, "none"),
        ("pretrain.document_mask=True", lambda c: c.pretrain.document_mask, True),
        ("rl.enabled=off", lambda c: c.rl.enabled, False),
        ("corpus.dataset=none", lambda c: c.corpus.dataset, None),
        ("corpus.dataset=", lambda c: c.corpus.dataset, None),
        ('corpus.dataset="none"', lambda c: c.corpus.dataset, "none"),
        ("core.sha256='0123'", lambda c: c.core.sha256, "0123"),
        ('corpus.dataset="\\u00fc \\ud83d\\ude00"', lambda c: c.corpus.dataset, "ü \U0001f600"),
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


LOOKS = (  # text that YAML, TOML or JSON would make something else of
    "2024-01-01", "2024", "1e3", "0x10", "1_000", "true", "True", "yes", "off", "null", "~", "-x", "--",
    "{a: 1}", "[x]", "*.jsonl", "&a", "!tag", "a: b", "a#b", "# a", "a = b", "%", "a,b", "12:30:00",
    ".5", "inf", "nan", "ü", "a'b", 'a"b',
)  # fmt: skip


@pytest.mark.parametrize("text", LOOKS)
def test_a_text_setting_is_the_text_that_was_typed(text):
    sets = [f"corpus.text_column={text}", f"corpus.revision={text}", f"core.path={text}", f"sft.path={text}"]
    config = load_config("tiny", sets)
    assert config.corpus.text_column == config.corpus.revision == text
    expected = os.path.expanduser(text) if text.startswith("~") else os.path.abspath(text)
    assert config.core.path == config.sft.path == expected


@pytest.mark.parametrize("text", [*LOOKS, "none", "None", '"quoted"', "caf\udce9", " blanks ", "\U0001f600\x7f"])
def test_what_the_form_sends_is_the_text_that_was_typed(text, tmp_path):
    config = load_config("tiny", Settings(corpus_dataset=text).overrides())
    assert config.corpus.dataset == text
    content, sets = toml_of(asdict(config))
    (tmp_path / "tiny.toml").write_text(content, encoding="utf-8")
    assert load_config(str(tmp_path / "tiny.toml"), sets) == config, "made again from its record"


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "[a] *",
        " b ",
        '"c"',
        "'d'",
        "~",
        "-e",
        "{f}",
        "g,h=i#j%k",
        "ü",
        "true",
        "l\udce9",
        "2024-01-01",
        "~root",
    ],
)
def test_a_path_that_is_there_is_that_file_whatever_its_name_looks_like(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("")
    sets = [f"{setting}={name}" for setting in PATHS] + [f"corpus.dataset={name}"]
    assert all(portable(text).encode() for text in sets), "Prefect's JSON is UTF-8"
    assert load_config("tiny", map(portable, sets)) == load_config("tiny", sets)
    config = load_config("tiny", sets)
    assert {config.corpus.path, config.sft.path, config.core.path, config.benchmarks.path} == {str(tmp_path / name)}
    assert config.corpus.dataset == name


@pytest.mark.parametrize("pattern", ["*.jsonl", "{a,b}.jsonl", "../[t]alks/**"])
def test_conversations_may_be_a_pattern_and_what_it_fits_must_be_there(pattern, tmp_path):
    (tmp_path / "talks").mkdir()
    sets = ["sft.source=path", f"sft.path={tmp_path}/talks/{pattern}"]
    with pytest.raises(MissingError, match="as a pattern"):
        load_config("tiny", [sets[0], f"sft.path={tmp_path}/talks/*.jsonl"])
    (tmp_path / "talks" / "a.jsonl").write_text("{}")
    assert load_config("tiny", sets).sft.source == "path"


def test_a_folder_beside_where_a_link_points_is_meant_as_the_system_means_it(tmp_path, monkeypatch):
    (tmp_path / "far/in").mkdir(parents=True)
    (tmp_path / "far/data").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "far/in")
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(load_config("tiny", ["core.path=link/../data"]).core.path, tmp_path / "far/data")
    assert load_config("tiny", ["core.path=far/in/../data"]).core.path == str(tmp_path / "far/data")


@pytest.mark.parametrize("value", ["2024-01-01", "2024", "true", "1e3"])
def test_a_file_says_that_text_stands_in_quotes(value, tmp_path):
    (tmp_path / "mine.toml").write_text(f"[corpus]\nrevision = {value}\n")
    error = _error(preset=str(tmp_path / "mine.toml"))
    assert "corpus.revision" in error.message
    assert "in a file text stands in quotes" in error.hint
    (tmp_path / "mine.toml").write_text(f'[corpus]\nrevision = "{value}"\n')
    assert load_config(str(tmp_path / "mine.toml")).corpus.revision == value


@pytest.mark.parametrize("preset", ["d12", "gpt2"])
def test_what_takes_gpus_never_falls_back_to_a_processor(preset):
    assert load_config(preset).runtime.device == "cuda"
