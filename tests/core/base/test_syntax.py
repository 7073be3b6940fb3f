"""A source has one digest: on every Python that is at hand, and however it is laid out."""

import ast
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base import closure, syntax
from nanochat_core.pipeline.table import STEPS

OLDEST = (3, 11)
# Each statement and expression that Python 3.11 has, in the spellings that releases are known to read differently.
EVERY_SYNTAX = r'''
from __future__ import annotations
import a, b.c as d
from . import e
from ..f import g as h, i
from j import *
X: int = 1; Y = Z = -1.5e300; (W): str; (p, *q), [r] = s; t[u:v:w, ...] = x.y
n = 0xFF + 1_000j ** 2 // 3 % 4 @ m << 1 >> 2 | 3 & 4 ^ 5; n -= ~1; n @= not n
texts = "a" 'b' """c""" r"\d" "\N{EN DASH}\x41\u0378" "it's" 'say "x"', b"\x00a" rb"\d", u"u", "\ud800", ""
huge = 1180591620717411303424; big = 1e308 * 10; none = None, True, False, ..., __debug__
f0 = f"{x}" f"" "" f"a{{b}}{y!r:>{width}.{p}} {z = } {w=!s:} {v:}" "tail"
f1 = f"{x:%H:%M}" f'{d["k"]}' rf"\d{x:\d}" f"{x!a}{lambda_}{ {1: 2}[1] }" f"""{
    x}"""; f2 = f"{x:{w}}"; f3 = f"a" "b"; f4 = f""; f5 = f"{(lambda y: y)(1)}{x if x else y}{x, y}"
e0 = [x for y in z if a if b for c in d], {x async for x in y}, {k: v for k, v in z}, (i for i in j)
e1 = lambda a, /, b=1, *c, d, e=2, **f: (yield), lambda: 0, lambda *, a: a
e2 = a if b else c, a and b or not c, a < b <= c != d is not e not in f, (x := 1), *s, {**a, 'b': 1}, {1, 2}, {}, (), []
e4 = a / +b; e5 = a is b in c >= d
e3 = call(a, *b, c=1, **d)(lambda: 0)[1][1:2][::3][a, b][*c].e.f, -x ** -y, (1).real, 1 .real, not a == b
@dec.orator(1)
@other
async def coroutine(a: int, /, b: "str" = 1, *args: *Ts, c, d=2, **kw) -> None:
    """Dropped."""
    async with a as b, c: await d
    async for x in y: pass
    else: return
    return await x, [await y async for y in z]
def generator(*, a):
    global G
    nonlocal_ = yield
    def inner():
        nonlocal nonlocal_, a
        yield from nonlocal_
    return
class Klass(Base, metaclass=Meta, **kw):
    """Dropped."""
    field: int
    """Dropped."""
    slot: int = 1
    def method(self): ...
with (open(a) as b, c as (d, e)): pass
for i, (j, *k) in enumerate(l):  # a comment
    if i: continue
    elif j: break
    else: del i, (j.k, l[0])
else: pass
while (n := n - 1) > 0: assert n, f"{n}"
else: raise Error from cause
try: pass
except (A, B) as e: raise
except C: pass
except: pass
else: pass
finally: pass
try: pass
except* D as group: pass
if TYPE_CHECKING: import dropped
else: kept = 1
match x, y:
    case 1 | -2 | 3+4j | "s" | None | True if g: pass
    case [a, *_, b]: pass
    case {"k": v, 1: w, **rest}: pass
    case Klass(a, b=Other.c(d)) as e: pass
    case A.B.C: pass
    case _: pass
'''  # fmt: skip
DIGEST = "b023617393d09a9d7fa1a0974d69ed0b2b80b0c59b2aff419eedc1553b42b154"


@cache
def pythons() -> dict[tuple[int, ...], str]:
    """Every Python on this machine that the core runs on, one for each release."""
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    named = [f"python3.{minor}" for minor in range(11, 20)] + ["python3", "python"]
    found = {shutil.which(name, path=folder) for folder in [*folders, "/usr/bin", "/usr/local/bin"] for name in named}
    by_release = {}
    for path in sorted({os.path.realpath(path) for path in found if path}):
        told = subprocess.run(
            [path, "-ISc", "import sys; print(*sys.version_info[:3])"], capture_output=True, text=True
        )
        release = tuple(map(int, told.stdout.split())) if told.returncode == 0 else ()
        if release >= OLDEST:
            by_release.setdefault(release, path)
    return by_release


def told_by(python: str, program: str, given: object) -> object:
    """What a program of the standard library and of base/ says, as JSON, under another Python."""
    whole = f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); given = json.load(sys.stdin); {program}"
    command = [python, "-I", "-S", "-B", "-W", "ignore", "-c", whole]
    told = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def digest(text: str) -> str:
    return syntax.digest(syntax.normalised(ast.parse(text)))


