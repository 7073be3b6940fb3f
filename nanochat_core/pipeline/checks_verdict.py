"""What a quality check says, and the end of a step that did not pass one.

A step's checks (checks.py) look at what its body made, before it is published. Each says what was found and what was
wanted; all of it goes into the manifest, so that an artifact shows what was known of it. When one does not pass, the
step fails and nothing is published: what would have followed never starts. Apart from checks.py, whose code is part of
a step's key: the wording of a hint must not cost a training.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_core.base.errors import NanochatError

METRIC = "checks"  # where they are among an artifact's metrics
HINTS = {
    "no validation text in training": "look at the corpus for repeated files; bits per byte would measure memory",
    "same text after decoding": "an edit in the tokenizer, or in how documents are encoded, loses bytes",
    "bytes per token": "the vocabulary does not fit the text, or token_bytes.npy does not fit the vocabulary",
    "loss is a number": "look at the loss in the step's log; a lower learning rate, or less fp8, may mend it",
    "better than guessing": "the model has learnt nothing or has diverged; look at the loss curve in the step's log",
    "weights are numbers": "look at the loss in the step's log for where it went wrong",
    "last checkpoint is whole": "retry the step: it goes on from the checkpoint before; look at the disk as well",
    "reward is a share": "look at the held-out answers in the step's log",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    check: str
    found: str
    wanted: str
    is_passed: bool


class ChecksFailedError(NanochatError):
    """A step made something that is not fit to be used; `checks` holds all its checks."""

    def __init__(self, message: str, *, hint: str | None = None, checks: Sequence[Check] = ()) -> None:
        super().__init__(message, hint=hint)
        self.checks = list(checks)


def require(step: str, checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as part of the metrics, when all of them passed."""
    failed = [check for check in checks if not check.is_passed]
    if failed:
        told = "; ".join(f"{check.check}: found {check.found}, wanted {check.wanted}" for check in failed)
        raise ChecksFailedError(
            f"{step} did not pass its checks and is not published: {told}",
            hint=HINTS.get(failed[0].check),
            checks=checks,
        )
    return {METRIC: [asdict(check) for check in checks]} if checks else {}


def checks_of(metrics: dict[str, Any]) -> list[Check]:
    """The checks that an artifact passed; none where it was made before there were any."""
    return [Check(**held) for held in metrics.get(METRIC, [])]
