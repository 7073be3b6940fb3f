"""What short trainings decide before a night's own: equal bits, pairs, or nothing; the trainings are made up."""

from dataclasses import asdict, replace

import pytest

from nanochat_core import workspace
from nanochat_core.gate import night, probe
from nanochat_core.gate.finish import comparable, finish_night
from nanochat_core.gate.night import Asked, Night, nights, run_night
from nanochat_core.gate.verdict import markdown
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from tests.core.gate.conftest import Trainer
from tests.core.gate.test_night import noisy, settle

ASKED = Asked(preset="tiny")
NUM_PROBES, NUM_TWINS = len(probe.SEEDS), probe.NUM_TWINS


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return plan_run(load_config("tiny", []))


@pytest.fixture
def judged(trainer: Trainer, plan: RunPlan) -> Trainer:
    """A trainer with a baseline of eight runs in two nights behind it."""
    trainer.rate = plan.config.pretrain.matrix_lr
    return settle(trainer, plan, num_nights=2, seeds=4)


def worse(frac: float):
    return lambda seed: noisy(seed) * (1 + frac)


def told(record: Night) -> str:
    return " ".join(record["verdict"]["notes"])


def test_a_probe_has_a_complete_schedule_in_few_steps_and_a_twin_one_unit_more(plan: RunPlan) -> None:
    short, twin = probe.plan_of(plan, 7), probe.plan_of(plan, 7, twin=1)
    assert short.pretrain.num_steps == probe.STEPS == short.pretrain.schedule.num_steps
    assert short.pretrain.total_batch_tokens == plan.pretrain.total_batch_tokens
    assert short.config.seed == 7
    rates = [each.config.pretrain.matrix_lr for each in (short, twin)]
    assert rates[0] < rates[1] < rates[0] * (1 + 2e-7)


def test_a_night_that_is_hardly_longer_than_a_probe_has_none(plan: RunPlan, micro_plan: RunPlan) -> None:
    assert probe.fits(plan)
    assert not probe.fits(micro_plan)


def test_the_same_code_is_green_after_one_short_training(judged: Trainer, plan: RunPlan) -> None:
    record = run_night(plan, ASKED, judged)
    assert (record["state"], record["verdict"]["decided_by"]) == ("green", "equal bits")
    assert judged.seeds == [probe.SEEDS[0]]
    assert record["runs"] == []
    assert "Decided by equal bits" in markdown(record)


def test_a_change_of_words_only_is_green_as_well(judged: Trainer, plan: RunPlan) -> None:
    judged.code, judged.weights = "one, renamed", "one"
    assert run_night(plan, ASKED, judged)["verdict"]["decided_by"] == "equal bits"


@pytest.mark.parametrize("change", ["memory", "evaluation", "a week", "full", "seeds"])
def test_equal_bits_are_not_enough(
    judged: Trainer, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "memory":
        judged.memory_gib *= 1.1
    elif change == "evaluation":
        monkeypatch.setattr(night, "_evaluations", lambda plan: ["evaluate_base", "evaluate_chat"])
    elif change == "a week":
        monkeypatch.setattr(probe, "FULL_DAYS", -1.0)
    record = run_night(plan, replace(ASKED, is_full=change == "full", seeds=2 if change == "seeds" else 1), judged)
    assert len(record["runs"]) >= (2 if change == "seeds" else 1), "it was trained in full"
    is_other = change == "evaluation"  # equal bits that something else measures: pairs are asked
    assert len(judged.seeds) - len(record["runs"]) == (NUM_PROBES + NUM_TWINS if is_other else 1)
    assert record["state"] == ("red" if change == "memory" else "green")


def test_pairs_see_what_no_night_could(judged: Trainer, plan: RunPlan) -> None:
    judged.code, judged.values = "two", worse(0.002)  # half a standard deviation of a night
    record = run_night(plan, ASKED, judged)
    assert (record["state"], record["verdict"]["decided_by"]) == ("red", "a paired probe")
    assert len(judged.seeds) == NUM_PROBES + NUM_TWINS
    assert record["verdict"]["effect_frac"] == pytest.approx(0.002, rel=0.01)
    assert "--full" in told(record)
    assert run_night(plan, replace(ASKED, is_full=True), judged)["runs"], "and it can be trained all the same"


def test_what_a_last_bit_explains_is_trained_in_full_and_twins_are_made_once(judged: Trainer, plan: RunPlan) -> None:
    judged.code, judged.values = "two", worse(0.0001)
    first = run_night(plan, ASKED, judged)
    assert first["state"] == "green"
    assert first["verdict"]["decided_by"] == "this night"
    assert "a probe of" in told(first)
    before = len(judged.seeds)
    judged.code = "three"
    second = run_night(plan, ASKED, judged)
    assert len(judged.seeds) - before == NUM_PROBES + len(second["runs"]), "the twins of the night before"


def test_pairs_that_do_not_pay_decide_nothing(judged: Trainer, plan: RunPlan) -> None:
    judged.code, judged.values, judged.twin_frac = "two", worse(0.002), 0.01
    record = run_night(plan, ASKED, judged)
    assert record["runs"]
    assert "pairs do not pay" in told(record)


@pytest.mark.parametrize("change", ["device", "packages"])
def test_probes_of_another_machine_or_of_other_packages_are_no_pairs(
    judged: Trainer, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    judged.values = worse(0.002)
    if change == "device":
        judged.device = "NVIDIA H100"
    else:
        monkeypatch.setattr(night, "_surroundings", lambda *given: {"around": "others", "evaluation": "the same"})
    record = run_night(plan, ASKED, judged)
    assert record["runs"]
    assert record["probe"]["twins"] == []


def test_a_killed_probe_goes_on_with_the_training_that_was_killed(judged: Trainer, plan: RunPlan) -> None:
    judged.code, judged.values, judged.fails_at = "two", worse(0.0001), 2
    with pytest.raises(KeyboardInterrupt):
        run_night(plan, ASKED, judged)
    judged.fails_at = None
    assert run_night(plan, ASKED, judged)["state"] == "green"
    assert judged.seeds[:3] == [probe.SEEDS[0], probe.SEEDS[1], probe.SEEDS[1]]


def test_the_picture_has_nights_that_a_probe_decided(judged: Trainer, plan: RunPlan) -> None:
    run_night(plan, ASKED, judged)
    judged.code, judged.values = "two", worse(0.002)
    record = run_night(plan, ASKED, judged)
    assert [each["state"] for each in comparable(nights(workspace.current().store))] == [
        *["unjudged"] * 2,
        "green",
        "red",
    ]
    finished = finish_night(record)
    assert finished.plot is not None
    assert finished.plot.stat().st_size > 10_000


def test_a_probe_survives_its_record() -> None:
    made = probe.Probe(40, "a", "b")
    assert probe.Probe.from_record(asdict(made)) == made


def test_equal_pairs_are_no_regression_and_one_of_no_noise_is() -> None:
    pairs = probe.Pairs(effect_frac=0.0, effect_twin_sd=0.0, p_value=0.5, twin_sd=1e-5, seed_sd=1e-3, num_pairs=3)
    assert not pairs.is_red(budget=2.0)
    assert replace(pairs, p_value=1e-5).is_red(budget=2.0)
    assert not replace(pairs, p_value=1e-4).is_red(budget=0.1)
    assert pairs.correlation > 0.99
