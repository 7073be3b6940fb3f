"""The questions that a look at a run's data asks, each answered as JSON values.

`nanochat data show` prints them and the page of `nanochat serve` draws them. Nothing here writes.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from nanochat_core.base.errors import MissingError
from nanochat_core.data import shards
from nanochat_core.look import lineage
from nanochat_core.look.documents import Documents
from nanochat_core.look.removed import removed
from nanochat_core.look.rows import TextRows
from nanochat_core.look.run_data import SPLITS, RunData
from nanochat_core.look.scores import scored
from nanochat_core.look.talks import TalkRows

MOST_AT_ONCE = 200
CHARS = 2000  # of a document among others
WHOLE_CHARS = 200_000  # of one that was asked for
LISTED_CHARS = 160
CURVE_POINTS = 2000
Rows = TextRows | TalkRows
Training = Literal["pretrain", "sft"]
ROWS_OF = {"pretrain": "text", "sft": "conversations"}


class DataView:
    """What one run learns from."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self._rows: dict[tuple[str, str], Rows] = {}
        self._documents: dict[str, Documents] = {}

    def overview(self) -> dict[str, Any]:
        """What there is to look at, and how much of it."""
        return self.run.summary()

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """(step, loss) of the trainings whose log is there."""
        found = {}
        for training in ROWS_OF:
            try:
                found[training] = lineage.losses(self.run, training)
            except MissingError:
                continue
        return found

    def documents(
        self, split: str = "train", *, start: int = 0, most: int = 10, search: str = "", file: str = ""
    ) -> dict[str, Any]:
        """Documents of the text that is learnt from, those that hold `search` in files whose name holds `file`."""
        found = self._text(split)
        if search or file:
            listed, then = found.search(search, start=start, file=file, most=_bounded(most))
        else:
            numbers = range(start, min(len(found), start + _bounded(most)))
            listed, then = [found[number] for number in numbers], numbers.stop if numbers.stop < len(found) else None
        return {"split": split, "num_documents": len(found), "next": then,
                "documents": [each.shown(CHARS) for each in listed]}  # fmt: skip

    def document(self, split: str, number: int) -> dict[str, Any]:
        """One document, with all of its text or much of it."""
        return {"split": split, **self._text(split)[number].shown(WHOLE_CHARS)}

    def row(self, of: str, split: str, row: int) -> dict[str, Any]:
        """A row as the model sees it; `of`: text or conversations."""
        rows = self.rows(of, split)
        return {"of": of, "num_rows": len(rows), **rows.show(row).record()}

    def conversations(
        self, split: str = "train", *, start: int = 0, most: int = 10, search: str = ""
    ) -> dict[str, Any]:
        """Conversations turn by turn, from the row `start` on, with how many tokens of each are learnt."""
        rows = self.rows("conversations", split)
        assert isinstance(rows, TalkRows)
        found, then = rows.search(search, start=start, most=_bounded(most))
        return {"split": split, "num_rows": len(rows), "next": then, "conversations": [each.record() for each in found]}

    def removed(
        self, *, start: int = 0, most: int = 10, rule: str = "", search: str = "", near: bool = False
    ) -> dict[str, Any]:
        """What cleaning took out, or what was near the line."""
        end = start + _bounded(most)
        found = list(islice(removed(self.run, is_kept=near, rule=rule, wanted=search), start, end + 1))
        listed = found[: end - start]
        counts = {step: self.run.of(step).metrics.get("near" if near else "removed", {}) for step in self.run.cleaned}
        return {"steps": counts, "next": end if len(found) > len(listed) else None,
                "documents": [each.shown(CHARS) for each in listed]}  # fmt: skip

    def step(self, training: str, step: int) -> dict[str, Any]:
        """The rows that a step learnt from and their documents, those first that added most to its loss."""
        if training not in ROWS_OF:
            raise MissingError(f"there is no training {training!r} to look at", hint=" or ".join(ROWS_OF))
        rows = self.rows(ROWS_OF[training], "train")
        numbers = lineage.rows_at(self.run, step, training=training, rows=rows.rows)
        found, measure = scored(self.run, rows, numbers, training=training)
        loss = dict(self.curves.get(training, [])).get(step)
        listed = [{**asdict(each), "text": self._beginning(rows, each.document, each.rows[0])} for each in found]
        return {"training": training, "step": step, "loss": loss, "rows": numbers, "measure": measure,
                "documents": listed}  # fmt: skip

    def curve(self, training: str) -> dict[str, Any]:
        """The losses of a training, the highest of each stretch where there are many, and the steps that rose most."""
        if training not in self.curves:
            raise MissingError(
                f"{training} of {self.run.run_id} has left no curve", hint="a model may be taken as it is"
            )
        curve = self.curves[training]
        width = -(-len(curve) // CURVE_POINTS) or 1
        shown = [max(curve[at : at + width], key=lambda point: point[1]) for at in range(0, len(curve), width)]
        return {"training": training, "num_steps": len(curve), "curve": shown,
                "spikes": [asdict(each) for each in lineage.spikes(curve)]}  # fmt: skip

    def spikes(self, training: str = "pretrain") -> dict[str, Any]:
        """The steps whose loss rose most, and what the highest of them learnt from."""
        found = self.curve(training)["spikes"]
        if not found:
            raise MissingError(f"the loss of {training} of {self.run.run_id} never rose", hint="it has too few steps")
        return {"training": training, "spikes": found, "highest": self.step(training, found[0]["step"])}

    def rows(self, of: str, split: str) -> Rows:
        """The packed rows of a split."""
        kinds: dict[str, Callable[[RunData, str], Rows]] = {"text": TextRows, "conversations": TalkRows}
        if of not in kinds or split not in SPLITS:
            raise MissingError(
                f"there are no rows of {of!r}, {split!r}", hint="text or conversations; train or validation"
            )
        key = (of, split)
        if key not in self._rows:
            self._rows[key] = kinds[of](self.run, split)
        return self._rows[key]

    def _text(self, split: str) -> Documents:
        if split not in SPLITS:
            raise MissingError(f"there is no split {split!r}", hint=" or ".join(SPLITS))
        if split not in self._documents:
            folder = self.run.folder(self.run.last_text, f"{split}/")
            self._documents[split] = Documents(shards.row_groups(folder / split))
        return self._documents[split]

    def _beginning(self, rows: Rows, document: int, row: int) -> str:
        """How a document or conversation begins, in a line."""
        if isinstance(rows, TextRows):
            return rows.document(document).text[:LISTED_CHARS]
        talks = [talk for talk in rows.talks(row) if talk.stretch.document == document]
        said = " / ".join(turn.text for talk in talks for turn in talk.turns if turn.text.strip())
        return said[:LISTED_CHARS]


def _bounded(most: int) -> int:
    return max(1, min(most, MOST_AT_ONCE))
