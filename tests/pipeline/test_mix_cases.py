"""Mixes that people ask for, made after public reports: shares and passes are as expected, or it is refused by name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MICRO, SHARED

from flows.speedrun import run_until
from nanochat_core import observe, workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.data.shards import read_documents
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps.corpus import notes
from nanochat_core.steps.pretrain import draws, told_draws, train_settings

pytestmark = pytest.mark.slow
MIXES = SHARED / "datacases/mixes"
BATCH_TOKENS = 512
PATHS = {"m09": {"web": "data/*.jsonl", "forum": "data/forum.jsonl"}}


class Notes(observe.Silence):
    """What a run says."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def cases() -> list[Path]:
    return sorted(MIXES.glob("m*")) if MIXES.is_dir() else []


def sets_of(case: Path, expected: dict[str, Any]) -> Iterator[str]:
    """The settings, which are in words, as ours."""
    words = expected["settings"]
    weights = dict(re.findall(r"(\w+)(?: is \S+ and)? weighs? ([\d.]+)", words))
    repeats = re.search(r"at most (\d+) epochs", words)
    for name in weights:
        path = PATHS.get(expected["id"], {}).get(name, name)
        yield f"corpus.sources.{name}.path={case / 'in' / path}"
        yield f"corpus.sources.{name}.weight={weights[name]}"
        yield f"corpus.sources.{name}.repeats={repeats[1] if repeats else 4}"


def plan_of(*sets: str) -> RunPlan:
    return plan_run(load_config("tiny", [*MICRO, f"pretrain.total_batch_tokens={BATCH_TOKENS}", *sets]))


@pytest.mark.skipif(not MIXES.is_dir(), reason="the cases are not there")
@pytest.mark.parametrize(
    "case", [case for case in cases() if not case.name.startswith("m08")], ids=lambda case: case.name
)
def test_a_mix_takes_of_each_source_what_it_is_asked_for(case: Path, home: Path) -> None:
    expected = json.loads((case / "expected.json").read_text())
    sets = [*sets_of(case, expected)]
    observe.use(notes_told := Notes())
    first = plan_of(*sets)
    refs = {ref.step: ref for ref in run_until(make, first, "tokens")}
    words = sum(
        each["words"] for name, each in expected["sources"].items() if name in refs["tokens"].metrics["sources"]
    )
    asked = int(re.search(r"([\d,]+) words' worth", expected["settings"])[1].replace(",", ""))  # type: ignore[index]
    counts = refs["tokens"].metrics
    of_all = (counts["train_tokens"] + counts["validation_tokens"]) / words
    steps = max(1, round(asked * of_all / BATCH_TOKENS))
    plan = plan_of(*sets, f"pretrain.max_tokens={steps * BATCH_TOKENS}")
    store = workspace.current().store
    drawn = draws(store.fetch(store.artifacts("tokens")[0]), train_settings(plan))
    said = [*notes(plan), *told_draws(drawn, {each.name: each.repeats for each in plan.config.corpus.sources})]
    for name, share in expected["expected"]["token_share"].items():
        assert drawn.get(name, {"share": 0.0})["share"] == pytest.approx(share, abs=expected["tolerance"])
    for name, epochs in expected["expected"].get("epochs", {}).items():
        assert drawn[name]["epochs"] == pytest.approx(epochs, rel=0.15)
    told = "\n".join([*said, *notes_told.told]).replace(str(case), "")
    for words_of_one in expected["must_match"]:
        assert any(word in told for word in words_of_one), words_of_one
    folder = store.fetch(store.artifacts("corpus")[0])
    held_out, trained = set(read_documents(folder / "validation")), set(read_documents(folder / "train"))
    assert not held_out & trained
    assert not any("zyxwv" in text.lower() for text in trained)


@pytest.mark.skipif(not MIXES.is_dir(), reason="the cases are not there")
@pytest.mark.parametrize("weight", ["-0.2", "nan", "inf", "30%", ""])
def test_a_weight_that_is_none_is_refused_by_the_name_of_its_source(weight: str) -> None:
    [case] = MIXES.glob("m08*")
    paths = [f"corpus.sources.{name}.path={case / 'in' / name}" for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"corpus\.sources\.a\.weight"):
        plan_of(*paths, f"corpus.sources.a.weight={weight}")
