"""What a person says of the form of their conversations, where what rows hold would not tell it, or would tell another.

`sft.form` keeps of each row the columns of one form; `sft.columns` says which of their columns is which of ours, nested
ones with a dot. Either way a row that is not so is refused by its place: nothing is guessed beside what was said.
"""

from dataclasses import dataclass, field
from typing import Any

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data import forms
from nanochat_core.data.texts import NOTHING, value_of
from nanochat_core.data.turns import FLAGS, as_list

Row = dict[str, Any]
COMMON = {*forms.SYSTEMS, *FLAGS, "tools", "functions", "history", *forms.SEEN_OR_HEARD}
PAIRED = {"context", *forms.ANSWERS, *COMMON}
COLUMNS_OF = {
    "messages": {"messages", *COMMON},
    "ShareGPT": {"conversations", "conversation", *COMMON},
    "Alpaca": {"instruction", "input", *PAIRED},
    "prompt/completion": {"prompt", *PAIRED},
    "question/answer": {*forms.QUESTIONS, *PAIRED} - {"instruction", "prompt"},
}
AUTO = "auto"
OURS = ("messages", "role", "content", "question", "answer", "context", "history", "system", "weight", "train")
IN_MESSAGES = ("role", "content")


@dataclass(frozen=True)
class Asked:
    """A form, or a map of columns, or neither: then each row says itself what it is."""

    form: str = AUTO
    columns: dict[str, str] = field(default_factory=dict)
    """Ours: theirs."""

    def row(self, row: Row) -> Row:
        """The row as it was asked for; MissingError where it is not so."""
        if self.columns:
            return self._mapped(row)
        if self.form == AUTO:
            return row
        kept = {name: value for name, value in row.items() if str(name).strip().casefold() in COLUMNS_OF[self.form]}
        if forms.form_of(kept) != self.form:
            raise MissingError(
                f"it is not {self.form}, as sft.form says; it has {', '.join(map(str, row)) or 'nothing'}",
                hint="--set sft.form=auto tells the form of each row by what it holds; sft.columns names columns",
            )
        return kept

    def _mapped(self, row: Row) -> Row:
        made = {ours: self._value(row, theirs) for ours, theirs in self.columns.items() if ours not in IN_MESSAGES}
        within = {theirs: ours for ours, theirs in self.columns.items() if ours in IN_MESSAGES}
        if within and made.get("messages") is not None:
            messages = as_list(made["messages"], self.columns["messages"])
            made["messages"] = [
                {within.get(name, name): value for name, value in message.items()}
                if isinstance(message, dict) else message for message in messages
            ]  # fmt: skip
        return made

    def _value(self, row: Row, theirs: str) -> Any:
        if (value := value_of(row, theirs)) is NOTHING:
            raise MissingError(
                f"it has no column {theirs!r}, which sft.columns names; it has {', '.join(map(str, row)) or 'nothing'}",
                hint="--set sft.columns=question=NAME,answer=NAME",
            )
        return value


def asked(form: str, columns: str | None) -> Asked:
    """What `sft.form` and `sft.columns` ask for; ConfigError where they make no conversation."""
    if not columns:
        return Asked(form)
    pairs = [pair.partition("=") for pair in columns.split(",")]
    named = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    wrong = [ours for ours, theirs in named.items() if ours not in OURS or not theirs]
    is_list, is_pair = "messages" in named, {"question", "answer"} <= set(named)
    problem = (
        f"has {wrong[0]!r}, which is none of {', '.join(OURS)} with a column" if wrong
        else "names a column twice" if len(named) < len(pairs)
        else "names neither messages, nor question and answer" if not (is_list or is_pair)
        else "names messages and question" if is_list and "question" in named
        else "names role or content without messages" if not is_list and {*IN_MESSAGES} & set(named)
        else "and sft.form say both what the columns are" if form != AUTO
        else None
    )  # fmt: skip
    if problem:
        raise ConfigError(f"sft.columns = {columns} {problem}", hint="ours=theirs: question=Frage,answer=Antwort")
    return Asked(AUTO, named)
