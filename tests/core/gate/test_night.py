"""Nights, baselines and verdicts over a real store; the trainings are made up (conftest.py)."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat_core import workspace
from nanochat_core.base.child import NonFiniteError
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.gate import baseline
from nanochat_core.gate.bisect import Search
from nanochat_core.gate.finish import finish_night, raise_if_red, search_command
from nanochat_core.gate.night import Asked, nights, run_night, runs_of, with_seed
from nanochat_core.gate.verdict import RegressionError
from nanochat_core.pipeline.step import ChecksFailedError
from nanochat_core.plan import RunPlan
from nanochat_core.store.reach import Policy, make_plan
from tests.core.gate.conftest import Trainer

ASKED = Asked(preset="tiny")


def noisy(seed: int) -> float:
    """3 bits per byte and a hundredth of noise that the seed decides."""
    return 3.0 + 0.01 * ((seed * 2654435761 % 2**32) / 2**31 - 1)


def settle(trainer: Trainer, plan: RunPlan, *, num_nights: int, seeds: int) -> Trainer:
    """The trainer, with a baseline of so many nights behind it."""
    trainer.values = noisy
    for _ in range(num_nights):
        run_night(plan, Asked(preset="tiny", seeds=seeds), trainer)
    store = workspace.current().store
    baseline.promote(store, nights(store))
    trainer.seeds.clear()
    return trainer


@pytest.fixture
def judged(trainer: Trainer, micro_plan: RunPlan) -> Trainer:
    return settle(trainer, micro_plan, num_nights=6, seeds=2)


def test_every_night_has_seeds_of_its_own(trainer: Trainer, micro_plan: RunPlan) -> None:
    first = run_night(micro_plan, Asked(preset="tiny", seeds=3), trainer)
    second = run_night(micro_plan, ASKED, trainer)
    assert len(set(trainer.seeds)) == 4
    assert first["state"] == second["state"] == "unjudged"
    assert len({run.recipe for night in (first, second) for run in runs_of(night)}) == 1
    assert "no baseline yet" in first["verdict"]["summary"]


def test_a_killed_night_goes_on_with_its_seeds_and_a_finished_one_does_not(
    trainer: Trainer, micro_plan: RunPlan
) -> None:
    trainer.fails_at = 2
    with pytest.raises(KeyboardInterrupt):
        run_night(micro_plan, Asked(preset="tiny", seeds=2), trainer)
    trainer.fails_at = None
    night = run_night(micro_plan, Asked(preset="tiny", seeds=2), trainer)
    assert len(nights(workspace.current().store)) == 1
    assert trainer.seeds[1] == trainer.seeds[2], "the second training went on under the same seed"
    assert [run["seed"] for run in night["runs"]] == [trainer.seeds[0], trainer.seeds[1]]
    assert run_night(micro_plan, ASKED, trainer)["run_id"] != night["run_id"]


def test_asking_again_for_a_finished_night_trains_nothing(trainer: Trainer, micro_plan: RunPlan) -> None:
    asked = Asked(preset="tiny", asked_by="flow run 7")
    night = run_night(micro_plan, asked, trainer)
    again = run_night(micro_plan, asked, trainer)
    assert (again["run_id"], len(trainer.seeds)) == (night["run_id"], 1)


def test_a_night_that_somebody_works_on_is_left_alone(trainer: Trainer, micro_plan: RunPlan) -> None:
    trainer.fails_at = 1
    with pytest.raises(KeyboardInterrupt):
        run_night(micro_plan, ASKED, trainer)
    [held] = nights(workspace.current().store)
    with workspace.current().store.lease("nightly", held["run_id"], owner="another machine"):
        assert run_night(micro_plan, ASKED, trainer)["run_id"] != held["run_id"]
    assert run_night(micro_plan, ASKED, trainer)["run_id"] == held["run_id"]


def test_a_regression_is_red_after_one_confirming_seed(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.values, judged.code = (lambda seed: noisy(seed) + 0.1), "worse"
    night = run_night(micro_plan, ASKED, judged)
    verdict = night["verdict"]
    assert (night["state"], verdict["num_looks"], len(judged.seeds)) == ("red", 2, 2)
    assert verdict["effect_sd"] > 5
    assert verdict["p_value"] < 1e-3
    assert verdict["multiplier"]["value"] < 1, "tonight needs more compute"
    finished = finish_night(night)
    assert finished.plot is not None
    assert finished.plot.read_bytes().startswith(b"\x89PNG")
    assert "# RED: tiny at" in finished.markdown
    assert "Of 2 false alarms a year the nights since have spent 0.01; 1 regression found in them." in finished.markdown
    with pytest.raises(RegressionError) as raised:
        raise_if_red(finished)
    assert raised.value.exit_code == 5
    assert f"{finished.search} finds the change" == raised.value.hint
    assert finished.search in finished.markdown


@pytest.mark.parametrize("kind", [ChecksFailedError, NonFiniteError])
def test_a_training_that_diverges_is_a_red_night(judged: Trainer, micro_plan: RunPlan, kind: type[Exception]) -> None:
    judged.fails_with = kind("pretrain is not published: better than guessing: found 9.1, wanted below 7.6")
    night = run_night(micro_plan, ASKED, judged)
    assert (night["state"], night["runs"], len(judged.seeds)) == ("red", [], 1)
    finished = finish_night(night)
    assert "found 9.1, wanted below 7.6" in finished.markdown
    with pytest.raises(RegressionError):
        raise_if_red(finished)
    judged.fails_with = None
    assert run_night(micro_plan, ASKED, judged)["state"] == "green", "the night after is one of its own"


@pytest.mark.parametrize(
    "error",
    [OSError("the disk is full"), ChecksFailedError("pretrain: last checkpoint is whole: found torn, wanted whole")],
)
def test_any_other_failure_leaves_the_night_open(judged: Trainer, micro_plan: RunPlan, error: Exception) -> None:
    judged.fails_with = error
    with pytest.raises(type(error)):
        run_night(micro_plan, ASKED, judged)
    assert nights(workspace.current().store)[-1]["state"] == "open"


def test_equal_nights_are_green_and_add_to_what_is_known_of_the_noise(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.values = noisy
    made = [run_night(micro_plan, ASKED, judged)["verdict"] for _ in range(6)]
    assert {verdict["outcome"] for verdict in made} == {"green"}
    assert made[-1]["degrees"] > made[0]["degrees"]


def test_as_many_seeds_are_trained_as_were_asked_for(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.values = lambda seed: 2.999
    night = run_night(micro_plan, Asked(preset="tiny", seeds=3), judged)
    assert (night["state"], night["verdict"]["num_looks"]) == ("green", 3)


def test_a_lasting_regression_stays_red_until_it_is_mended(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.code, judged.values = "worse", (lambda seed: noisy(seed) + 0.05)
    assert run_night(micro_plan, ASKED, judged)["state"] == "red"
    judged.values = lambda seed: 3.024  # not bad enough by itself
    second = run_night(micro_plan, ASKED, judged)
    assert (second["state"], second["verdict"]["decided_by"]) == ("red", "a regression that is not over")
    assert "not over" in second["verdict"]["summary"]
    judged.code, judged.values = "one", noisy
    assert [run_night(micro_plan, ASKED, judged)["state"] for _ in range(2)][-1] == "green"


def test_a_lasting_improvement_is_named_and_promotion_offered(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.code, judged.values = "better", (lambda seed: noisy(seed) - 0.04)
    made = [run_night(micro_plan, ASKED, judged) for _ in range(8)]
    verdict = made[-1]["verdict"]
    assert (verdict["outcome"], verdict["is_improved"]) == ("green", True)
    [note] = [note for note in verdict["notes"] if "is better" in note]
    assert "nanochat nightly promote" in note
    store = workspace.current().store
    baseline.promote(store, nights(store))
    judged.code, judged.values = "one", noisy
    assert "red" in [run_night(micro_plan, ASKED, judged)["state"] for _ in range(3)], "back to the old level"


def test_an_evaluation_that_is_no_number_is_red_and_a_metric_that_is_lost_is_said(
    judged: Trainer, micro_plan: RunPlan
) -> None:
    judged.loses_log, judged.values = True, (lambda seed: 2.999)
    night = run_night(micro_plan, ASKED, judged)
    rows = {row["name"]: row["state"] for row in night["verdict"]["rows"]}
    assert (night["state"], rows["tokens_per_s"], rows["memory_gib"]) == ("green", "lost", "lost")
    assert "tokens/s is missing, and the baseline has it: a warning" in night["verdict"]["notes"]
    judged.fails_with = ChecksFailedError("evaluate_base: bits per byte is a number: found nan, wanted finite")
    night = run_night(micro_plan, ASKED, judged)
    assert (night["state"], night["runs"]) == ("red", [])


def test_what_is_too_good_to_be_true_is_said(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.values = lambda seed: 2.0
    verdict = run_night(micro_plan, ASKED, judged)["verdict"]
    assert (verdict["outcome"], verdict["rows"][0]["state"]) == ("green", "suspect")
    assert any("look for a leak" in note for note in verdict["notes"])


def test_more_memory_is_red_and_other_settings_of_the_machine_are_not_compared(
    judged: Trainer, micro_plan: RunPlan
) -> None:
    judged.values, judged.memory_gib = (lambda seed: 2.999), 2.07
    night = run_night(micro_plan, ASKED, judged)
    assert night["state"] == "red"
    assert "peak memory, GiB is 3.5% worse" in night["verdict"]["summary"]
    config = replace(micro_plan.config, runtime=replace(micro_plan.config.runtime, num_threads=2))
    night = run_night(replace(micro_plan, config=config), ASKED, judged)
    assert night["state"] == "green"
    assert "memory_gib" not in {row["name"] for row in night["verdict"]["rows"]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"processes": (2,)}, "processes: 1 -> 2"),
        ({"processes": (1, 2)}, "processes: 1 -> 1 and 2"),  # it went on after a kill
        ({"torch": "2.11.0+cu130"}, "torch_build: cpu -> cu130"),
        ({"torch": "2.11.0"}, "torch_build: cpu -> default"),
    ],
)
def test_what_decides_bits_and_is_in_no_key_is_said_and_not_compared(
    judged: Trainer, micro_plan: RunPlan, changed: dict, said: str
) -> None:
    vars(judged).update(changed, values=lambda seed: 9.0)
    night = run_night(micro_plan, ASKED, judged)
    assert night["state"] == "unjudged"
    assert said in night["verdict"]["summary"]


def test_a_release_of_torch_is_judged(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.torch = "2.12.0+cpu"
    assert run_night(micro_plan, ASKED, judged)["state"] in ("green", "red")


def test_a_search_compares_no_runs_of_other_conditions(trainer: Trainer, micro_plan: RunPlan, tmp_path: Path) -> None:
    told: list[str] = []
    search = Search(repository=tmp_path, asked=ASKED, tell=told.append)
    for processes in ((1,), (2,)):
        trainer.processes = processes
        for run in runs_of(run_night(micro_plan, Asked(preset="tiny", seeds=2), trainer)):
            search.known.setdefault(run.recipe, []).append(run)
    [(recipe, every)] = search.known.items()
    alone = [run for run in every if run.conditions["processes"] == 1]
    assert search._as_asked(recipe) == alone, "tiny trains with one process"
    search._keep_comparable(alone[-1].conditions)
    assert search.known == {recipe: alone}
    assert told == ["2 of 4 runs are of other conditions and left out (processes: 2 -> 1)"]


def test_a_search_refuses_a_training_that_it_cannot_compare(
    trainer: Trainer, micro_plan: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run] = runs_of(run_night(micro_plan, ASKED, trainer))
    search = Search(repository=tmp_path, asked=ASKED, tell=print, conditions=run.conditions)
    trainer.processes = (2,)  # another search left such a training in the store
    refs = [[ref.step, ref.fingerprint] for ref in trainer(with_seed(micro_plan, 7))]
    monkeypatch.setattr(search, "_candidate", lambda tree, seed: {"refs": refs})
    with pytest.raises(ConfigError, match="processes: 1 -> 2"):
        search._train(tmp_path, run.recipe)


def test_another_machine_is_said_and_not_compared(judged: Trainer, micro_plan: RunPlan) -> None:
    judged.device, judged.values = "NVIDIA H100 80GB HBM3", lambda seed: 9.0
    night = run_night(micro_plan, ASKED, judged)
    assert night["state"] == "unjudged"
    assert "device: cpu -> NVIDIA H100 80GB HBM3" in night["verdict"]["summary"]


def test_speed_warns_on_a_cpu_and_fails_the_second_night_on_a_gpu(trainer: Trainer, micro_plan: RunPlan) -> None:
    store = workspace.current().store
    for device, states in (("cpu", ["green", "green"]), ("NVIDIA H100 80GB HBM3", ["green", "red"])):
        trainer.device, trainer.values, trainer.step_ms = device, noisy, 10.0
        run_night(micro_plan, Asked(preset="tiny", seeds=8), trainer)
        baseline.promote(store, nights(store))
        trainer.values, trainer.step_ms = (lambda seed: 2.999), 11.0
        made = [run_night(micro_plan, ASKED, trainer) for _ in range(2)]
        rows = {row["name"]: row for row in made[-1]["verdict"]["rows"]}
        assert [night["state"] for night in made] == states
        assert rows["tokens_per_s"]["state"] == ("warn" if device == "cpu" else "fail")
        assert rows["tokens_per_s"]["told"] == "is 9.1% worse"
        assert rows["warmup_s"]["value"] == pytest.approx(0.099)
        assert ("bf16_mfu" in rows) == (device != "cpu")


@pytest.mark.parametrize(
    ("slower", "state", "told"),
    [
        (1.1, "green", "is 9.1% worse, 0.0% better at equal speed of the machine"),
        (1.0, "red", "is 9.1% worse, 9.1% worse at equal speed of the machine"),
        (1.05, "red", "is 9.1% worse, 4.5% worse at equal speed of the machine"),
        (0.9, "red", "is 9.1% worse, 18.2% worse at equal speed of the machine"),
    ],
)
def test_a_slower_machine_is_no_slower_code(
    trainer: Trainer, micro_plan: RunPlan, slower: float, state: str, told: str
) -> None:
    trainer.device, trainer.values, trainer.machine_tflops = "NVIDIA H100 80GB HBM3", noisy, 600.0
    run_night(micro_plan, Asked(preset="tiny", seeds=8), trainer)
    baseline.promote(workspace.current().store, nights(workspace.current().store))
    trainer.values, trainer.step_ms, trainer.machine_tflops = (lambda seed: 2.999), 11.0, 600.0 / slower
    night = [run_night(micro_plan, ASKED, trainer) for _ in range(2)][-1]
    rows = {row["name"]: row for row in night["verdict"]["rows"]}
    assert (night["state"], rows["tokens_per_s"]["told"]) == (state, told)
    assert (rows["machine_tflops"]["state"] == "warn") == (slower > 1), "said beside it"


def test_what_a_baseline_rests_on_is_kept_and_a_red_night_is_not_in_it(judged: Trainer, micro_plan: RunPlan) -> None:
    store = workspace.current().store
    judged.values, judged.code = (lambda seed: noisy(seed) + 0.5), "worse"
    red = run_night(micro_plan, ASKED, judged)
    _, runs = baseline.promote(store, nights(store))
    assert not {run.fingerprint for run in runs} & {run["fingerprint"] for run in red["runs"]}
    name, accepted = baseline.promote(store, nights(store), night=red["run_id"], is_same_recipe=True)
    assert [run.fingerprint for run in accepted] == [run["fingerprint"] for run in red["runs"]]
    conditions = accepted[0].conditions
    assert baseline.find(store, conditions).name == name
    for run_id in store.runs():
        (store.files.folder / f"runs/{run_id}.json").unlink()  # type: ignore[operator]
    plan = make_plan(store, Policy(keep_runs=0, keep_days=0, grace_s=0))
    doomed = {item.key for item in plan.items if item.kind == "manifest"}
    assert doomed
    assert not [key for run in (*runs, *accepted) for key in doomed if run.fingerprint in key and "pretrain/" in key]


def test_a_baseline_takes_two_runs(trainer: Trainer, micro_plan: RunPlan) -> None:
    store = workspace.current().store
    with pytest.raises(MissingError, match="no finished night"):
        baseline.promote(store, nights(store))
    run_night(micro_plan, ASKED, trainer)
    with pytest.raises(MissingError, match="two or more"):
        baseline.promote(store, nights(store))


def test_the_search_of_a_red_night_can_be_pasted_as_it_is() -> None:
    def night(commit: str, state: str, day: int, *overrides: str) -> dict[str, object]:
        source = {"git_commit": commit * 4}
        return {"preset": "tiny", "overrides": list(overrides), "state": state, "source": source,
                "started_at": f"2026-11-{day:02}T02:00:00"}  # fmt: skip

    own = ("corpus.path=/my texts/*.txt", "corpus.source=path")
    red = night("badbad", "red", 9, *own, "runtime.num_threads=1")
    history = [night("ccc000", "green", 5, *own), night("aaa111", "green", 6), night("ddd222", "red", 7, *own), red]
    words = shlex.split(search_command(red, history))
    assert words[:7] == ["nanochat", "nightly", "bisect", "--good", "ccc000ccc000", "--bad", "badbadbadbad"]
    assert words[7:] == ["--preset", "tiny", "--set", own[0], "--set", own[1], "--set", "runtime.num_threads=1"]
    assert "--good COMMIT " in search_command(red, [red])
