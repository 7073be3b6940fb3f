"""A training that a fault in the code ended goes on after the line is mended, where somebody says so."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.speedrun import run_until
from nanochat_core import observe, workspace
from nanochat_core.base import fingerprint
from nanochat_core.base.errors import CorruptError
from nanochat_core.gate.baseline import MIXED
from nanochat_core.gate.night import Asked, measured
from nanochat_core.pipeline import unfinished
from nanochat_core.pipeline.data_files import Seen
from nanochat_core.pipeline.execute import _mend, make
from nanochat_core.pipeline.step import StepKey
from nanochat_core.pipeline.table import STEPS, check_drift, previews
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.report.reproduce import _source
from nanochat_core.store.partial import Partial
from nanochat_core.store.partial import unfinished as list_unfinished
from nanochat_core.store.provenance import STEPS_BY_CODE

PRETRAIN = STEPS["pretrain"]
OLD = {"loop": "0", "saver": "0"}


class Stop(observe.Silence):
    """Ends a training after some steps, as a cancel does, and keeps what was said."""

    def __init__(self, after: int) -> None:
        self.after, self.notes = after, list[str]()

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] >= self.after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def key_of(code: dict[str, str], torch: str = "2", seed: int = 1) -> StepKey:
    identity = {
        "step": "pretrain", "config": {"seed": seed, "schedule": {"num_steps": 97}}, "inputs": {"tokens": "t"},
        "code": code, "packages": {"torch": torch},
    }  # fmt: skip
    return StepKey(identity, fingerprint.identity_digest(identity), Seen())


def partial_of(key: StepKey) -> Partial:
    return workspace.current().store.partial("pretrain", key.fingerprint)


def left(key: StepKey, step: int, *, starts: tuple[float, ...] = (1.5,), scratch: Path) -> Partial:
    """What a training leaves that was killed after `step` steps."""
    partial, name = partial_of(key), f"step-{step:08d}"
    unfinished.begin(partial, key)
    folder = (partial.folder or scratch / key.fingerprint) / name
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"step": step, "train_s": 10.0 * step, "world_size": 1}))
    log = [{"event": "start", "step": 0, "time_s": time_s} for time_s in starts]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    if partial.folder is None:
        partial.put_folder(folder, name)
    return partial


@pytest.fixture(params=["folder", "remote"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "remote":
        monkeypatch.setenv("NANOCHAT_STORE", f"memory://mend-{home.parent.name}")


@pytest.mark.usefixtures("store")
def test_what_stands_at_an_earlier_code_is_offered_and_nothing_else_is(tmp_path: Path, micro_plan: RunPlan) -> None:
    left(key_of(OLD), 34, scratch=tmp_path)
    left(key_of(OLD, seed=2), 90, scratch=tmp_path)
    found = unfinished.earlier(PRETRAIN, key_of({"loop": "1", "saver": "0"}, torch="3"))
    assert found is not None
    assert found.told() == "34 of 97 steps stand at an earlier code (1 module differs, torch: 2 -> 3)"
    assert found.offer(micro_plan).endswith(
        ": --accept-drift pretrain goes on from them, else it begins at 0 (about 16 min 10 s, $0.01)"
    )
    assert unfinished.earlier(PRETRAIN, key_of(OLD)) is None, "its own is no earlier one"
    stand = unfinished.standing(PRETRAIN, key_of(OLD))
    assert stand is not None
    assert stand.step == 34
    told = Stop(after=0)
    observe.use(told)
    new = key_of({"loop": "1"})
    _mend(workspace.current(), PRETRAIN, micro_plan, new, partial_of(new), tmp_path / "work")
    observe.use(observe.Silence())
    assert "else it begins at 0" in told.notes[0], "who was not asked is told"
    assert partial_of(new).matching("step-*") == []
    mended = key_of({"loop": "1"})
    left(mended, 40, scratch=tmp_path)
    assert unfinished.earlier(PRETRAIN, mended) is None, "its own came further"
    with workspace.current().store.lease("pretrain", key_of(OLD).fingerprint, owner="somebody"):
        assert unfinished.earlier(PRETRAIN, key_of({"loop": "2"})).stand.step == 40  # type: ignore[union-attr]
        assert unfinished.earlier(PRETRAIN, key_of({"loop": "2"}, torch="9")) is not None


@pytest.mark.usefixtures("store")
def test_what_is_taken_is_a_copy_and_says_which_code_made_which_steps(tmp_path: Path) -> None:
    space, keys = workspace.current(), [key_of({"loop": str(number)}) for number in range(3)]
    left(keys[0], 34, scratch=tmp_path)
    partials = [partial_of(key) for key in keys]
    works = [space.work("pretrain", key.fingerprint) for key in keys]

    def take(number: int) -> None:
        found = unfinished.earlier(PRETRAIN, keys[number])
        assert found is not None
        unfinished.take(space, found, keys[number], partials[number], works[number])

    take(1)
    assert partials[0].matching("step-*") == ["step-00000034"], "the earlier one stays as it is"
    folder = partials[1].folder or works[1] / unfinished.CHECKPOINTS
    assert (folder / "step-00000034/state.json").is_file()
    left(keys[1], 60, starts=(1.5, 2.5), scratch=tmp_path)
    take(2)
    out = tmp_path / "out"
    (out / "log").mkdir(parents=True)
    starts = [(0, 1.5), (34, 2.5), (60, 0.5)]  # the last machine's clock is behind
    lines = [json.dumps({"event": "start", "step": step, "time_s": time_s}) + "\n" for step, time_s in starts]
    (out / "log/metrics.jsonl").write_text("".join(lines))
    segments = unfinished.history(partials[2], out, keys[2])[STEPS_BY_CODE]
    found = [(each["first_step"], each["last_step"], each["fingerprint"]) for each in segments]
    edges = [(1, 34), (35, 60), (61, 97)]
    assert found == [(*edge, key.fingerprint) for edge, key in zip(edges, keys, strict=True)]
    (out / "log/metrics.jsonl").write_text(lines[0].replace("1.5", "7.5"))
    assert unfinished.history(partials[2], out, keys[2]) == {}, "it began at 0 after all"
    assert unfinished.history(partials[0], out, keys[0]) == {}


class Killed(BaseException):
    """As a kill: nobody catches it."""


@pytest.mark.usefixtures("store")
def test_killed_at_any_moment_of_the_copy_it_leaves_the_one_or_the_other_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = workspace.current()
    old = key_of(OLD)
    for step in (30, 34):
        left(old, step, scratch=tmp_path)
    of_files = [(unfinished.files, "move"), (unfinished.shutil, "rmtree"), (unfinished.shutil, "copytree")]
    places = [*of_files, (Partial, "put_record"), (Partial, "remove"), (Partial, "get_folder")]
    after, seen = 0, set[int]()
    while True:
        mended = key_of({"loop": "1", "after": str(after)})
        partial, work = partial_of(mended), tmp_path / f"work-{after}"
        left(mended, 30, starts=(9.5,), scratch=tmp_path)
        found = unfinished.earlier(PRETRAIN, mended)
        assert found is not None
        left_calls = [after]

        def counted(call: Any, left_calls: list[int] = left_calls) -> Any:
            def one(*arguments: Any, **options: Any) -> Any:
                left_calls[0] -= 1
                if left_calls[0] < 0:
                    raise Killed
                return call(*arguments, **options)

            return one

        with monkeypatch.context() as patch:
            for owner, name in places:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            with contextlib.suppress(Killed):
                unfinished.take(space, found, mended, partial, work)
        is_over = left_calls[0] >= 0
        here = partial.folder or work / unfinished.CHECKPOINTS
        steps = {int(path.name[5:]) for path in here.glob("step-????????") if (path / "state.json").is_file()}
        steps |= {int(name[5:]) for name in partial.matching("step-????????")}
        assert steps, f"nothing is left after {after} calls"
        seen.add(max(steps))
        if again := unfinished.earlier(PRETRAIN, mended):
            unfinished.take(space, again, mended, partial, work)
        assert (here / "step-00000034/state.json").is_file()
        origin = partial.record(unfinished.ORIGIN)
        assert origin is not None
        assert [each["fingerprint"] for each in origin["codes"]] == [old.fingerprint]
        partial.clear()  # it would be an earlier one of the next
        if is_over:
            break
        after += 1
    assert seen == {30, 34}
    assert after > 4


def test_what_cannot_be_copied_is_an_error_that_says_what_to_do(home: Path, tmp_path: Path) -> None:
    old = left(key_of(OLD), 34, scratch=tmp_path)
    new = key_of({"loop": "1"})
    found = unfinished.earlier(PRETRAIN, new)
    assert found is not None
    old.clear()
    assert old.record(unfinished.IDENTITY) is None
    with pytest.raises(CorruptError, match="cannot be read"):
        unfinished.take(workspace.current(), found, new, partial_of(new), tmp_path / "work")


@pytest.mark.slow
def test_a_mended_training_goes_on_and_everything_that_tells_of_it_says_so(
    prepared_home: Path, micro_sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = workspace.current().store
    plan = plan_run(load_config("tiny", micro_sets))
    [made] = store.artifacts("pretrain")
    store.discard(made)
    observe.use(Stop(after=10))
    with pytest.raises(KeyboardInterrupt):
        run_until(make, plan, "pretrain")
    of_code = fingerprint.step_code
    mended = {"nanochat_core.train.saver": "mended"}
    monkeypatch.setattr(
        fingerprint,
        "step_code",
        lambda functions, *a, **k: {**of_code(functions, *a, **k), **(mended if functions[0] is PRETRAIN.body else {})},
    )

    seen = previews(plan, "pretrain")["pretrain"]
    assert "of 30 steps stand at an earlier code (1 module differs): --accept-drift pretrain" in seen.reasons[0]
    accepting = replace(plan, accept_drift=("pretrain",))
    assert previews(accepting, "pretrain")["pretrain"].state == "resumed"
    check_drift(accepting, ["pretrain"])
    watching = Stop(after=99)
    observe.use(watching)
    refs = run_until(make, accepting, "evaluate_base")
    observe.use(observe.Silence())

    assert any("it goes on from them" in note for note in watching.notes)
    artifact = store.artifacts("pretrain")[0]
    first, second = artifact.provenance[STEPS_BY_CODE]
    assert first["fingerprint"] == made.fingerprint
    assert first["code"] != artifact.code
    assert (first["first_step"], first["last_step"] + 1, second["last_step"]) == (1, second["first_step"], 30)
    assert first["last_step"] >= 10
    assert artifact.files["model.safetensors"] == made.files["model.safetensors"], "the line changed nothing"
    assert list_unfinished(store.files, "pretrain") == [made.fingerprint], "the earlier one is gc's to take"
    assert "steps 1 to " in _source(artifact)
    night = measured(store, refs, plan, Asked(preset="tiny"))
    assert MIXED in night.conditions
