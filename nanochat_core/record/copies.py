"""Runs of one record that are one run under several seeds.

A seed decides the first weights and the order of the rows, so runs of two seeds have nothing in common that was
measured: on 60 steps of a tiny model their losses differ by 1.6% in the middle and their steps' times by 17%, and at
depth 24 final bits per byte still differ by some 8e-5. Equal weights, equal numbers, numbers that differ in their last
digits and losses that move up and down together are those of a copy. Whoever makes up a whole curve is not found out.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations, pairwise
from statistics import correlation
from typing import Any

from nanochat_core.record.evidence import UNCHECKABLE, WEIGHTS, Evidence
from nanochat_core.record.problems import Problem, Problems, is_number

NEAR = 2e-5  # relative: between two losses of a step there is more, between a number and its copy hardly
NEAR_SECONDS = 1e-6
NEAR_VALIDATIONS = 5e-6
NEAR_SHARE = 0.1  # of numbers that may be near each other by chance; of two seeds it is one in a hundred
LEAST_NUMBERS = 3
SAME_DRAWS = 0.9  # correlation of the losses' changes; of two seeds, which see other rows, it is near 0
LEAST_STEPS = 20  # for a correlation
SAMPLES = 1_000  # steps or items that are looked at
EPOCHS_APART = 4  # batches that the rows must give for an order of theirs to matter


def check_copies(runs: Sequence[Evidence], *, file: str) -> list[Problem]:
    """What the runs of one record have in common and runs of several seeds could not."""
    problems = Problems()
    for one, other in combinations([_Run(evidence) for evidence in runs], 2):
        try:
            common = list(_in_common(one, other))
        except UNCHECKABLE as error:
            problems.append(Problem(file, "claims.seeds", f"cannot be compared: {type(error).__name__}: {error}"))
            continue
        for what in common:
            text = f"{one.run_id} and {other.run_id} have {what}: one run under two seeds, or a copy"
            problems.append(Problem(file, "claims.seeds", text))
    return problems


class _Run:
    """What was measured of one run, as far as it is there."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.run_id = evidence, evidence.run_id

    @cached_property
    def weights(self) -> set[str]:
        artifact = self.evidence.manifests.get("pretrain")
        return {entry.sha256 for name, entry in artifact.files.items() if name in WEIGHTS} if artifact else set()

    @cached_property
    def losses(self) -> list[float]:
        return self._of_log("step", "loss")

    @cached_property
    def seconds(self) -> list[float]:
        return self._of_log("step", "step_ms")

    @cached_property
    def validations(self) -> list[float]:
        return self._of_log("validate", "bits_per_byte")

    @cached_property
    def items(self) -> list[float]:
        """Losses of the choices in CORE."""
        rows = _sampled(self.evidence.outcomes or [])
        losses = [row.get("losses") for row in rows]
        return [loss for each in losses if isinstance(each, list) for loss in each if is_number(loss)]

    @cached_property
    def draws_matter(self) -> bool:
        """Whether there are so many rows that their order decides what a step sees."""
        tokens, plan = self.evidence.manifests.get("tokens"), self.evidence.plan
        num_rows = tokens.metrics.get("train_rows") if tokens else None
        if plan is None or num_rows is None or not is_number(num_rows):
            return False
        return bool(num_rows >= EPOCHS_APART * plan.pretrain.total_batch_rows)

    def _of_log(self, event: str, name: str) -> list[float]:
        return _sampled([record[name] for record in self.evidence.records if record["event"] == event])


def _sampled(values: list[Any]) -> list[Any]:
    return values[:: max(1, -(-len(values) // SAMPLES))]


def _in_common(one: _Run, other: _Run) -> Iterator[str]:
    if one.weights & other.weights:
        yield "the same weights"
    if one.losses[:1] == other.losses[:1] != []:
        yield "the same first loss, though their first weights differ"
    if _near_share(one.losses, other.losses, NEAR) > NEAR_SHARE:
        yield "the same losses"
    elif one.draws_matter and other.draws_matter and _moves_together(one.losses, other.losses) > SAME_DRAWS:
        yield "losses that move together, as of the same draws of data"
    if _near_share(one.seconds, other.seconds, NEAR_SECONDS) > NEAR_SHARE:
        yield "steps that took the same times"
    if _near_share(one.validations, other.validations, NEAR_VALIDATIONS) == 1:
        yield "the same validations"
    if _near_share(one.items, other.items, NEAR) > 0.5:
        yield "the same losses in CORE"


def _near_share(ours: list[float], theirs: list[float], tolerance: float) -> float:
    """The share of numbers at the same places that agree, of those that both have; 0 where these are too few."""
    pairs = list(zip(ours, theirs, strict=False))
    if len(pairs) < LEAST_NUMBERS:
        return 0.0
    return sum(abs(a - b) <= tolerance * abs(b) for a, b in pairs) / len(pairs)


def _moves_together(ours: list[float], theirs: list[float]) -> float:
    """The correlation of their changes from step to step, in the later half: early on all losses fall alike."""
    length = min(len(ours), len(theirs))
    if length < 2 * LEAST_STEPS:
        return 0.0
    changes = [[b - a for a, b in pairwise(losses[length // 2 : length])] for losses in (ours, theirs)]
    if any(max(each) - min(each) == 0 for each in changes):
        return 0.0
    return correlation(*changes)
