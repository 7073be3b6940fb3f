"""The short trainings before a night's own: the same bits as the baseline's, or a difference that pairs can see.

A probe is the night's pretraining with a complete schedule in a hundred steps, at seeds that all nights share. So two
nights' probes are pairs. Equal weights after it, of the same packages, text and evaluation, mean that nothing that
decides the result has changed. Where they differ, the difference of the pairs is compared with that of *twins*: the
same code with Muon's rate changed by one unit in the last place of an fp32 number, which is what another order of the
same additions does. Twins scatter by a tenth and less of what seeds do while a training is short (docs/nightly.md),
so a pair sees what a night cannot. Where they do not, or where another machine, other packages or another text stand
between, nights are compared as wholes (gate/verdict.py).

Pure: measured trainings in, findings out; gate/night.py trains.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nanochat_core.gate.compared import Row, compare
from nanochat_core.gate.metrics import PRIMARY, NightRun
from nanochat_core.gate.rule import BUDGET
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.record.significance import student_t_tail

STEPS = 100  # at 40 a tenth less of Muon's rate is not seen, at 100 by 10 sd of twins; past 800 pairs stop paying
MIN_SHARE = 4  # a night of fewer than so many probes is its own
SEEDS = (1_000_003, 1_000_033, 1_000_037)
NUM_TWINS = 2 * len(SEEDS)  # each seed's rate a unit up, and a unit down
UNIT = 2.0**-23  # of the last place of an fp32 number near 1
ALARM = 0.0003  # chance of an alarm in a probe, at the usual budget: a tenth of a false alarm a year
PAYS = 0.65  # twins scatter by less than this share of the seeds: their correlation is above 0.58
FULL_DAYS = 7.0  # equal bits say nothing about the machine's long hours: a night in full at least so often


@dataclass(frozen=True)
class Probe:
    """What a night's short trainings measured."""

    steps: int
    around: str
    """Digest of packages and text: probes of others are no pairs."""
    evaluation: str
    """Digest of what measures the night's models."""
    runs: tuple[NightRun, ...] = ()
    """One for each of the first of SEEDS."""
    twins: tuple[NightRun, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Probe":
        runs, twins = (tuple(map(NightRun.from_record, record[name])) for name in ("runs", "twins"))
        return cls(record["steps"], record["around"], record["evaluation"], runs, twins)

    def is_pair_of(self, other: "Probe") -> bool:
        """Whether the seeds that both have are comparable one by one."""
        return (
            (self.steps, self.around) == (other.steps, other.around)
            and bool(self.runs and other.runs)
            and self.runs[0].conditions == other.runs[0].conditions
        )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A night's probe against the baseline's, seed by seed."""

    effect_frac: float
    """Of bits per byte; above 0 is worse."""
    effect_twin_sd: float
    p_value: float
    twin_sd: float
    seed_sd: float
    num_pairs: int

    @property
    def correlation(self) -> float:
        """Of two trainings with one seed: twins share all but what a last bit grows into."""
        return 1 - self.twin_sd**2 / (2 * self.seed_sd**2) if self.seed_sd else 1.0

    def is_red(self, *, budget: float) -> bool:
        return self.pays and self.p_value < ALARM * budget / BUDGET

    @property
    def pays(self) -> bool:
        return self.twin_sd < PAYS * self.seed_sd

    def told(self) -> str:
        told = f"{abs(self.effect_frac):.3%} {'worse' if self.effect_frac > 0 else 'better'} than the baseline at equal"
        return f"{told} seeds ({self.effect_twin_sd:+.1f} sd of twins, p = {self.p_value:.2g}, {self.num_pairs} pairs)"


def fits(plan: RunPlan) -> bool:
    """Whether a night is long enough for a probe before it."""
    return plan.pretrain.num_steps >= MIN_SHARE * STEPS


def plan_of(plan: RunPlan, seed: int, *, twin: int = 0, steps: int = STEPS) -> RunPlan:
    """A probe's training; `twin`: units in the last place by which Muon's rate differs.

    It is made anew even where it is in the store: what it measures is this machine, tonight.
    """
    batch = plan.pretrain.total_batch_tokens
    pretrain = dataclasses.replace(
        plan.config.pretrain,
        total_batch_tokens=batch,
        max_tokens=steps * batch,
        matrix_lr=plan.config.pretrain.matrix_lr * (1 + twin * UNIT),
        validate_every_steps=None,
    )
    core = dataclasses.replace(plan.config.core, source="none")
    config = dataclasses.replace(plan.config, seed=seed, pretrain=pretrain, core=core)
    return dataclasses.replace(plan, config=config, pretrain=plan_run(config).pretrain, fresh=("pretrain",))


def twins_wanted() -> list[tuple[int, int]]:
    """(seed, units) of each."""
    return [(seed, units) for seed in SEEDS for units in (1, -1)]


def has_equal_bits(tonight: Probe, before: Probe) -> bool:
    """Whether both made the same weights, which the same evaluation measures."""
    return (
        tonight.is_pair_of(before)
        and tonight.evaluation == before.evaluation
        and tonight.runs[0].weights == before.runs[0].weights
    )


def twin_differences(probe: Probe) -> list[float]:
    """Of each twin from the training that it is the twin of; relative."""
    own = {run.seed: run.metrics[PRIMARY] for run in probe.runs}
    return [twin.metrics[PRIMARY] / own[twin.seed] - 1 for twin in probe.twins if twin.seed in own]


def compare_pairs(tonight: Probe, before: Probe, twins: Sequence[float]) -> Pairs | None:
    """The difference of the pairs against that of twins (twin_differences); None: there are too few of either."""
    ours, theirs = ({run.seed: run.metrics[PRIMARY] for run in each.runs} for each in (tonight, before))
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) < 2 or len(twins) < 2:
        return None
    effect = fmean(ours[seed] / theirs[seed] - 1 for seed in shared)
    twin_sd = math.sqrt(fmean(each**2 for each in twins))  # about none: twins are no better and no worse
    error = twin_sd / math.sqrt(len(shared))
    at = effect / error if error else math.copysign(math.inf, effect) if effect else 0.0
    location = fmean(theirs.values())
    return Pairs(
        effect_frac=effect,
        effect_twin_sd=effect / twin_sd if twin_sd else at,
        p_value=student_t_tail(at, len(twins)) if math.isfinite(at) else float(at < 0),
        twin_sd=twin_sd,
        seed_sd=stdev(value / location for value in theirs.values()),
        num_pairs=len(shared),
    )


def compare_machine(tonight: Probe, before: Sequence[Probe]) -> list[Row]:
    """Speed and memory of the probe against those of the baseline's nights, by the night's own rules."""
    known = [probe.runs[0] for probe in before if tonight.is_pair_of(probe)]
    rows = compare(tonight.runs[:1], known, known[-1:], None)
    return [row for row in rows if row.name != PRIMARY]
