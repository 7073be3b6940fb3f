"""What cleaning took out of a corpus, and what it nearly did: the records that each step leaves beside its text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError
from nanochat_core.data import shards
from nanochat_core.look.documents import named
from nanochat_core.look.run_data import NEAR, REMOVED

if TYPE_CHECKING:
    from nanochat_core.look.run_data import RunData

COLUMNS = ("text", "file", "line", "rule", "twin", "score")


@dataclass(frozen=True, kw_only=True)
class RemovedDocument:
    """A document that is not in the text any more, or nearly was not."""

    step: str
    """That took it out."""
    is_kept: bool
    """It was only near the line."""
    text: str
    file: str
    line: int
    rule: str
    twin: str
    """What stayed in its place."""
    score: float | None

    def shown(self, most_chars: int) -> dict[str, Any]:
        """As JSON, with so much of the text."""
        return {**vars(self), "text": self.text[:most_chars], "num_chars": len(self.text)}


def removed(run: "RunData", *, is_kept: bool = False, rule: str = "", wanted: str = "") -> Iterator[RemovedDocument]:
    """Documents that cleaning took out (`is_kept`: that were near), of one rule and with one text where asked for."""
    steps = run.cleaned
    if not steps:
        raise MissingError(f"no step of {run.run_id} cleans the text", hint="docs/data.md says which there are")
    folder = NEAR if is_kept else REMOVED
    for step in steps:
        artifact = run.of(step)
        names = sorted(name for name in artifact.files if name.startswith(f"{folder}/"))
        where = run.folder(artifact, f"{folder}/") if names else None
        for name in names:
            assert where is not None
            source = shards.source_of(name.rpartition("/")[2].partition("-")[2])
            for batch in pq.ParquetFile(where / name).iter_batches(batch_size=256, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    rules = (row["rule"] or "").split(", ")
                    text = row["text"] or ""
                    if (rule and rule not in rules) or wanted.casefold() not in text.casefold():
                        continue
                    yield RemovedDocument(
                        step=step, is_kept=is_kept, text=text, file=named(row["file"], source), line=row["line"] or 0,
                        rule=row["rule"] or "", twin=row["twin"] or "", score=row["score"],
                    )  # fmt: skip
