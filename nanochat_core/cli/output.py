"""What a verb prints: stdout is the answer, stderr the progress, and a table never cuts a value.

A script must be able to tell that an answer did not arrive: where stdout cannot be written (a full disk, a closed
descriptor) the command says so and does not end with 0; where the reader has gone (`| head`), it ends in silence.
Progress that cannot be written is lost and ends nothing. A letter that the terminal does not have becomes "?".

Names, values and errors come from files of other people, from logs, models and servers. What they hold is told and
never done: whatever is printed, by whomever, goes through the streams below, which spell out every letter that a
terminal obeys (text.visible). Only rich may colour, and what it is given to print is spelt out before.
"""

import contextlib
import errno
import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Annotated, Any, TextIO, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from nanochat_core.base.errors import HardwareError, NanochatError
from nanochat_core.base.redaction import redact
from nanochat_core.base.text import one_line, visible
from nanochat_core.cli import troubles

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
PIPE_WIDTH = 10_000  # a file or a log has no width
EXIT_CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended
COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnwrittenAnswer(NanochatError):
    """stdout does not take what the command has to say."""


class ClosedPipe(UnwrittenAnswer):
    """Whoever read the answer has seen enough."""

    exit_code = EXIT_CLOSED_PIPE


class FullDisk(UnwrittenAnswer, HardwareError):
    """stdout is a file on a disk without room."""


class _Answer(io.FileIO):
    """stdout: what cannot be written is an error, once."""

    has_failed = False

    def write(self, data: Any) -> int:
        try:
            return len(data) if self.has_failed else super().write(data) or 0
        except OSError as error:
            self.has_failed = True
            kinds = {errno.EPIPE: ClosedPipe, **dict.fromkeys(NO_SPACE, FullDisk)}
            kind = kinds.get(error.errno or 0, UnwrittenAnswer)
            raise kind(f"the answer cannot be written to stdout: {error.strerror}") from error


class _Progress(io.FileIO):
    """stderr: what cannot be written is dropped, for no training may end because nobody looks on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


class _Shown(io.TextIOWrapper):
    """Text for a terminal, or for a file that is shown on one later."""

    def write(self, text: str) -> int:
        super().write(visible(text))
        return len(text)

    @property
    def rich_proxied_file(self) -> "_Coloured":
        """What rich's consoles write to in the place of this one: Prefect has some for its log."""
        return _Coloured(self, is_ours=False)


class _Coloured:
    """A stream for what rich has drawn: colours alone, or all that a live display needs from a console of ours."""

    def __init__(self, stream: _Shown, *, is_ours: bool) -> None:
        self._stream, self._is_ours = stream, is_ours

    def write(self, text: str) -> int:
        parts = [text] if self._is_ours else COLOURS.split(text)
        spelt = (part if self._is_ours or number % 2 else visible(part) for number, part in enumerate(parts))
        io.TextIOWrapper.write(self._stream, "".join(spelt))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _drawn(stream: TextIO | None) -> IO[str] | None:
    return cast(IO[str], _Coloured(stream, is_ours=True)) if isinstance(stream, _Shown) else None


def _logged(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record of the log; what a stranger put into it is spelt out for each handler, Prefect's coloured ones too."""
    record = logging.LogRecord(*args, **kwargs)
    with contextlib.suppress(Exception):  # a message that does not fit its values is told of by its handler
        message = record.getMessage()
        if (spelt := visible(message)) != message:
            record.msg, record.args = spelt, ()
    return record


def name_files_in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale would name files in another encoding (LC_ALL=C, Latin-1).

    Arrow, safetensors and Prefect's server take no name that is not UTF-8. The terminal keeps its own encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)


def prepare() -> None:
    """Make the standard streams take what a verb says and give what a person types, whatever they are."""
    if sys.stdin is None:  # closed, as a scheduler may leave it; the lowest free number is its own
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")  # noqa: SIM115
    elif sys.stdin is sys.__stdin__ and isinstance(sys.stdin, io.TextIOWrapper):
        is_ascii = sys.stdin.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968")
        sys.stdin.reconfigure(errors="replace", encoding="utf-8" if is_ascii else None)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_Answer, sys.stdout, os.O_RDONLY)  # closed: a place that takes nothing
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Progress, sys.stderr, os.O_WRONLY)
    logging.setLogRecordFactory(_logged)


