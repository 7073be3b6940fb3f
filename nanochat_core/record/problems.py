"""What a check found: which file, where in it, what is wrong; and comparing two values field by field.

Floats that were computed again may differ in their last bits between machines, so they agree within `TOLERANCE`;
everything else agrees exactly, and a 1 is not a true.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nanochat_core.base.errors import CorruptError
from nanochat_core.base.foreign import loads
from nanochat_core.base.text import MARK_UTF8, decode, one_line

MAX_PROBLEMS = 1_000
MAX_WHERE_CHARS, MAX_TEXT_CHARS = 200, 500  # of a problem's line: a field's name may be a megabyte
TOLERANCE = 1e-9  # relative, for numbers that are computed again from the same inputs


@dataclass(frozen=True, order=True)
class Problem:
    """One reason to refuse a bundle."""

    file: str
    where: str
    """A line, a field, or both; empty: the file as a whole."""
    text: str

    def __str__(self) -> str:
        """One line, whatever the file's names and values hold."""
        where = f"{one_line(self.where)[:MAX_WHERE_CHARS]} " if self.where else ""
        return f"{one_line(self.file)}: {where}{one_line(self.text)[:MAX_TEXT_CHARS]}"


class Problems(list[Problem]):
    """The reasons so far. A file of a million faults has as many; after `MAX_PROBLEMS` it is enough."""

    def append(self, problem: Problem) -> None:
        if len(self) < MAX_PROBLEMS:
            super().append(problem)
        elif len(self) == MAX_PROBLEMS:
            super().append(Problem(problem.file, "", f"and more: {MAX_PROBLEMS:,} problems are listed, not all"))

    def extend(self, problems: Iterable[Problem]) -> None:
        for problem in islice(problems, MAX_PROBLEMS + 1):
            self.append(problem)

    def __iadd__(self, problems: Iterable[Problem]) -> "Problems":  # type: ignore[override,misc]
        self.extend(problems)
        return self


def is_close(value: Any, expected: float, *, tolerance: float = TOLERANCE) -> bool:
    """Whether `value` is a finite number that agrees with `expected`."""
    return is_number(value) and math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-12)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def shown(value: Any) -> str:
    """A value as a problem quotes it: JSON, cut to a line."""
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def differences(claimed: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, claimed, found) wherever two JSON values differ; what only one side has shows as `ABSENT`."""
    if isinstance(claimed, Mapping) and isinstance(found, Mapping):
        for key in sorted(claimed.keys() | found.keys()):
            yield from differences(claimed.get(key, ABSENT), found.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        for index, (ours, theirs) in enumerate(zip(claimed, found, strict=True)):
            yield from differences(ours, theirs, f"{path}[{index}]")
    elif not _agree(claimed, found):
        yield path, claimed, found


def _agree(claimed: Any, found: Any) -> bool:
    if isinstance(claimed, float) and isinstance(found, float):
        return is_close(claimed, found)
    return type(claimed) is type(found) and claimed == found


class _Absent:
    """Stands for a field that is not there."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def read_json(content: bytes, *, where: str) -> Any:
    """JSON as we write it: UTF-8, no NaN, no field twice (of two, readers take different ones)."""
    try:
        if content.startswith(MARK_UTF8):
            raise ValueError("it starts with a byte order mark, so an editor saved it anew")
        return loads(decode(content, where, error=CorruptError), object_pairs_hook=_unique, is_strict=True)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is not JSON as we write it: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the field {shown(name)} is there twice")
    return fields
