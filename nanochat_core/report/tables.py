"""Rows of text under headers: one table for a page and for markdown.

A page's template reads the fields; what only a terminal shows is cli/output.table's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Headers and rows; `numbers` are the columns that are set to the right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Collection[int] = ()

    def is_number(self, column: int) -> bool:
        return column in self.numbers

    def markdown(self) -> str:
        """As GitHub and Prefect show it; cells of other people have to be escaped before (markdown.plain)."""
        rule = ["---:" if self.is_number(column) else "---" for column in range(len(self.headers))]
        return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (self.headers, rule, *self.rows))
