"""Quality checks: a planted fault of each kind stops the step, and what is sound passes and says so in its manifest."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from nanochat_core import workspace
from nanochat_core.base.closure import code_closure, function_entry
from nanochat_core.data.shards import ROW_GROUP_DOCS, write_shards
from nanochat_core.pipeline import training
from nanochat_core.pipeline.execute import execute, make
from nanochat_core.pipeline.step import HINTS, Check, ChecksFailedError, Metrics, StepRun, checks_of, require, step_key
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import corpus as corpus_step
from nanochat_core.steps import rl
from nanochat_core.steps import tokenizer as tokenizer_step
from nanochat_core.steps import tokens as tokens_step
from nanochat_core.tokenizer.tokenizer import SPLIT_PATTERN, Tokenizer

TOO_FAST = [f"pretrain.{name}_lr=50" for name in ("matrix", "embedding", "unembedding")]


def one_bad_id(run: StepRun) -> Metrics:
    """Tokenization that gets one token of the last document wrong."""
    metrics = tokens_step.body(run)
    ids = np.memmap(run.out / "train/00000.bin", dtype=np.uint16, mode="r+")
    ids[-1] = (ids[-1] + 1) % 256
    ids.flush()
    return metrics


def other_text(run: StepRun) -> Metrics:
    """Training shards that hold the validation text."""
    metrics = tokens_step.body(run)
    for path in (run.out / "validation").iterdir():
        (run.out / "train" / path.name).write_bytes(path.read_bytes())
    return metrics


def leaking(run: StepRun) -> Metrics:
    """A corpus with a validation document among the training documents."""
    metrics = corpus_step.body(run)
    shard = run.out / "validation/00000.parquet"
    (run.out / "train/99999.parquet").write_bytes(shard.read_bytes())
    return metrics


def wrong_sizes(run: StepRun) -> Metrics:
    """A vocabulary whose table of sizes is that of another one."""
    metrics = tokenizer_step.body(run)
    sizes = np.load(run.out / "token_bytes.npy")
    np.save(run.out / "token_bytes.npy", np.roll(sizes, 1))
    return metrics


@pytest.mark.parametrize(
    ("name", "body", "failed"),
    [
        ("corpus", leaking, "no validation text in training"),
        ("tokenizer", wrong_sizes, "bytes per token"),
        ("tokens", one_bad_id, "same text after decoding"),
        ("tokens", other_text, "same text after decoding"),
    ],
)
def test_a_fault_stops_the_step_and_nothing_is_published(
    home: Path, micro_plan: RunPlan, name: str, body: Callable[[StepRun], Metrics], failed: str
) -> None:
    refs = {}
    for earlier in ("corpus", "tokenizer", "tokens"):
        if earlier == name:
            break
        refs[earlier] = make(STEPS[earlier], micro_plan, *(refs.get(source) for source in STEPS[earlier].sources))
    inputs = {source: refs[source] for source in STEPS[name].sources if source in refs}
    with pytest.raises(ChecksFailedError, match=failed) as caught:
        execute(replace(STEPS[name], body=body), micro_plan, inputs)
    assert caught.value.hint == HINTS[failed]
    assert failed in {check.check for check in caught.value.checks if not check.is_passed}
    assert not list(workspace.current().store.artifacts(name))
    assert execute(STEPS[name], micro_plan, inputs).is_cached is False, "without the fault it is made"


@pytest.mark.slow
def test_a_model_that_diverged_is_not_published(home: Path, micro_sets: list[str]) -> None:
    plan = plan_run(load_config("tiny", [*micro_sets, *TOO_FAST]))
    text = make(STEPS["corpus"], plan)
    vocabulary = make(STEPS["tokenizer"], plan, text, None)
    with pytest.raises(ChecksFailedError, match="better than guessing"):
        make(STEPS["pretrain"], plan, vocabulary, make(STEPS["tokens"], plan, text, vocabulary), None)
    assert not list(workspace.current().store.artifacts("pretrain"))


@pytest.mark.slow
def test_every_manifest_says_what_was_checked(prepared_module: Path) -> None:
    store = workspace.current().store
    for name in ("corpus", "tokenizer", "tokens", "pretrain"):
        [artifact] = store.artifacts(name)
        passed = checks_of(dict(artifact.metrics))
        assert passed, name
        assert all(check.is_passed for check in passed)


def test_a_leak_is_found_in_the_part_of_a_large_corpus_that_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_step, "LEAK_GROUPS", 2)
    write_shards((f"text {number}" for number in range(4 * ROW_GROUP_DOCS)), tmp_path / "train")
    write_shards(["another text"], tmp_path / "held out")
    write_shards(["text 5"], tmp_path / "leaked")
    sound, leaked = (corpus_step.no_leak(tmp_path / "train", tmp_path / name) for name in ("held out", "leaked"))
    assert sound == Check("no validation text in training", "0 of 2,000 documents (one row group in 2)", "0", True)
    assert (leaked.is_passed, leaked.found[:10]) == (False, "1 of 2,000")


class Forgetful(Tokenizer):
    """Loses capitals."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


