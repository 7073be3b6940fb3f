"""Runs that start from a model: of the store, or of a folder; and what is refused before anything is written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MICRO, MICRO_RL
from http_server import HttpServer
from huggingface_hub import constants

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, NanochatError
from nanochat_core.export.card import About, model_card
from nanochat_core.export.folder import export_model
from nanochat_core.export.lineage import lineage
from nanochat_core.pipeline.beginning import settle
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.pipeline.models import find_model
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import previews
from nanochat_core.plan import RunPlan, estimate, plan_run
from nanochat_core.presets import load_config
from nanochat_core.record.bundle import collect
from nanochat_core.record.leaderboard import _row_of_run
from nanochat_core.store.manifest import Artifact

pytestmark = pytest.mark.slow
GENERATIONS = (
    "2025-10-13", "2026-01-11-lambdas", "2026-01-16-value-embeds", "2026-03-09-gates", "transformers-nanochat",
)  # fmt: skip


def planned(sets: list[str], *more: str) -> RunPlan:
    return plan_run(settle(load_config("tiny", [*sets, *more])))


def run(plan: RunPlan, until: str) -> dict[str, Ref]:
    return {ref.step: ref for ref in run_until(make, plan, until)}


def artifact(ref: Ref) -> Artifact:
    found = workspace.current().store.find(ref.step, ref.fingerprint)
    assert found is not None
    return found


def sha(ref: Ref) -> str:
    return artifact(ref).files["model.safetensors"].sha256


@pytest.fixture(scope="module")
def original(prepared_module: Path, small_corpus: Path) -> dict[str, Ref]:
    """The run that everything here starts from: fine-tuned, and recorded."""
    plan = planned([*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"])
    refs = run_until(make, plan, "sft")
    finish_run(plan, refs, started_at=0.0)
    return {ref.step: ref for ref in refs}


def test_a_base_of_the_store_is_fine_tuned_to_the_same_bits_and_then_found(
    original: dict[str, Ref], micro_sets: list[str]
) -> None:
    """Its optimizer's averages come along, so nothing tells the two fine-tunings apart but their lineage."""
    store = workspace.current().store
    names = {"a name": "tiny-base", "a run": f"{store.runs()[-1]}:pretrain",
             "a fingerprint": original["pretrain"].fingerprint[:12]}  # fmt: skip
    plans = {kind: planned(micro_sets, f"base.model={name}", "pretrain.depth=7") for kind, name in names.items()}
    assert len({plan.config.base.content for plan in plans.values()}) == 1, "however it is called"
    assert plans["a name"].pretrain.model == plan_run(load_config("tiny", micro_sets)).pretrain.model
    assert estimate(plans["a name"]).usd == 0, "nothing is pretrained"
    made = run(plans["a name"], "sft")
    assert sha(made["pretrain"]) == sha(original["pretrain"])
    assert sha(made["sft"]) == sha(original["sft"])
    assert made["tokens"].is_cached
    assert made["conversations"].is_cached
    again = run(plans["a fingerprint"], "sft")
    assert all(ref.is_cached for ref in again.values())
    assert {seen.state for seen in previews(plans["a run"], until="sft").values()} == {"cached"}


@pytest.mark.parametrize("form", ["safetensors", "hf"])
def test_an_exported_folder_is_the_same_model_without_its_optimizer(
    form: str, original: dict[str, Ref], micro_sets: list[str], tmp_path: Path
) -> None:
    export_model(workspace.current().store, "tiny-base", tmp_path / form, form=form)
    (tmp_path / form / "LICENSE").write_text("MIT License\n")
    plan = planned(micro_sets, f"base.model={tmp_path / form}")
    made = run(plan, "pretrain")
    assert sha(made["pretrain"]) == sha(original["pretrain"])
    assert made["base"].metrics["licence"] == "MIT License"
    shutil.move(tmp_path / form, tmp_path / "elsewhere")
    moved = planned(micro_sets, f"base.model={tmp_path / 'elsewhere'}")
    assert run(moved, "pretrain")["base"].is_cached, "where it lies is no part of the key"
    tuned = run(moved, "sft")["sft"]
    assert sha(tuned) != sha(original["sft"]), "the optimizer starts anew"
    log = workspace.current().store.fetch(artifact(tuned), ["log/metrics.jsonl"]) / "log/metrics.jsonl"
    assert "the optimizer starts anew" in log.read_text()


def test_a_chat_model_is_fine_tuned_again_and_practised_as_it_is(
    original: dict[str, Ref], micro_sets: list[str]
) -> None:
    model = f"base.model={original['sft'].fingerprint}"
    twice = run(planned(micro_sets, model, "sft.lr_frac=0.1"), "sft")
    assert sha(twice["pretrain"]) == sha(original["sft"])
    assert twice["sft"].metrics["num_steps"] > 0
    assert sha(twice["sft"]) != sha(original["sft"])
    plan = planned(micro_sets, *MICRO_RL, model, "base.stage=chat")
    practised = run(plan, "rl")
    assert sha(practised["sft"]) == sha(original["sft"])
    assert practised["rl"].metrics["num_steps"] == 3
    finish_run(plan, list(practised.values()), started_at=0.0)
    found = find_model(workspace.current().store, "tiny-chat")
    assert found.artifact.step == "rl"
    history = lineage(workspace.current().store, found)
    card = model_card(About(model=found, history=history, config=plan.pretrain.model, form="hf", dtype="float32"))
    assert "Begun from" in card
    assert "licence: unknown" in card


