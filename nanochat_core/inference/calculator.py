"""The tool that models call: arithmetic and `str.count`, evaluated on the syntax tree.

No eval, no names, no signals (which fail off the main thread): a whitelist of node types with limits on the size of
the text, of the tree and of the numbers. What it refuses gives None, as an unusable call does at training time.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_CHARS = 200
MAX_BITS = 256  # of any integer on the way: 2**10**9 must not be tried
MAX_RESULT_CHARS = 40
THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

Number = int | float
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class _RefusedError(ValueError):
    """The expression is outside of what the calculator does."""


def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression or of "text".count("t") as text; None where it is refused or undefined."""
    if len(expression) > MAX_CHARS:
        return None
    text = expression.strip()
    if not any(quote in text for quote in "'\""):
        text = THOUSANDS_COMMA.sub("", text)
    try:
        return _format(_evaluate(ast.parse(text, mode="eval").body))
    except (SyntaxError, _RefusedError, ArithmeticError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _check(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        return _check(BINARY[type(node.op)](left, right))
    if isinstance(node, ast.Call):
        return _count(node)
    raise _RefusedError(type(node).__name__)


def _check(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _RefusedError("too large")
    if isinstance(value, complex) or not math.isfinite(value):
        raise _RefusedError("not a finite real number")
    return value


def _check_power(base: Number, exponent: Number) -> None:
    if abs(exponent) > MAX_BITS or (isinstance(base, int) and base.bit_length() * abs(exponent) > MAX_BITS):
        raise _RefusedError("power too large")


def _count(node: ast.Call) -> int:
    """ "strawberry".count("r") and nothing else that looks like a call."""
    function = node.func
    if not isinstance(function, ast.Attribute) or function.attr != "count" or len(node.args) != 1 or node.keywords:
        raise _RefusedError("a call other than str.count")
    text, part = function.value, node.args[0]
    if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
        raise _RefusedError("count of something other than a text")
    if not (isinstance(part, ast.Constant) and isinstance(part.value, str)):
        raise _RefusedError("count of something other than a text")
    return text.value.count(part.value)


def _format(value: Number) -> str | None:
    if isinstance(value, float):
        text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.10g}"
    else:
        text = str(value)
    return text if len(text) <= MAX_RESULT_CHARS else None