def test_every_kind_of_syntax_is_in_the_sample() -> None:
    kinds = {type(node) for node in ast.walk(ast.parse(EVERY_SYNTAX))}
    old = {ast.Num, ast.Str, ast.Bytes, ast.NameConstant, ast.Ellipsis} if hasattr(ast, "Num") else set()
    newer = {"TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple", "TemplateStr", "Interpolation"}
    unused = {"AugLoad", "AugStore", "Param", "Suite", "Index", "ExtSlice"}  # of older trees, never made by a parser
    missing = [
        kind.__name__
        for base in (
            ast.stmt,
            ast.expr,
            ast.pattern,
            ast.operator,
            ast.unaryop,
            ast.cmpop,
            ast.boolop,
            ast.excepthandler,
        )
        for kind in base.__subclasses__()
        if kind not in kinds | old and kind.__name__ not in newer | unused
    ]
    assert missing == []


def test_a_digest_is_the_one_in_the_table() -> None:
    """Another digest means that every key of every user changed."""
    assert digest(EVERY_SYNTAX) == DIGEST


@pytest.mark.parametrize("python", pythons().values(), ids=map(str, pythons()))
def test_every_python_gives_a_source_the_same_digest(python: str) -> None:
    program = (
        "import ast; from nanochat_core.base import syntax; "
        "print(json.dumps([syntax.digest(syntax.normalised(ast.parse(text))) for text in given]))"
    )
    statements = [ast.get_source_segment(EVERY_SYNTAX, node) or "" for node in ast.parse(EVERY_SYNTAX).body]
    texts = [EVERY_SYNTAX, *statements]
    assert told_by(python, program, texts) == [digest(text) for text in texts]


@pytest.mark.parametrize("python", pythons().values(), ids=map(str, pythons()))
def test_every_python_gives_every_step_the_same_code_part(python: str) -> None:
    program = (
        "from nanochat_core.base.closure import code_closure, unfollowed; "
        "print(json.dumps({name: [code_closure(entries), unfollowed(entries)] for name, entries in given.items()}))"
    )
    entries = {
        name: [*(closure.function_entry(each) for each in (step.body, step.checks) if each), *step.entries]
        for name, step in STEPS.items()
    }
    here = {name: [closure.code_closure(each), closure.unfollowed(each)] for name, each in entries.items()}
    assert told_by(python, program, entries) == here


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a' 'b'", 'x = "ab"'),
        ("f'{x:}'", "f'{x}'"),
        ("f'a' 'b' f'{x}'", "f'ab{x}'"),
        ("x = 0x10", "x = 1_6"),
        ("def f():\n    '''Doc.'''", "def f(): pass"),
        ("x = (1)", "x = 1 # one"),
        ("if x: y", "if x:\n\n    y"),
        ("x = u'a'", "x = 'a'"),
        ("x = 'é'", "x = '\\xe9'"),
        ("f'{x:>{w}}' ''", "f'{x:>{w}}'"),
    ],
)
def test_the_same_program_in_another_layout_has_the_same_digest(one: str, other: str) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = 0.0", "x = -0.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("x = None", "x = 'None'"),
        ("f'{x}'", "f'{x!r}'"),
        ("f'{x}'", "'{x}'"),
        ("x = ()", "x = []"),
        ("return_", "return_()"),
        ("a[1]", "a[1:]"),
        ("a[:1]", "a[1:]"),
        ("a[1::]", "a[:1:]"),
        ("lambda a, /: 0", "lambda a: 0"),
        ("from . import a", "from .. import a"),
        ("{**a}", "{None: a}"),
        ("x: int", "(x): int"),
        ("import a.b", "import a.b as b"),
        ("x = y", "x == y"),
        ("x = 1", "x: 1"),
        ("case_ = [x for x in y]", "case_ = [x async for x in y]"),
        ("def f(*, a): pass", "def f(a): pass"),
        ("f'{x:a}'", "f'{x}a'"),
        ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
        ("match x:\n case None: pass", "match x:\n case _: pass"),
        ("match x:\n case True: pass", "match x:\n case 1: pass"),
        ("f'a{x}'", "f'{\"a\"}{x}'"),
        ("x = 1j", "x = 1"),
        ("raise A", "raise A from B"),
        ("try: a\nexcept A: b", "try: a\nexcept* A: b"),
        ("x = '\\ud800'", "x = '\\\\ud800'"),
    ],
)
def test_another_program_has_another_digest(one: str, other: str) -> None:
    assert digest(one) != digest(other)


@given(st.text(), st.text())
def test_different_texts_are_never_spelled_alike(one: str, other: str) -> None:
    assert (syntax.spelled(ast.Constant(one)) == syntax.spelled(ast.Constant(other))) == (one == other)
