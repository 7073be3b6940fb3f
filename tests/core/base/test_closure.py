"""The code part of a key changes with everything that a step can reach by name, and with nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat_core.base import closure as fp
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.source_memo import SourceMemo

ENTRY = "nanochat_core.train.pretrain"
TREE = {
    "nanochat_core/__init__.py": '"""Package."""\n__version__ = "0.1.0"\n',
    "nanochat_core/config.py": "A = 1\n",
    "nanochat_core/base/__init__.py": "",
    "nanochat_core/base/errors.py": "class E(Exception): ...\n",
    "nanochat_core/train/__init__.py": "",
    "nanochat_core/train/pretrain.py": '''"""Doc."""
from typing import TYPE_CHECKING
from nanochat_core.base.errors import E
from nanochat_core.config import A
from nanochat_core.model import gpt
from . import loop
if TYPE_CHECKING:
    from nanochat_core.unused import Thing

RATE = 1_000  # a constant

def train(steps=10):
    """Doc."""
    # comment
    return loop.run(steps) + gpt.SIZE * gpt.DEPTH

class Empty:
    """Only a docstring."""
''',
    "nanochat_core/train/loop.py": "def run(n):\n    from ..optim.muon import step\n    return step(n)\n",
    "nanochat_core/model/__init__.py": "",
    "nanochat_core/model/gpt.py": """SIZE = 3
CLOSURE_FILES = ("table.json",)
WORKER = "nanochat_core.worker"
DEPTH = len(WORKER)
""",
    "nanochat_core/model/table.json": '{"a": 1}',
    "nanochat_core/optim/__init__.py": "",
    "nanochat_core/optim/muon.py": """import nanochat_core.optim.newton
def step(n):
    return n + 1 + nanochat_core.optim.newton.ORDER