def test_a_tokenizer_that_loses_something_does_not_pass() -> None:
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the"]
    texts = ["the old bridge", "The Old Bridge", "위원회는"]
    assert tokenizer_step.round_trip(Tokenizer(tokens, SPLIT_PATTERN), texts).is_passed
    found = tokenizer_step.round_trip(Forgetful(tokens, SPLIT_PATTERN), texts)
    assert (found.is_passed, found.found) == (False, "2 of 3 texts")


def test_a_vocabulary_that_compresses_nothing_does_not_pass_unless_it_has_no_merges() -> None:
    single = [bytes([value]) for value in range(256)]
    for tokens, is_passed in ((single, True), ([*single, b"qx"], False), ([*single, b"th"], True)):
        tokenizer = Tokenizer(tokens, SPLIT_PATTERN)
        assert tokenizer_step.compresses(tokenizer, tokenizer.token_bytes(), ["the other"]).is_passed is is_passed


def test_guessing_and_what_is_worse_do_not_pass() -> None:
    uniform = math.log(512)
    for loss, is_passed in ((uniform - 0.01, True), (uniform, False), (9.0, False), (0.0, False), (math.nan, False)):
        assert training.below_uniform(loss, vocab_size=512).is_passed is is_passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_does_not_pass_wherever_it_was(tmp_path: Path, bad: float) -> None:
    records = tmp_path / "metrics.jsonl"
    for logged, last, is_passed in ((2.0, 1.0, True), (bad, 1.0, False), (2.0, bad, False)):
        lines = [{"event": "start", "step": 0}, {"event": "step", "loss": logged}, {"event": "step", "loss": 1.5}]
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert training.losses_are_numbers({"smooth_loss": last}, records).is_passed is is_passed


def test_bits_per_byte_that_are_no_number_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "is_taken", lambda run: False)
    monkeypatch.setattr(training, "checks_of_model", lambda run: [])
    (tmp_path / "metrics.jsonl").write_text("")
    run = SimpleNamespace(attempt=tmp_path, plan=plan_run(load_config("tiny", [])))
    for value, passed in ((1.5, [True, True]), (math.nan, [False, True])):
        metrics = {"smooth_loss": 2.0, "validation_loss": 2.0, "bits_per_byte": value}
        assert [check.is_passed for check in training.checks(run, metrics)] == passed


def test_a_weight_that_is_no_number_does_not_pass(tmp_path: Path) -> None:
    weights = {"a": np.ones((4, 4), np.float32), "b": np.ones(8, np.float32)}
    save_file(weights, tmp_path / "model.safetensors")
    assert training.weights_are_numbers(tmp_path / "model.safetensors").found == "24 weights"
    weights["b"][3] = np.inf
    save_file(weights, tmp_path / "model.safetensors")
    found = training.weights_are_numbers(tmp_path / "model.safetensors")
    assert (found.is_passed, found.found) == (False, "24 weights; 1 bad tensors: b")


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "no list", "nothing"])
def test_a_damaged_last_checkpoint_does_not_pass(tmp_path: Path, damage: str) -> None:
    from nanochat_core.train.checkpoint import COMPLETE, describe

    for step in (10, 20):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"0123456789")
        (folder / COMPLETE).write_text(json.dumps({"weights": describe(folder / "weights")}))
    (tmp_path / "step-00000030.tmp99").mkdir()  # of a driver that was taken over
    assert training.checkpoint_is_whole(tmp_path).found == "step-00000020: 1 of 1 files"
    assert training.checkpoint_is_whole(tmp_path).is_passed
    weights = tmp_path / "step-00000020/weights"
    if damage == "flip":
        weights.write_bytes(b"0123456780")
    elif damage == "cut":
        weights.write_bytes(b"01234")
    elif damage == "lose":
        weights.unlink()
    elif damage == "no list":
        (weights.parent / COMPLETE).unlink()
    found = training.checkpoint_is_whole(tmp_path if damage != "nothing" else tmp_path / "empty")
    assert not found.is_passed


def test_every_failed_check_has_a_hint_and_all_are_told() -> None:
    written = "".join(
        Path(each.__file__).read_text() for each in (corpus_step, tokenizer_step, tokens_step, training, rl)
    )
    assert all(f'"{name}"' in written for name in HINTS)
    failed = [Check("loss is a number", "nan", "finite", False), Check("better than guessing", "9", "below 6", False)]
    with pytest.raises(ChecksFailedError, match=r"loss is a number: found nan.*better than guessing: found 9"):
        require("pretrain", failed)
    assert require("report", []) == {}


def test_the_code_of_a_check_is_in_the_keys_of_the_steps_that_have_it_only(micro_plan: RunPlan) -> None:
    for name in ("corpus", "tokenizer", "report"):
        step = STEPS[name]
        key = step_key(step, micro_plan, {}).identity["code"]
        both = code_closure([function_entry(step.body), *([function_entry(step.checks)] if step.checks else [])])
        assert key == both
        assert (key != code_closure([function_entry(step.body)])) is (step.checks is not None)