def _stream(kind: type[io.FileIO], old: TextIO | None, mode: int) -> TextIO:
    if old is None:
        raw = kind(os.open(os.devnull, mode), "w", closefd=False)
        return _Shown(io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True)
    assert isinstance(old, io.TextIOWrapper)
    old.flush()
    return _Shown(
        io.BufferedWriter(kind(old.fileno(), "w", closefd=False)),
        encoding=old.encoding,
        errors="replace",
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


def finish() -> int:
    """Write what is still held back; the exit code of an answer that did not arrive, else 0."""
    try:
        sys.stdout.flush()
    except UnwrittenAnswer as error:
        return tell(error)
    return 0


def tell(error: NanochatError, *, debug: bool = False) -> int:
    """One line for people and a hint, on stderr; the exit code of its kind."""
    if debug:
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if not isinstance(error, ClosedPipe):
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if section := troubles.section_of(error):
            print(f"more: {section}", file=sys.stderr)
    return error.exit_code


class Page(Console):
    """A console whose tables are as wide as their values: in a pipe on one line each, on a terminal folded at words."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        options.setdefault("file", _drawn(sys.stderr if stderr else sys.stdout))
        super().__init__(stderr=stderr, **options)
        if not self.is_terminal:
            self.width = PIPE_WIDTH

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints; a table that is wider than the terminal goes on in its next line."""
        before = self.width
        for made in objects:
            if isinstance(made, Listing):
                made.fit(lambda made: self._needed(made) <= before)
        self.width = max([before, *(self._needed(made) for made in objects if isinstance(made, Table))])
        try:
            super().print(*objects, **options)
        finally:
            self.width = before

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich renders; what the text itself says to a terminal is spelt out."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def render_str(self, text: str, **options: Any) -> Text:
        """The same for a text that is still to be measured."""
        return super().render_str(visible(text), **options)

    def _needed(self, made: Table) -> int:
        """How narrow a table may be before rich would cut something off."""
        endless = self.options.update(max_width=PIPE_WIDTH)
        for column in made.columns:
            if column.no_wrap:
                cells = (column.header, *column.cells, column.footer)
                column.min_width = max(Measurement.get(self, endless, cell).maximum for cell in cells)
        return Measurement.get(self, endless, made).minimum


def answer(value: Any, show: Callable[[], object], *, as_json: bool) -> None:
    """What a verb found: as JSON and nothing else (a dataclass as its fields), or as `show` puts it for people."""
    if as_json:
        print(json.dumps(value, indent=1, default=asdict))
    else:
        show()


def said(value: object) -> str:
    """A value of somebody else's within a line with markup: as it is, on one line, and no markup itself."""
    return escape(one_line(str(value)))


class Listing(Table):
    """A table that leaves out columns where the terminal is narrow, and says which."""

    spare: tuple[str, ...] = ()
    """Headers of the columns that can be missed, the least needed first."""

    def fit(self, is_narrow_enough: Callable[[Table], bool]) -> None:
        """Take columns away until it fits, or until none can be missed."""
        left_out = []
        for name in self.spare:
            if is_narrow_enough(self):
                break
            self.columns = [column for column in self.columns if column.header != name]
            left_out.append(name)
        for number, column in enumerate(self.columns):
            column._index = number
        self.caption_justify = "left"
        self.caption = f"without {', '.join(left_out)}, which --json has" if left_out else None


def table(
    *headers: str,
    wraps: tuple[str, ...] = (),
    right: tuple[str, ...] = (),
    spare: tuple[str, ...] = (),
    **options: Any,
) -> Listing:
    """A plain table. Columns that `wraps` names hold words and may take several lines; the others stay in one piece.
    Those that `spare` names are left out, in its order, where a terminal is too narrow for all."""
    columns = (
        Column(name, no_wrap=name not in wraps, overflow="fold", justify="right" if name in right else "left")
        for name in headers
    )
    made = Listing(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim", **options)
    made.spare = spare
    return made


def grid() -> Table:
    """Names in bold and what is said of them."""
    return Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
