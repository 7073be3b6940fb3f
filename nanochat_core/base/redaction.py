"""Secrets refused and secrets taken out, by the one table of secret_shapes.py.

Records travel, so a setting with a secret in it is refused (`refuse`). In text that was not typed as a setting
(arguments, logs, tracebacks, patches, answers of servers) the secret becomes *** and the words around it stay
(`redact`). Both read the same table: what was not refused is not changed, and doing it twice changes nothing more.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from nanochat_core.base.secret_shapes import (
    NAMED,
    PLACEHOLDERS,
    PREFIXED,
    SECRET_VARIABLE,
    SHAPES,
    STRONG,
    WEAK,
    Find,
    Shape,
    is_named,
)

REDACTED = "***"


def _span(found: Find) -> tuple[int, int]:
    groups = found.re.groupindex
    group = next(name for name in ("secret", "quoted", "bare") if name in groups and found[name] is not None)
    return found.span(group)


def _finds(shape: Shape, text: str) -> Iterator[Find]:
    return (found for found in shape.pattern.finditer(text) if shape.is_one(found))


def _environment() -> list[tuple[str, str]]:
    """The values of this process's variables with telling names; a path or a plain word is none."""
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= 8 and _is_secret_variable(name) and not value.startswith(("/", "~", "./"))
        and value.lower() not in PLACEHOLDERS
    ]  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _is_secret_variable(name: str) -> bool:
    return SECRET_VARIABLE.fullmatch(name) is not None


def redact(text: str) -> str:
    """Any text with its secrets as ***; lines stay lines, and a patch's marks stay before them."""
    for _, value in _environment():
        text = text.replace(value, REDACTED)
    for shape in SHAPES:
        pieces, at = [], 0
        for found in _finds(shape, text):
            start, end = _span(found)
            pieces += [text[at:start], _hidden(text[start:end])]
            at = end
        text = "".join([*pieces, text[at:]]) if pieces else text
    return text


def _hidden(secret: str) -> str:
    """*** for a secret; for one of several lines (a key in a patch) in each of them."""
    first, *others = secret.split("\n")
    tail = "-----END" if secret.endswith("-----END") else ""
    lines = [f"{line[:1] if line[:1] in ('+', '-', ' ') else ''}{REDACTED}" for line in others]
    return "\n".join([REDACTED if first.strip() or not others else first, *lines]) + tail


def shapes_in(text: str) -> list[str]:
    """What secrets a text holds, in people's words and without their values."""
    held = [f"the value of {name}" for name, value in _environment() if value in text]
    found = ((shape, next(_finds(shape, text), None)) for shape in SHAPES)
    return list(dict.fromkeys([*held, *(_kind(shape, first) for shape, first in found if first)]))


def _kind(shape: Shape, found: Find) -> str:
    """The kind of a find: of a token, whose."""
    group = next((name for name in PREFIXED if found.groupdict().get(name)), None)
    return f"a {group.replace('_', ' ')}" if group else shape.name


def redact_value(value: Any) -> Any:
    """A JSON value with the secrets taken out of every text in it, also of those under a telling name."""
    return value if _is_clean(value) else _redacted_value(value)


def _redacted_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            redact(name) if isinstance(name, str) else name: REDACTED
            if _is_named_secret(name, inner)
            else _redacted_value(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted_value(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _is_clean(value: Any) -> bool:
    """Whether there is nothing to take out: one look at all texts together, for records have thousands."""
    return not shapes_in("\n".join(_texts(value)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f'{name}="{inner}"' if isinstance(inner, str) and _is_named_secret(name, inner) else str(name)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def refuse(value: Any, where: str, *, hint: str) -> None:
    """ConfigError for the first secret in `value` (a text, or mappings and lists of them), by its place and kind."""
    from nanochat_core.base.errors import ConfigError  # whose messages this module cleans

    for place, kind in () if _is_clean(value) else secrets_in(value, where):
        raise ConfigError(f"{place} holds {kind}, and is kept in records that travel", hint=hint)


def secrets_in(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """The place and the kind of every secret in a JSON value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            place = f"{where}.{name}" if where else str(name)
            if _is_named_secret(name, inner):
                yield place, "a secret with its name"
            yield from secrets_in(inner, place)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from secrets_in(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield from ((where, kind) for kind in shapes_in(value))


def _is_named_secret(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    found = NAMED.match(f'{name[-80:]}="{value}')
    return found is not None and found["name"] == name[-80:] and is_named(found)


OPTION = re.compile(r"(?P<name>-{0,2}[\w.-]+)(?P<sign>[=:])(?P<value>.*)", re.DOTALL)
OPTION_WORDS = re.compile(rf"(?:.*[^a-z])?(?:{WEAK}|{STRONG})(?:[^a-z].*)?")


def redact_arguments(arguments: list[str]) -> list[str]:
    """A command line without secrets: after an option with a telling name, in its value, and by shape."""
    clean, hides_next = [], False
    for argument in arguments:
        is_option = argument.startswith("-")
        clean.append(REDACTED if hides_next and not is_option else redact(_option_hidden(argument)))
        hides_next = is_option and "=" not in argument and _calls_secret(argument)
    return clean


def _option_hidden(argument: str) -> str:
    option = OPTION.fullmatch(argument)
    if option and not option["value"].startswith("//") and _calls_secret(option["name"]):
        return f"{option['name']}{option['sign']}{REDACTED}"
    return argument


def _calls_secret(name: str) -> bool:
    """Whether an option's name has a telling word: whole ones, so that vocab_size_tokens and monkey stay."""
    return OPTION_WORDS.fullmatch(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()) is not None


def redacted_error(error: BaseException) -> BaseException:
    """The error, or one that says the same without the secrets in its text; OSErrors stay that: they are retried."""
    text = "".join(traceback.format_exception(error))
    if redact(text) == text:
        return error
    kind = OSError if isinstance(error, OSError) else RuntimeError
    return kind(f"{type(error).__name__}: {redact(str(error))}").with_traceback(error.__traceback__)


@contextlib.contextmanager
def redacted_errors() -> Iterator[None]:
    """Errors leave the block as `redacted_error` has them."""
    try:
        yield
    except Exception as error:
        told = redacted_error(error)
        if told is error:
            raise
        raise told from None


def install() -> None:
    """From now on log records and tracebacks of this process come without secrets; again is no harm."""
    if getattr(logging.getLogRecordFactory(), "is_redacting", False):
        return
    before = logging.getLogRecordFactory()

    def record_of(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return _redacted(before(*args, **kwargs))

    record_of.is_redacting = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record_of)
    sys.excepthook = _print_exception


def _redacted(record: logging.LogRecord) -> logging.LogRecord:
    try:
        said = record.getMessage()
    except (TypeError, ValueError, KeyError):  # logging reports it by itself
        return record
    if (clean := redact(said)) != said:
        given = record.args if isinstance(record.args, tuple) else ()
        record.args = tuple(redact(each) if isinstance(each, str) else each for each in given)
        if not given or record.getMessage() != clean:
            record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[1] is not None:
        text = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        if (clean := redact(text)) != text:
            record.exc_text, record.exc_info = clean, None
    return record


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    if (clean := redact(text)) == text:
        sys.__excepthook__(kind, error, trace)
    else:
        print(clean, end="", file=sys.stderr)