""",
    "nanochat_core/optim/newton.py": "ORDER = 5\n",
    "nanochat_core/worker.py": "MODE = 'w'\n",
    "nanochat_core/unused.py": "Thing = 1\n",
    "nanochat_core/helper.py": "H = 1\n",
}
PRETRAIN, LOOP = "nanochat_core/train/pretrain.py", "nanochat_core/train/loop.py"
GPT, TABLE = "nanochat_core/model/gpt.py", "nanochat_core/model/table.json"

SAME = {
    "comment": (PRETRAIN, "# comment", "# another comment, longer"),
    "module docstring": (PRETRAIN, '"""Doc."""\nfrom', '"""Other."""\nfrom'),
    "no docstring at all": (PRETRAIN, '    """Doc."""\n', ""),
    "docstring of an empty class": (PRETRAIN, '"""Only a docstring."""', "pass"),
    "blank lines and spaces": (PRETRAIN, "RATE = 1_000", "\n\nRATE   =   1000"),
    "line breaks": (
        PRETRAIN,
        "loop.run(steps) + gpt.SIZE * gpt.DEPTH",
        "(\n        loop.run(steps)\n        + gpt.SIZE * gpt.DEPTH\n    )",
    ),
    "docstring under a field": (GPT, "SIZE = 3", 'SIZE = 3\n"""How many."""'),
    "type-checking-only import": (PRETRAIN, "nanochat_core.unused import Thing", "nanochat_core.helper import H"),
    "type checking taken up": (
        LOOP,
        "def run",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import x\ndef run",
    ),
    "unrelated module": ("nanochat_core/unused.py", "Thing = 1", "Thing = 2"),
    "wording of an error": ("nanochat_core/base/errors.py", "class E", "class F"),
    "config, hashed by value": ("nanochat_core/config.py", "A = 1", "A = 2"),
    "unused constant": (GPT, "SIZE = 3", "SIZE = 3\nUNUSED: int = 4"),
    "unused function": (LOOP, "def run", "def unused(n=[1]):\n    return run(n)\n\n\ndef run"),
    "unused class": (LOOP, "def run", "class Unused(Exception):\n    SIZE = 3\n\n\ndef run"),
    "unused import": (LOOP, "def run", "import json\nfrom nanochat_core.helper import H\ndef run"),
    "unused alias in a used line": (LOOP, "import step", "import step"),
    "constant in a package on the way": ("nanochat_core/optim/__init__.py", "", "X = 1\n"),
    "unused constant of an imported module": ("nanochat_core/optim/newton.py", "ORDER = 5", "ORDER = 5\nOTHER = 6"),
    "release number": ("nanochat_core/__init__.py", "0.1.0", "0.2.0"),
}
DIFFERENT = {
    "constant": (PRETRAIN, "1_000", "1_001"),
    "type of a constant": (PRETRAIN, "1_000", "1_000.0"),
    "default": (PRETRAIN, "steps=10", "steps=11"),
    "function body": (PRETRAIN, "+ gpt.SIZE", "- gpt.SIZE"),
    "decorator": (PRETRAIN, "def train", "@staticmethod\ndef train"),
    "newly imported helper": (PRETRAIN, "RATE", "from nanochat_core.helper import H\nRATE"),
    "relatively imported module": (LOOP, "step(n)", "step(n + 1)"),
    "import inside a function": ("nanochat_core/optim/muon.py", "n + 1", "n + 2"),
    "import of an import": ("nanochat_core/optim/newton.py", "5", "6"),
    "data file": (TABLE, "1", "2"),
    "package on the way": ("nanochat_core/optim/__init__.py", "", "print()\n"),
    "module named for a launcher": ("nanochat_core/worker.py", "'w'", "'v'"),
    "text that is no docstring": (GPT, '"nanochat_core.worker"', '"nanochat_core.helper"'),
    "else of type checking": (PRETRAIN, "import Thing\n", "import Thing\nelse:\n    Thing = 1\n"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def mutate(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


def test_the_closure_holds_what_the_entry_reaches_and_no_more(root):
    assert set(fp.code_closure([ENTRY], root=root)) == {
        "nanochat_core.model.gpt", "nanochat_core.model.gpt:table.json",
        "nanochat_core.optim.muon", "nanochat_core.optim.newton", "nanochat_core.train.loop", ENTRY,
        "nanochat_core.worker",
    }  # fmt: skip


@pytest.fixture(params=["parsed", "remembered"])
def closure(request: pytest.FixtureRequest, root: Path) -> Callable[[], dict[str, str]]:
    """The closure as a new process sees it, without and with what earlier processes have kept."""
    path = root / "home/sources.json"
    return lambda: fp.code_closure([ENTRY], root=root, memo=SourceMemo(path) if request.param == "remembered" else None)


@pytest.mark.parametrize("change", SAME)
def test_what_cannot_change_a_result_does_not_count(root, change, closure):
    before = closure()
    mutate(root, *SAME[change])
    assert closure() == before


@pytest.mark.parametrize("change", DIFFERENT)
def test_what_can_change_a_result_counts(root, change, closure):
    before = closure()
    mutate(root, *DIFFERENT[change])
    assert closure() != before


@pytest.mark.parametrize(
    "statement",
    [
        "import nanochat_core.helper\ndef f(): return nanochat_core.helper.H",
        "import nanochat_core.helper as h\ndef f(): return h.H",
        "import nanochat_core.helper as h\ndef f(): return getattr(h, name)",
        "from nanochat_core import helper\ndef f(): return helper.H",
        "from nanochat_core.helper import H\ndef f(): return H",
        "from nanochat_core.helper import H as h\nf = h",
        "from nanochat_core.helper import *\ndef f(): return H",
        "from nanochat_core import *\ndef f(): return helper.H",
        "from .. import helper\ndef f(): return helper.H",
        "from ..helper import H\ndef f(n=H): pass",
        "def f():\n    import nanochat_core.helper\n    return nanochat_core.helper.H",
        "async def f():\n    try:\n        from .. import helper\n        helper.H\n    except ImportError: pass",
        "class f:\n    from ..helper import H\n    h = H",
        "import importlib\nf = importlib.import_module('nanochat_core.helper')",
        "from nanochat_core.helper import H as f",
        "f = ('-m', 'nanochat_core.helper')",
        "f = 'from nanochat_core.helper import H; print(H)'",
        "f = 'nanochat_core.helper:H'",
    ],
)
def test_every_way_to_import_is_followed(root, statement):
    mutate(root, LOOP, "def run(n):", f"{statement}\ndef run(n):\n    f")
    before = fp.code_closure([ENTRY], root=root)
    assert "nanochat_core.helper" in before
    mutate(root, "nanochat_core/helper.py", "H = 1", "H = 2")
    assert fp.code_closure([ENTRY], root=root) != before


CONSTANTS = {
    "plain": "EXTRA = 1",
    "annotated": "EXTRA: int = 1",
    "several": "EXTRA = OTHER = 1",
    "tuple": "EXTRA, OTHER = 1, 2",
    "nested": "(OTHER, [EXTRA, *REST]) = (2, [1, 3])",
    "starred": "FIRST, *EXTRA = 2, 1",
    "walrus": "OTHER = (EXTRA := 1)",
    "walrus in a default": "def g(n=(EXTRA := 1)): pass",
    "walrus in a comprehension": "OTHER = [EXTRA := 1 for _ in range(1)]",
    "augmented": "EXTRA = 0\nEXTRA += 1",
    "condition": "if True:\n    EXTRA = 1\nelse:\n    EXTRA = 3",
    "test of a condition": "if 1 > 0:\n    EXTRA = 2\nelse:\n    EXTRA = 3",
    "attempt": "try:\n    import nothing\nexcept ImportError:\n    EXTRA = 1",
    "caught": "try:\n    raise ValueError(1)\nexcept ValueError as EXTRA:\n    pass",
    "loop": "for EXTRA in (1,):\n    pass",
    "while": "EXTRA = 0\nwhile EXTRA < 1:\n    EXTRA = 1",
    "with": "from contextlib import nullcontext\nwith nullcontext(1) as EXTRA:\n    pass",
    "match": "match 1:\n    case EXTRA:\n        pass",
    "match of parts": "match [1, 2]:\n    case [OTHER, *EXTRA]:\n        pass",
    "match of a mapping": "match {'a': 1}:\n    case {**EXTRA}:\n        pass",
    "global of a function": "EXTRA = 0\ndef g():\n    global EXTRA\n    EXTRA = 1\ng()",
    "by another name": "HIDDEN = 1\nEXTRA = HIDDEN",
    "in a class": "class EXTRA:\n    SIZE = 1",
    "in a base class": "class Base:\n    SIZE = 1\nclass EXTRA(Base): pass",
    "in a decorator": "def with_size(n):\n    return lambda f: f\n@with_size(1)\ndef EXTRA(): pass",
    "in a default": "def EXTRA(n=1): pass",
    "in a keyword default": "def EXTRA(*, n=1): pass",
    "in a lambda": "EXTRA = lambda n=1: n",
    "in a function that it calls": "def g():\n    return 1\ndef EXTRA():\n    return g()",
    "deleted and made again": "EXTRA = 0\ndel EXTRA\nEXTRA = 1",
    "item": "EXTRA = {}\nEXTRA['a'] = 1",
    "attribute": "class EXTRA: pass\nEXTRA.size = 1",
    "method": "EXTRA = []\nEXTRA.append(1)",
    "f-string": "EXTRA = f'{1:>{1}}'",
    "comprehension": "EXTRA = [1 for _ in (1,) if 1]",
    "by its text": "globals()['EXTRA'] = 1",
}


@pytest.mark.parametrize("form", CONSTANTS)
def test_a_constant_counts_in_whatever_form_it_is_written(root, form):
    mutate(root, LOOP, "def run(n):", f"{CONSTANTS[form]}\ndef run(n):\n    EXTRA")
    before = fp.code_closure([ENTRY], root=root)
    text = (root / LOOP).read_text()
    place = text.rindex("1", 0, text.index("def run(n)"))
    (root / LOOP).write_text(f"{text[:place]}9{text[place + 1 :]}")
    assert fp.code_closure([ENTRY], root=root) != before


@pytest.mark.parametrize("form", CONSTANTS)
def test_a_constant_of_another_module_counts_in_whatever_form_it_is_written(root, form):
    (root / "nanochat_core/helper.py").write_text(f"{CONSTANTS[form]}\n")
    mutate(root, LOOP, "def run(n):", "def run(n):\n    from nanochat_core.helper import EXTRA as extra\n    extra")
    before = fp.code_closure([ENTRY], root=root)
    text = CONSTANTS[form]
    place = text.rindex("1")
    (root / "nanochat_core/helper.py").write_text(f"{text[:place]}9{text[place + 1 :]}\n")
    assert fp.code_closure([ENTRY], root=root) != before


@pytest.mark.parametrize(
    "use",
    [
        "return EXTRA",
        "x = [n for n in EXTRA]",
        "x: int = EXTRA",
        "n += EXTRA",
        "n[EXTRA] = 1",
        "f(*EXTRA, **{})",
        "return lambda n=EXTRA: n",
        "with EXTRA: pass",
        "raise EXTRA",
        "assert EXTRA",
        "match n:\n        case EXTRA.A: pass",
        "match n:\n        case _ if EXTRA: pass",
        "try: pass\n    except EXTRA: pass",
        "yield EXTRA",
        "return f'{n:{EXTRA}}'",
        "class C(EXTRA): pass",
        "class C(metaclass=EXTRA): pass",
        "def g(n=EXTRA): pass",
        "@EXTRA\n    def g(): pass",
        "del EXTRA[0]",
        "for n in EXTRA: pass",
        "while EXTRA: pass",
        "return n if EXTRA else 0",
        "return n[EXTRA:]",
        "return {**EXTRA}",
        "return (x := EXTRA)",
        "return not EXTRA",
        "return EXTRA.a.b",
        "return globals()['EXTRA']",
        "global EXTRA\n    EXTRA += 1",
        "return eval('EX' + 'TRA')",
    ],
)
def test_a_constant_counts_in_whatever_way_it_is_used(root, use):
    mutate(root, LOOP, "def run(n):", f"EXTRA = 1\nUNUSED = 1\ndef run(n):\n    {use}\ndef rest(n):")
    before = fp.code_closure([ENTRY], root=root)
    mutate(root, LOOP, "EXTRA = 1", "EXTRA = 9")
    after = fp.code_closure([ENTRY], root=root)
    assert after != before
    mutate(root, LOOP, "UNUSED = 1", "UNUSED = 9")
    assert ("eval" in use or "globals" in use) == (fp.code_closure([ENTRY], root=root) != after)


@pytest.mark.parametrize(
    ("body", "does_count"),
    [
        ("EXTRA = n; return EXTRA", False),
        ("for EXTRA in n: f(EXTRA)", False),
        ("return [EXTRA for EXTRA in n]", False),
        ("return [EXTRA for EXTRA in EXTRA]", True),
        ("return [[EXTRA for n in m] for EXTRA in n]", False),
        ("return [EXTRA for n in m], [EXTRA for EXTRA in n]", True),
        ("return lambda EXTRA: EXTRA", False),
        ("return lambda EXTRA=EXTRA: EXTRA", True),
        ("EXTRA = n\n    def g():\n        return EXTRA", False),
        ("EXTRA = n\n    def g():\n        global EXTRA\n        return EXTRA", True),
        ("def g():\n        EXTRA = n\n    return EXTRA", True),
        ("class C:\n        EXTRA = EXTRA", True),
        ("if n: from ..helper import H as EXTRA\n    EXTRA()", True),
        ("try: pass\n    except E as EXTRA: EXTRA()", False),
        ("with n as EXTRA: EXTRA()", False),
        ("match n:\n        case [*EXTRA]: EXTRA()", False),
        ("return [(EXTRA := n) for n in m], EXTRA", False),
        ("return run.EXTRA", False),
        ("return f(EXTRA=1)", False),
    ],
)
def test_a_variable_hides_the_name_of_the_module_as_in_python(root, body, does_count):
    mutate(root, LOOP, "def run(n):", f"EXTRA = 1\ndef run(n):\n    {body}\ndef rest(n):")
    before = fp.code_closure([ENTRY], root=root)
    mutate(root, LOOP, "EXTRA = 1\ndef", "EXTRA = 9\ndef")
    assert (fp.code_closure([ENTRY], root=root) != before) == does_count


@pytest.mark.parametrize(
    "statement",
    [
        "print()",
        "register(1)",
        "THINGS = registered(1)",
        "class T(Registered): pass",
        "for _ in (1,): pass",
        "import unknown_package",
        "@register\ndef g(): pass",
        "class T(metaclass=M): pass",
        "helper.H = 3",
        "assert f()",
        "class T:\n    print()",
        "def __getattr__(name): return 1",
        "TABLE[0] = 1",
        "def g(n=f()): pass",
        "del run",
        "class T:\n    def __init_subclass__(cls): pass",
        "with f(): pass",
        "while f(): pass",
        "X = [f() for _ in (1,)]",
        "try: f()\nexcept ValueError: pass",
        "if f(): pass",
        "X += 1",
        "def g() -> f(): pass",
        "X: f() = 1",
        "X = lambda n=f(): n",
        "from unknown_package import *",
        "class T(Made()): pass",
        "match f():\n    case _: pass",
    ],
)
def test_what_a_module_does_when_it_is_imported_counts_although_nobody_names_it(root, statement):
    before = fp.code_closure([ENTRY], root=root)
    mutate(root, "nanochat_core/optim/newton.py", "ORDER = 5", f"ORDER = 5\n{statement}")
    assert fp.code_closure([ENTRY], root=root) != before


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("import importlib\n    return importlib.import_module(n)", "importlib.import_module"),
        ("from importlib import import_module as get\n    return get(n)", "importlib.import_module"),
        ("import importlib.util as u\n    return u.spec_from_file_location(n, n)", "importlib.util"),
        ("import pkgutil\n    return list(pkgutil.iter_modules(n))", "pkgutil"),
        ("from importlib.metadata import entry_points\n    return entry_points()", "importlib.metadata.entry_points"),
        ("return __import__(n)", "__import__"),
        ("return eval(n)", "eval"),
        ("exec(n)", "exec"),
        ("import builtins\n    builtins.exec(n)", "exec"),
        ("import runpy\n    runpy.run_path(n)", "runpy"),
        ("import sys\n    return sys.modules[n]", "sys.modules"),
        ("return globals()[n]", "globals"),
        ("return vars()[n]", "vars"),
        ("return Base.__subclasses__()", "__subclasses__"),
        ("return run.__globals__[n]", "__globals__"),
        ("return open(__file__ + n)", "__file__"),
        ("return f'nanochat_core.{n}'", "a module's name put together"),
        ("return __doc__", "__doc__"),
        ("import inspect\n    return inspect.getsource(n)", "inspect.getsource"),
    ],
)
def test_what_cannot_be_followed_is_named(root, text, how):
    assert fp.unfollowed([ENTRY], root=root) == {}
    mutate(root, LOOP, "def run(n):", f"def run(n):\n    {text}\ndef rest(n):")
    assert fp.unfollowed([ENTRY], root=root) == {"nanochat_core.train.loop:run": how}


def test_a_program_is_what_it_does_when_it_is_started(root):
    worker = root / "nanochat_core/worker.py"
    worker.write_text(
        "MODE = 1\ndef main():\n    return MODE\ndef unused():\n    pass\nif __name__ == '__main__':\n    main()\n"
    )
    before = fp.code_closure([ENTRY], root=root)
    mutate(root, "nanochat_core/worker.py", "def unused()", "def other()")
    assert fp.code_closure([ENTRY], root=root) == before
    mutate(root, "nanochat_core/worker.py", "MODE = 1", "MODE = 2")
    assert fp.code_closure([ENTRY], root=root) != before


def test_a_declared_file_of_python_is_read_as_python(root):
    mutate(root, GPT, '("table.json",)', '("table.json", "inner.py")')
    inner = root / "nanochat_core/model/inner.py"
    inner.write_text("X = 1  # a comment\n")
    before = fp.code_closure([ENTRY], root=root)
    inner.write_text("X = 1  # another\n")
    assert fp.code_closure([ENTRY], root=root) == before
    inner.write_text("X = 2\n")
    assert fp.code_closure([ENTRY], root=root) != before


def test_modules_that_import_each_other_are_fine(root):
    mutate(root, "nanochat_core/optim/newton.py", "ORDER", "import nanochat_core.train.pretrain\nORDER")
    assert fp.code_closure([ENTRY], root=root)


def test_several_entries_are_the_union(root):
    both = fp.code_closure(["nanochat_core.helper", "nanochat_core.unused"], root=root)
    assert {"nanochat_core.helper", "nanochat_core.unused"} <= set(both)


def test_clear_errors_for_what_cannot_be_read(root):
    with pytest.raises(ConfigError, match=r"nanochat_core\.nope"):
        fp.code_closure(["nanochat_core.nope"], root=root)
    (root / TABLE).unlink()
    with pytest.raises(ConfigError, match=r"table\.json"):
        fp.code_closure([ENTRY], root=root)
    mutate(root, GPT, '("table.json",)', "tuple(NAMES)")
    with pytest.raises(ConfigError, match="plain tuple"):
        fp.code_closure([ENTRY], root=root)
    mutate(root, GPT, "SIZE = 3", "SIZE = = 3")
    with pytest.raises(ConfigError, match="not valid Python"):
        fp.code_closure([ENTRY], root=root)


def test_the_real_package_closes_without_importing_anything():
    script = (
        "import sys; from nanochat_core.base.closure import code_closure\n"
        "found = code_closure(['nanochat_core.data.tokenize'])\n"
        "assert 'nanochat_core.data.shards' in found and 'nanochat_core.base.errors' not in found\n"
        "assert 'torch' not in sys.modules and 'nanochat_core.data' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3], timeout=60)
