"""What `nanochat data show` found, as tables and text on stdout.

A token is told from the next by its ground where there are colours, else by a bar; what is not learnt is dim, or stands
in brackets.
"""

from typing import Any

from rich.text import Text

from nanochat_core.base.text import one_line
from nanochat_core.base.units import count
from nanochat_core.cli.output import Page, grid, said, table

NONE = "–"
GROUNDS = ("on grey23", "on grey35")
SPEAKER_CHARS, TEXT_CHARS, LINE_CHARS = 12, 600, 90
DOCUMENTS_SHOWN = 10


def show_overview(found: dict[str, Any]) -> None:
    """How much there is of what, and how to look at it."""
    page, rows = Page(), grid()
    rows.add_row("[bold]run", said(found["run_id"]))
    for step, numbers in found["texts"].items():
        docs, held_out = numbers.get("train_docs", 0), numbers.get("validation_docs", 0)
        told = f"{docs:,} documents ({count(numbers.get('train_bytes', 0))}B) for training, {held_out:,} for validation"
        rows.add_row(f"[bold]{said(step)}", told)
    for step, rules in found["removed"].items():
        told = ", ".join(f"{number:,} {said(rule)}" for rule, number in rules.items()) or "nothing"
        rows.add_row("", f"{said(step)} removed {told}")
    if tokens := found["tokens"]:
        rows.add_row("[bold]rows", f"{tokens.get('train_rows', 0):,} of text, {count(tokens['train_tokens'])} tokens")
    if talks := found["conversations"]:
        rows.add_row("[bold]conversations", f"{talks.get('conversations', 0):,} in {talks.get('rows', 0):,} rows,"
                                            f" {count(talks.get('targets', 0))} tokens to learn")  # fmt: skip
    for training, steps in found["trainings"].items():
        rows.add_row(f"[bold]{said(training)}", f"{steps:,} steps")
    page.print(rows)
    print("\nlook further: nanochat data show documents | rows 0 | conversations | removed | step 10 | spike")


def show_documents(found: dict[str, Any]) -> None:
    """A document a line."""
    listed = table("number", "file", "line", "begins", right=("number", "line"), wraps=("begins",))
    for each in found["documents"]:
        listed.add_row(f"{each['number']:,}", *_file_line(each), _begin(each["text"]))
    Page().print(listed)
    _tell_next(found, f"{found['num_documents']:,} documents for {found['split']}")


def show_document(found: dict[str, Any]) -> None:
    """Where it is from, and its text."""
    print(f"document {found['number']:,} for {found['split']}: {_place(found)}\n")
    print(found["text"])
    if len(found["text"]) < found["num_chars"]:
        print(f"... and {found['num_chars'] - len(found['text']):,} characters more")


def show_row(found: dict[str, Any]) -> None:
    """Every token of a row, document by document."""
    page = Page()
    told = f"{len(found['ids']):,} tokens, {sum(found['learnt']):,} to learn"
    print(f"row {found['row']:,} of {found['num_rows']:,} ({found['split']}, {found['of']}): {told}")
    end = 0
    for part in found["stretches"]:
        page.print(f"\n[bold]{said(_stretch(part))}[/]")
        end = part["start"] + part["length"]
        page.print(_tokens(found, part["start"], end, is_coloured=page.color_system is not None))
    if end < len(found["ids"]):
        print(f"\n{len(found['ids']) - end:,} tokens of padding")


def show_conversations(found: dict[str, Any]) -> None:
    """Turn by turn, with what is learnt."""
    page = Page()
    for each in found["conversations"]:
        page.print(f"[bold]row {each['row']:,}: {said(_stretch(each['stretch'], 'conversation'))}[/]")
        rows = grid()
        for turn in each["turns"]:
            if turn["speaker"]:
                learnt = turn["num_learnt"]
                told = f"learnt: {learnt} of {turn['length']} tokens" if learnt else "not learnt"
                rows.add_row(
                    turn["speaker"], f"[{'green' if learnt else 'dim'}]{told}[/]  {said(turn['text'][:TEXT_CHARS])}"
                )
        page.print(rows)
    _tell_next(found, f"{found['num_rows']:,} rows of conversations for {found['split']}")


