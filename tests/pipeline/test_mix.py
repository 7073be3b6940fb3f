"""A mix of sources, really made and trained: each source an artifact, weights in no key before pretraining, equal bits
after a kill."""

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from conftest import MICRO, OFTEN
from processes import TIMEOUT_S, start, wait_for_record, wait_until_no_ranks

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.data.loader import SeveralSources, open_text, order_of
from nanochat_core.data.shards import read_documents
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps.pretrain import train_settings
from nanochat_core.store.manifest import Artifact

pytestmark = pytest.mark.slow
WORDS = {
    "docs": ("sum", "loop", "list", "value"),
    "web": ("river", "bird", "stone", "cloud"),
    "own": ("we", "our", "me"),
}
NUM_DOCS = {"docs": 240, "web": 500, "own": 60}
PHASES = ("pretrain.phases.main.share=0.7", "pretrain.phases.end.weights.own=3", "pretrain.phases.end.weights.docs=1")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three files of unlike length with 2 : 1 : 1, as settings."""
    folder, draw, sets = tmp_path_factory.mktemp("sources"), random.Random(7), []
    for name, words in WORDS.items():
        texts = [" ".join(draw.choice(words) for _ in range(draw.randint(20, 90))) for _ in range(NUM_DOCS[name])]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sets += [f"corpus.sources.{name}.path={folder / name}.jsonl", f"corpus.sources.{name}.repeats=20"]
    return (*MICRO, "tokenizer.vocab_size=300", *sets, "corpus.sources.docs.weight=2")


def newest(step: str) -> Artifact:
    return workspace.current().store.artifacts(step)[0]


def plan_of(sources: tuple[str, ...], *sets: str) -> RunPlan:
    return plan_run(load_config("tiny", [*sources, *sets]))


def made(plan: RunPlan, until: str) -> dict[str, Ref]:
    return {ref.step: ref for ref in run_until(make, plan, until)}


@pytest.fixture(scope="module")
def mixed_home(sources: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("mixed") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder))
        patch.setenv("NANOCHAT_STORE", str(folder / "store"))
        run_until(make, plan_of(sources), "tokens")
        yield folder


def drawn_tokens(plan: RunPlan, tokens: Path) -> Counter[str]:
    """What the batches of a training hold, by the words in them: the rows themselves are asked, not their order."""
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    settings = train_settings(plan)
    tokenizer = Tokenizer.load(workspace.current().store.fetch(newest("tokenizer")))
    rows = open_text(tokens, "train", vocab_size=tokenizer.vocab_size)
    assert isinstance(rows, SeveralSources)
    order = order_of(rows, total_batch_rows=settings.total_batch_rows, seed=settings.seed, mix=settings.mix)
    found: Counter[str] = Counter()
    for step in range(settings.schedule.num_steps):
        for row in order.rows_at(step).tolist():
            ids, _ = rows.read(row)
            said = set(tokenizer.decode(ids[1:].tolist()).replace(tokenizer.decode([tokenizer.bos]), " ").split())
            names = {name for name, words in WORDS.items() if said & set(words)}
            [name] = names  # a row never has two sources
            found[name] += len(ids) - 1
    return found


def test_tokens_are_drawn_by_weight_and_another_weight_tokenizes_nothing(sources, mixed_home):
    plan = plan_of(sources)
    tokens = workspace.current().store.fetch(newest("tokens"))
    found = drawn_tokens(plan, tokens)
    share = {name: num / found.total() for name, num in found.items()}
    assert share == pytest.approx({"docs": 0.5, "web": 0.25, "own": 0.25}, abs=0.01)
    again = made(plan_of(sources, "corpus.sources.own.weight=3"), "tokens")
    assert [name for name, ref in again.items() if not ref.is_cached] == []
    scaled = plan_of(
        sources, *(f"corpus.sources.{name}.weight={w}" for name, w in {"docs": 0.5, "web": 0.25, "own": 0.25}.items())
    )
    assert train_settings(scaled) == train_settings(plan), "the same ratio is the same mix"


def test_another_source_makes_the_others_not_again_and_one_alone_is_that_artifact(sources, mixed_home, tmp_path):
    before = {artifact.fingerprint for artifact in workspace.current().store.artifacts("corpus")}
    (tmp_path / "new.txt").write_text("\n\n".join(f"another page {number}" for number in range(400)))
    more = made(plan_of(sources, f"corpus.sources.new.path={tmp_path / 'new.txt'}"), "corpus")
    after = {artifact.fingerprint for artifact in workspace.current().store.artifacts("corpus")}
    assert len(before) == 4, "three sources and the mix of them"
    assert len(after - before) == 2, "the new one, and the mix"
    assert set(more["corpus"].metrics["sources"]) == {"docs", "new", "own", "web"}
    alone = plan_of(sources).sources["own"]
    assert made(alone, "corpus")["corpus"].is_cached


def test_what_weighs_nothing_is_in_no_text_and_in_no_vocabulary(sources, mixed_home):
    off = made(plan_of(sources, "corpus.sources.own.weight=0"), "corpus")["corpus"]
    text = " ".join(read_documents(workspace.current().store.fetch(newest("corpus")) / "train"))
    assert set(off.metrics["sources"]) == {"docs", "web"}
    assert not set(text.split()) & set(WORDS["own"])


def test_more_passes_than_a_source_may_have_are_refused_before_training(sources, mixed_home):
    with pytest.raises(ConfigError) as error:
        made(plan_of(sources, "corpus.sources.own.repeats=0.1"), "pretrain")
    assert "own" in error.value.message
    assert "its repeats are 0.1" in error.value.message
    assert "--set corpus.sources.own.repeats=" in error.value.hint
    assert workspace.current().store.artifacts("pretrain") == []


def test_two_phases_are_learnt_and_a_kill_changes_no_bit_of_them(sources, mixed_home, tmp_path):
    plan = plan_of(sources, *PHASES)
    first = made(plan, "pretrain")["pretrain"]
    taken = first.metrics["sources"]
    assert {name: each["share"] for name, each in taken.items()} == pytest.approx(
        {"docs": 0.7 / 2 + 0.3 / 4, "web": 0.7 / 4, "own": 0.7 / 4 + 0.3 * 3 / 4}, abs=0.01
    )
    assert sum(each["tokens"] for each in taken.values()) == plan.pretrain.num_tokens
    artifact = newest("pretrain")
    expected = artifact.files["model.safetensors"], artifact.files["optimizer.safetensors"]
    workspace.current().store.discard(artifact)
    process = start([*sources, *PHASES, OFTEN], "--until", "pretrain")
    wait_for_record(mixed_home, "pretrain", 24, process)  # in the second phase
    os.kill(process.pid, signal.SIGKILL)
    process.wait(TIMEOUT_S)
    wait_until_no_ranks(mixed_home)
    assert workspace.current().store.find("pretrain", first.fingerprint) is None
    again = made(plan, "evaluate_base")
    files = newest("pretrain").files
    assert (files["model.safetensors"], files["optimizer.safetensors"]) == expected
    measured = again["evaluate_base"].metrics["sources"]
    assert set(measured) == set(WORDS)
    assert min(measured.values()) <= again["evaluate_base"].metrics["bits_per_byte"] <= max(measured.values())