def test_a_base_goes_on_learning_and_has_no_time_to_gpt2(original: dict[str, Ref], micro_sets: list[str]) -> None:
    plan = planned(micro_sets, f"base.model={original['pretrain'].fingerprint}", "base.train=true", "seed=3")
    refs = run(plan, "evaluate_base")
    before, after = original["pretrain"].metrics, refs["pretrain"].metrics
    assert after["num_steps"] == before["num_steps"]
    assert after["validation_loss"] < before["validation_loss"]
    store = workspace.current().store
    finished = finish_run(plan, list(refs.values()), started_at=0.0)
    record = store.run(finished.run_id)
    assert _row_of_run(store, finished.run_id, record, {"core": 0.3}) is None
    with pytest.raises(ConfigError, match="began from a model"):
        collect(store, finished.run_id)


def test_a_report_tells_where_a_model_came_from(original: dict[str, Ref], micro_sets: list[str]) -> None:
    plan = planned(micro_sets, "base.model=tiny-base")
    finished = finish_run(plan, run_until(make, plan, None), started_at=0.0)
    assert finished.report is not None
    page = finished.report.read_text()
    assert "started from" in page
    assert "licence: unknown" in page


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_is_fine_tuned(
    generation: str, shared: Path, prepared_module: Path, micro_sets: list[str]
) -> None:
    folder = shared / "golden/generations" / generation
    tokenizer = f"base.tokenizer={folder.parent / '2025-10-13'}" if "transformers" in generation else "seed=42"
    plan = planned(micro_sets, f"base.model={folder}", tokenizer, "sft.total_batch_tokens=1024", "base.softcap=15",
                   "pretrain.total_batch_tokens=1024")  # fmt: skip
    made = run(plan, "sft")
    assert made["sft"].metrics["num_steps"] > 0
    assert made["sft"].metrics["validation_loss"] < 5
    assert all(ref.is_cached for ref in run(plan, "sft").values())


def test_a_model_of_the_hub_is_what_its_files_here_are_and_says_its_commit(
    shared: Path, prepared_module: Path, micro_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / "golden/generations/2026-03-09-gates"
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"---\nlicense: mit\n---\n"}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with HttpServer() as server:
        server.serve_model("somebody/d4", "abc" + "0" * 37, files, revisions=("v1.0",))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        plan = planned(micro_sets, "base.model=hf:somebody/d4@v1.0")
    here = run(planned(micro_sets, f"base.model={folder}"), "base")["base"]
    named = f"hf:somebody/d4@abc{'0' * 37}"
    assert plan.config.base.model == named, "the branch may move while the run goes on"
    made = run(plan, "base")["base"]  # the server is gone: the commit is in the cache
    assert made.metrics["origin"] == named
    assert made.metrics["licence"] == "mit"
    assert (here.metrics["origin"], here.metrics["licence"]) == (folder.name, "unknown")
    assert made.digest == here.digest


def _no_model(folder: Path) -> None:
    (folder / "notes.txt").write_text("no model")


def _half(folder: Path) -> None:
    whole = (folder / "model_000010.pt").read_bytes()
    (folder / "model_000010.pt").write_bytes(whole[: len(whole) // 2])


def _code(folder: Path) -> None:
    (folder / "tokenizer.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")


def _other_tokenizer(folder: Path) -> None:
    shutil.copy(folder.parent / "other/tokenizer.pkl", folder)


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.pkl").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [(_no_model, "it holds notes.txt"), (_half, "cannot be read"), (_code, "is not nanochat's tokenizer"),
     (_other_tokenizer, "320 tokens and its tokenizer 272"), (_no_tokenizer, "holds no tokenizer")],
)  # fmt: skip
def test_what_is_no_whole_model_is_refused_in_a_line_and_nothing_is_written(
    damage: object, told: str, shared: Path, home: Path, tmp_path: Path
) -> None:
    generations = shared / "golden/generations"
    folder = tmp_path / "models/given"
    folder.mkdir(parents=True)
    if damage is not _no_model:
        for name in ("model_000010.pt", "meta_000010.json", "tokenizer.pkl"):
            shutil.copy(generations / "2025-10-13" / name, folder)
    (folder.parent / "other").mkdir()
    shutil.copy(generations / "2026-03-09-gates/tokenizer.pkl", folder.parent / "other")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(NanochatError, match=told) as caught:
        planned([], f"base.model={folder}")
    assert "\n" not in str(caught.value)
    assert not (home / "store/steps").exists()
    assert not Path("ran").exists()


def test_a_name_that_means_nothing_is_refused(home: Path) -> None:
    with pytest.raises(NanochatError, match="nobody is no model"):
        planned([], "base.model=nobody")


def test_a_model_that_changed_since_the_plan_is_refused(original: dict[str, Ref], micro_sets: list[str]) -> None:
    config = settle(load_config("tiny", [*micro_sets, "base.model=tiny-base"]))
    plan = plan_run(replace(config, base=replace(config.base, content="0" * 64)))
    with pytest.raises(NanochatError, match="another model than when the run was planned"):
        run(plan, "base")


def test_where_no_model_is_looked_up_none_is_taken() -> None:
    with pytest.raises(ConfigError, match="has no place here"):
        plan_run(load_config("tiny", ["base.model=tiny-base"]))
    assert load_config("tiny", ["base.from=tiny-base"]).base.model == "tiny-base"
