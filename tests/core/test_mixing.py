"""Sources and phases as they are said, and what is refused before anything runs."""

import json
import re
import shlex
from dataclasses import asdict

import pytest

from flows.parameters import OVERRIDE
from nanochat_core import mixing
from nanochat_core.base.errors import ConfigError
from nanochat_core.pipeline.ingredients import toml_of
from nanochat_core.plan import plan_run
from nanochat_core.presets import config_from_record, load_config
from nanochat_core.report.outline import commands

SOURCES = ("corpus.sources.docs.weight=2", "corpus.sources.own.path=.", "corpus.sources.web.dataset=a/b")
PHASES = ("pretrain.phases.main.share=0.8", "pretrain.phases.end.weights.own=3", "pretrain.phases.end.weights.docs=1")


def plan(*sets):
    return plan_run(load_config("tiny", sets))


def test_weights_are_the_smallest_whole_numbers_of_their_ratio():
    assert mixing.whole_numbers({"b": 0.25, "a": 0.5, "c": 0.25, "off": 0.0}) == {"a": 2, "b": 1, "c": 1}
    assert mixing.whole_numbers({"a": 0.3, "b": 0.7}) == {"a": 3, "b": 7}
    assert mixing.whole_numbers({"a": 1e-6, "b": 1000.0}) == {"a": 1, "b": 10**9}


def test_a_source_is_what_it_says_and_one_that_says_no_place_is_what_the_corpus_is():
    by_name = {each.name: each for each in load_config("tiny", SOURCES).corpus.sources}
    assert {name: each.source for name, each in by_name.items()} == {"docs": "embedded", "own": "path", "web": "hub"}
    [web] = load_config("d12", ["corpus.sources.web.weight=3"]).corpus.sources
    assert web.dataset == load_config("d12").corpus.dataset is not None


def test_each_source_alone_has_the_settings_of_a_run_with_it():
    alone = plan(*SOURCES).sources["own"].config
    assert alone == load_config("tiny", ["corpus.source=path", "corpus.path=."])


def test_phases_share_the_steps():
    made = plan(*SOURCES, *PHASES)
    assert [phase.num_steps for phase in made.phases] == [666, 166]
    assert made.phases[0].weights == {"docs": 2, "own": 1, "web": 1}
    assert made.phases[1].weights == {"docs": 1, "own": 3}
    assert sum(phase.num_steps for phase in made.phases) == made.pretrain.num_steps
    told = mixing.told(made.phases)
    assert told == "main (666 steps): docs 50%, own 25%, web 25%; end (166 steps): docs 25%, own 75%"


def test_what_weighs_nothing_is_left_out_unless_a_phase_takes_it():
    off = plan(*SOURCES, "corpus.sources.own.weight=0")
    assert list(off.sources) == ["docs", "web"]
    assert mixing.left_out(off.config) == ["own"]
    assert list(plan(*SOURCES, *PHASES, "corpus.sources.own.weight=0").sources) == ["docs", "own", "web"]


def test_what_the_preset_would_take_alone_is_named_where_no_source_is_that():
    dataset = load_config("d12").corpus.dataset
    assert mixing.unused_text(load_config("d12", ["corpus.sources.own.path=."])) == f"corpus.dataset = {dataset}"
    both = load_config("d12", ["corpus.sources.own.path=.", "corpus.sources.web.weight=2"])
    assert mixing.unused_text(both) is mixing.unused_text(load_config("tiny", SOURCES)) is None


@pytest.mark.parametrize(
    ("sets", "message", "hint"),
    [
        (["corpus.sources.own.weight=-0.2"], "corpus.sources.own.weight = -0.2", "0 to 1,000,000"),
        (["corpus.sources.own.weight=nan"], "corpus.sources.own.weight = nan", "0 to 1,000,000"),
        (["corpus.sources.own.weight=inf"], "corpus.sources.own.weight = inf", "0 to 1,000,000"),
        (["corpus.sources.own.weight=30%"], "corpus.sources.own.weight = '30%'", "a number"),
        (["corpus.sources.own.weight="], "corpus.sources.own.weight = ''", "a number"),
        (["corpus.sources.own.wait=1"], "unknown setting corpus.sources.own.wait", "corpus.sources.NAME.weight"),
        (["corpus.sources.own.max_shards=1"], "corpus.sources.own.max_shards = 1", "at least 2"),
        (["corpus.sources.own.repeats=0"], "corpus.sources.own.repeats = 0", "0.001"),
        ([f"corpus.sources.{name}.weight=0" for name in ("docs", "own", "web")], "weigh nothing: docs weighs 0", "=1"),
        (["pretrain.phases.end.weights.wob=1"], "has wob, and no source", "docs, own, web"),
        (["pretrain.phases.end.weights.own=0"], "the weights of the phase end are all 0", "more than 0"),
        (["pretrain.phases.end.weights.own=x"], "pretrain.phases.end.weights.own = 'x'", "names with a number"),
        (["pretrain.phases.end.share=0.5"], "0.5 together: end 0.5", "1 in all"),
        (["pretrain.phases.a.share=0.5", "pretrain.phases.b.share=0.6"], "1.1 together: a 0.5, b 0.6", "1 in all"),
        (["pretrain.phases.a.weights.own=1", "pretrain.phases.b.weights.own=1"], "a and b have no share", "the rest"),
        (["pretrain.phases.a.share=0.9999", "pretrain.phases.b.weights.own=1"], "less than one", "longer training"),
        (["corpus.sources.a/b.weight=1"], "has the name 'a/b'", "letters, digits"),
        (["corpus.sources=[1]"], "corpus.sources = [1]", "[[corpus.sources]]"),
        (["corpus.sources=[{weight=1}]"], "table 1 of corpus.sources has no name", "name ="),
        (['corpus.sources=[{name="a"}, {name="a"}]'], "has the name a twice", "one of its own"),
        (["corpus.sources=none", *PHASES], "weighs sources, and there is only one text", "[[corpus.sources]]"),
    ],
)  # fmt: skip
def test_what_makes_no_mix_is_refused_by_name(sets, message, hint):
    with pytest.raises(ConfigError) as error:
        plan(*SOURCES, *sets)
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_mix_is_recorded_made_again_and_said_as_a_command(tmp_path):
    config = load_config("tiny", [*SOURCES, *PHASES])
    recorded = json.loads(json.dumps(asdict(config)))
    assert config_from_record(recorded) == config
    text, sets = toml_of(recorded)
    (tmp_path / "tiny.toml").write_text(text)
    assert load_config(str(tmp_path / "tiny.toml"), sets) == config
    told = shlex.split(commands(config)["run"])[3:]
    assert load_config("tiny", [each for each in told if each != "--set"]) == config


@pytest.mark.parametrize("override", [*SOURCES, *PHASES, "corpus.sources=none"])
def test_the_form_takes_what_a_command_line_takes(override):
    assert re.match(OVERRIDE, override)
    assert not re.match(OVERRIDE, override.replace("sources", "sauces").replace("phases", "faces"))