def show_removed(found: dict[str, Any]) -> None:
    """A document a line, with what it broke."""
    listed = table("step", "rule", "score", "file", "line", "twin", "begins", right=("score", "line"),
                   wraps=("begins", "twin"), spare=("step", "twin"))  # fmt: skip
    for each in found["documents"]:
        score = "–" if each["score"] is None else f"{each['score']:.3f}"
        listed.add_row(said(each["step"]), said(each["rule"]), score, *_file_line(each),
                       said(each["twin"]), _begin(each["text"]))  # fmt: skip
    Page().print(listed)
    _tell_next(found, "; ".join(f"{step}: {sum(rules.values()):,} in all" for step, rules in found["steps"].items()))


def show_step(found: dict[str, Any]) -> None:
    """The documents of a step, those first that added most to its loss."""
    loss = "" if found["loss"] is None else f", loss {found['loss']:.4f}"
    rows = found["rows"]
    shown = ", ".join(map(str, rows[:12])) + (", ..." if len(rows) > 12 else "")
    print(f"{found['training']} step {found['step']:,}{loss}: {len(rows):,} rows ({shown})")
    print(f"what each document adds to the step's mean loss, in nats, by {found['measure']}:")
    listed = table("adds", "loss", "tokens", "file", "line", "document", "rows", "begins", wraps=("begins", "rows"),
                   right=("adds", "loss", "tokens", "line", "document"), spare=("rows", "tokens"))  # fmt: skip
    for each in found["documents"][:DOCUMENTS_SHOWN]:
        measured = (f"{each['adds']:+.4f}", f"{each['loss']:.3f}", f"{each['num_tokens']:,}")
        place = (*_file_line(each), f"{each['document']:,}")
        listed.add_row(*measured, *place, ", ".join(map(str, each["rows"])), _begin(each["text"]))
    Page().print(listed)
    if (left := len(found["documents"]) - DOCUMENTS_SHOWN) > 0:
        print(f"... and {left:,} more, which --json has")


def show_spikes(found: dict[str, Any]) -> None:
    """The steps that rose most, and the documents of the highest."""
    listed = table(
        "step", "loss", "before", "rise", "times usual", right=("step", "loss", "before", "rise", "times usual")
    )
    for each in found["spikes"]:
        listed.add_row(f"{each['step']:,}", f"{each['loss']:.4f}", f"{each['before']:.4f}", f"{each['rise']:+.4f}",
                       f"{each['above_others']:.1f}")  # fmt: skip
    Page().print(listed)
    print()
    show_step(found["highest"])


def _tokens(found: dict[str, Any], start: int, end: int, *, is_coloured: bool) -> Text:
    """The tokens of a stretch, each told from the next."""
    made = Text()
    for at in range(start, end):
        shown, learnt = found["texts"][at], found["learnt"][at]
        if is_coloured:
            style = "bold magenta" if found["special"][at] else GROUNDS[at % 2]
            made.append(shown, style if learnt else f"{style} dim")
        else:
            made.append((shown if learnt else f"[{shown}]") + "|")
    return made


def _stretch(part: dict[str, Any], what: str = "document") -> str:
    whole = part["offset"] == 0 and part["until"] >= part["of_tokens"]
    of = "" if whole else f", tokens {part['offset']:,} to {part['until']:,} of {part['of_tokens']:,}"
    number = f" {part['document']:,}" if part["document"] >= 0 else ""
    return f"{what}{number}: {_place(part)}{of}"


def _place(each: dict[str, Any]) -> str:
    return f"{each['file']}, line {each['line']:,}" if each["file"] else "from no file that is known"


def _file_line(each: dict[str, Any]) -> tuple[str, str]:
    return (said(each["file"]), f"{each['line']:,}") if each["file"] else (NONE, NONE)


def _begin(text: str) -> str:
    return said(one_line(text)[:LINE_CHARS])


def _tell_next(found: dict[str, Any], told: str) -> None:
    if told:
        print(told)
    if found["next"] is not None:
        print(f"more from {found['next']} on")
