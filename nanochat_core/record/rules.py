"""The rules that a record was written under, and what it may lack by them.

A record carries their number, and its ledger the whole configuration. What a later version asks for besides (a new
claim, a new setting in an identity) is not asked of a record of before: it is absent there, and that is as good as its
neutral value. Whoever changes what a claim means raises `CURRENT`, keeps the old way for the old number, and leaves a
record of the old rules in tests/golden/records, which stays sound.

1: records without a number (0.1 to 0.3's beginnings); 2: which steps were made by which code.
"""

import dataclasses
import re
from functools import cache
from typing import Any

from nanochat_core.base.neutral import NEUTRAL, ONCE_ABSENT
from nanochat_core.config import GPTConfig, RunConfig
from nanochat_core.record.problems import ABSENT

FIRST, CURRENT = 1, 2
ANY = object()
LATER_CLAIMS: dict[str, tuple[int, Any]] = {
    "claims.core_is_whole": (2, ANY),  # some records of 1 have it
    "claims.runs[].steps_by_code": (2, []),
}
"""Claim -> the first rules that ask for it, and the value that a record of before stands for."""


def is_known(number: Any) -> bool:
    """Whether this version has the rules of this number."""
    return type(number) is int and FIRST <= number <= CURRENT


def may_lack_claim(path: str, claimed: Any, derived: Any, *, rules: int) -> bool:
    """Whether a claim that is not there was none yet when the record was written."""
    since, value = LATER_CLAIMS.get(re.sub(r"\[\d+\]", "[]", path), (FIRST, None))
    return claimed is ABSENT and rules < since and (value is ANY or derived == value)


def may_lack_setting(path: str, claimed: Any, derived: Any) -> bool:
    """Whether a setting that is not there came later and stands at the value that is as good as absent."""
    values = _neutral().get(path.rpartition(".")[2], ())
    return claimed is ABSENT and any(type(value) is type(derived) and value == derived for value in values)


@cache
def _neutral() -> dict[str, tuple[Any, ...]]:
    found = dict(ONCE_ABSENT)
    kinds: list[Any] = [GPTConfig, *(field.default_factory for field in dataclasses.fields(RunConfig))]
    for kind in filter(dataclasses.is_dataclass, kinds):
        fields = (field for field in dataclasses.fields(kind) if NEUTRAL in field.metadata)
        found |= {field.name: (field.metadata[NEUTRAL],) for field in fields}
    return found
