"""Forms of Python that hide from a reader what a body reaches, each in a package of its own that holds nothing else.

An edit of `7` into `8` changes what `body` gives, or what it reads: the key must change, or the reader must say that it
cannot follow. Where it changes nothing for `body`, the key stays.
"""

import sys
from pathlib import Path

import pytest

from nanochat_core.base.closure import code_closure, unfollowed

ENTRY = "nanochat_core.body:body"
Files = dict[str, str]

# Name -> the files of a package; the edit is made in the file that holds a 7.
SEEN: dict[str, Files] = {
    "a fallback, taken": {
        "body": "try:\n    from .fast import f\nexcept ImportError:\n    from .slow import f\n\ndef body(): return f()",
        "fast": "def f(): return 7",
        "slow": "def f(): return 0",
    },
    "a fallback, by default": {
        "body": "try:\n    from .fast import f\nexcept ImportError:\n    from .slow import f\n\ndef body(): return f()",
        "fast": "def f(): return 0",
        "slow": "def f(): return 7",
    },
    "a conditional import, first branch": {
        "body": "import sys\nif sys.maxsize > 1:\n    from .a import f\nelse:\n    from .b import f\n\n"
        "def body(): return f()",
        "a": "def f(): return 7",
        "b": "def f(): return 0",
    },
    "a conditional module, first branch": {
        "body": "import sys\nif sys.maxsize > 1:\n    from . import a as m\nelse:\n    from . import b as m\n\n"
        "def body(): return m.f()",
        "a": "def f(): return 7",
        "b": "def f(): return 0",
    },
    "an import that a definition follows": {
        "body": "from .fast import f\nimport sys\nif sys.maxsize < 1:\n    def f(): return 0\n\ndef body(): return f()",
        "fast": "def f(): return 7",
    },
    "imported twice": {
        "body": "from .b import f as g\ng = g\nfrom .a import f as g\n\ndef body(): return g()",
        "a": "from .b import f",
        "b": "def f(): return 7",
    },
    "re-exported by one of two": {
        "body": "from .facade import f\n\ndef body(): return f()",
        "facade": "try:\n    from .fast import f\nexcept ImportError:\n    from .slow import f",
        "fast": "def f(): return 7",
        "slow": "def f(): return 0",
    },
    "imported in the body of a class": {
        "body": "class Tools:\n    from .a import f\n\ndef body(): return Tools.f()",
        "a": "def f(): return 7",
    },
    "imported into a global": {
        "body": "def load():\n    global f\n    from .a import f\n\ndef body():\n    load()\n    return f()",
        "a": "def f(): return 7",
    },
    "a module imported into a global": {
        "body": "def load():\n    global m\n    from . import a as m\n\ndef body():\n    load()\n    return m.f()",
        "a": "def f(): return 7",
    },
    "imported in a class for its subclass": {
        "body": "from .base import Base\n\nclass Own(Base): pass\n\ndef body(): return Own().f()",
        "base": "class Base:\n    from .a import f",
        "a": "def f(self): return 7",
    },
    "a program loaded as a module": {
        "body": "import importlib\n\ndef body(): return importlib.import_module('nanochat_core.a').f()",
        "a": "def f(): return 7\n\ndef main(): pass\n\nif __name__ == '__main__':\n    main()",
    },
    "a program loaded as a module by another name": {
        "body": "from importlib import import_module as load\n\n"
        "def body(): return getattr(load('nanochat_core.a'), 'f')()",
        "a": "def f(): return 7\n\ndef main(): pass\n\nif __name__ == '__main__':\n    main()",
    },
    "a relative name of a module": {
        "body": "import importlib\n\ndef body(): return importlib.import_module('.a', __package__).f()",
        "a": "def f(): return 7",
    },
    "a program put together": {
        "body": "import subprocess, sys\n\n"
        "def body(n): subprocess.run([sys.executable, '-c', f'import nanochat_core.{n}'])",
        "a": "print(7)",
    },
    "a program by -m, put together": {
        "body": "import subprocess, sys\nfrom .names import HERE\n\n"
        "def body(n): subprocess.run([sys.executable, '-m', HERE + '.a'])",
        "names": "HERE = 'nanochat_core'",
        "a": "if __name__ == '__main__':\n    print(7)",
    },
    "a name of the package before its module": {
        "body": "from nanochat_core.tools import a\n\ndef body(): return a()",
        "tools/__init__": "def a(): return 7",
        "tools/a": "X = 0",
    },
    "the modules of a package by getattr": {
        "body": "from nanochat_core import tools\n\ndef body(n): return getattr(tools, n).f()",
        "tools/__init__": "",
        "tools/a": "def f(): return 7",
    },
    "a constant of a package": {
        "body": "from . import LIMIT\n\ndef body(): return LIMIT",
        "__init__": "LIMIT = 7",
    },
    "the version": {
        "body": "from . import __version__\n\ndef body(): return __version__",
        "__init__": "__version__ = '7'",
    },
    "a TYPE_CHECKING of one's own": {
        "body": "class flags:\n    TYPE_CHECKING = True\n\nLIMIT = 1\nif flags.TYPE_CHECKING:\n    LIMIT = 7\n\n"
        "def body(): return LIMIT",
    },
    "a TYPE_CHECKING that is set": {
        "body": "TYPE_CHECKING = True\nLIMIT = 1\nif TYPE_CHECKING:\n    LIMIT = 7\n\ndef body(): return LIMIT",
    },
    "a class made by type": {
        "body": "from .base import known\nimport nanochat_core.plugin\n\ndef body(): return known",
        "base": "known = []\n\nclass Base:\n    def __init_subclass__(cls): known.append(cls.size)",
        "plugin": "from .base import Base\nPlugin = type('Plugin', (Base,), {'size': 7})",
    },
    "a key function at import": {
        "body": "from .base import known\nimport nanochat_core.plugin\n\ndef body(): return known",
        "base": "known = []",
        "plugin": "from .base import known\nORDER = sorted((1, 2), key=lambda each: known.append(7))",
    },
    "a table that an import fills": {
        "body": "from .base import TABLE\nimport nanochat_core.plugin\n\ndef body(): return TABLE",
        "base": "TABLE = {}",
        "plugin": "from .base import TABLE\nTABLE['a'] = 7",
    },
    "a function that an import replaces": {
        "body": "import nanochat_core.patch\nfrom . import base\n\ndef body(): return base.f()",
        "base": "def f(): return 0",
        "patch": "from . import base\nbase.f = lambda: 7",
    },
    "an implementation that another module registers": {
        "body": "from .base import show\nimport nanochat_core.plugin\n\ndef body(): return show(1)",
        "base": "import functools\n\n@functools.singledispatch\ndef show(value): return 0",
        "plugin": "from .base import show\n\n@show.register\ndef _(value: int): return 7",
    },
    "state that another module's function sets": {
        "body": "from . import state\nfrom .setter import prepare\n\n"
        "def body():\n    prepare()\n    return state.LIMIT",
        "state": "LIMIT = 0",
        "setter": "from . import state\n\ndef prepare(): state.LIMIT = 7",
    },
    "a metaclass": {
        "body": "from .meta import Meta\n\nclass Own(metaclass=Meta): pass\n\ndef body(): return Own.size",
        "meta": "class Meta(type):\n    def __new__(cls, *rest):\n        made = super().__new__(cls, *rest)\n"
        "        made.size = 7\n        return made",
    },
    "a descriptor": {
        "body": "from .size import Size\n\nclass Own:\n    size = Size()\n\ndef body(): return Own().size",
        "size": "class Size:\n    def __get__(self, owner, kind): return 7",
    },
    "a __getattr__ of a module": {
        "body": "from . import lazy\n\ndef body(): return lazy.anything",
        "lazy": "def __getattr__(name): return 7",
    },
    "a mixin": {
        "body": "from .mixin import Sized\n\nclass Own(Sized): pass\n\ndef body(): return Own.size",
        "mixin": "class Sized:\n    size = 7",
    },
    "a default of a dataclass": {
        "body": "from .size import default\nfrom dataclasses import dataclass, field\n\n@dataclass\nclass Own:\n"
        "    size: int = field(default_factory=default)\n\ndef body(): return Own()",
        "size": "def default(): return 7",
    },
    "a member of an enum": {
        "body": "from .size import SIZE\nimport enum\n\nclass Own(enum.IntEnum):\n    A = SIZE\n\n"
        "def body(): return Own.A",
        "size": "SIZE = 7",
    },
    "a default of a named tuple": {
        "body": "from .size import SIZE\nfrom typing import NamedTuple\n\n"
        "class Own(NamedTuple):\n    size: int = SIZE\n\ndef body(): return Own()",
        "size": "SIZE = 7",
    },
    "a nested f-string": {
        "body": "from .size import WIDTH\n\ndef body(x): return f'{x:{WIDTH + len(f\"{x}\")}}'",
        "size": "WIDTH = 7",
    },
    "a class pattern": {
        "body": "from .shapes import Point\n\ndef body(x):\n    match x:\n        case Point(y): return y",
        "shapes": "class Point:\n    __match_args__ = ('a',)\n    a = 7",
    },
    "a value pattern": {
        "body": "from . import sizes\n\ndef body(x):\n    match x:\n        case sizes.LIMIT: return 1",
        "sizes": "LIMIT = 7",
    },
    "a walrus in a comprehension": {
        "body": "from .sizes import LIMIT\n\ndef body(xs): return [(LIMIT_ := x) for x in xs if x < LIMIT]",
        "sizes": "LIMIT = 7",
    },
    "a walrus of the module": {
        "body": "SQUARES = [(last := x * 7) for x in (1, 2)]\n\ndef body(): return last",
    },
    "all that __all__ names": {
        "body": "from .names import *\n\ndef body(): return LIMIT",
        "names": "from .sizes import LIMIT\n__all__ = ['LIMIT']",
        "sizes": "LIMIT = 7",
    },
    "a decorator that keeps": {
        "body": "from .kept import KEPT\nimport nanochat_core.plugin\n\ndef body(): return KEPT",
        "kept": "KEPT = []\n\ndef keep(f):\n    KEPT.append(f)\n    return f",
        "plugin": "from .kept import keep\n\n@keep\ndef made(): return 7",
    },
    "a name in a text": {
        "body": "from . import sizes\n\ndef body(n): return eval('sizes.LIMIT')",
        "sizes": "LIMIT = 7",
    },
    "a hint that is looked at": {
        "body": "from typing import get_type_hints\nfrom .sizes import Size\n\ndef made(x: Size): return x\n\n"
        "def body(): return get_type_hints(made)['x']()",
        "sizes": "class Size:\n    value = 7",
    },
    "the text of a function": {
        "body": "from .told import f\n\ndef body(): return f.__doc__",
        "told": "def f():\n    'says 7'",
    },
    "the text of a function by inspect": {
        "body": "import inspect\nfrom .told import f\n\ndef body(): return inspect.getdoc(f)",
        "told": "def f():\n    'says 7'",
    },
    "a table beside a module": {
        "body": "from pathlib import Path\nfrom . import told\n\n"
        "def body(): return Path(told.__file__).with_name('t.json').read_text()",
        "told": "",
        "t.json": "7",
    },
    "a table below a package": {
        "body": "import nanochat_core\n\ndef body(): return open(nanochat_core.__path__[0] + '/t.json').read()",
        "__init__": "",
        "t.json": "7",
    },
    "a table beside a function": {
        "body": "import os\n\ndef body(): return open(os.path.dirname(body.__code__.co_filename) + '/t.json').read()",
        "t.json": "7",
    },
    "a table by inspect": {
        "body": "import inspect, os\n\n"
        "def body(): return open(os.path.dirname(inspect.getfile(body)) + '/t.json').read()",
        "t.json": "7",
    },
    "a table as a resource": {
        "body": "from importlib import resources\n\n"
        "def body(): return resources.files('nanochat_core').joinpath('t.json').read_text()",
        "t.json": "7",
    },
    "a table by a folder's constant": {
        "body": "from .base.fingerprint import PACKAGE_ROOT\n\n"
        "def body(): return (PACKAGE_ROOT / 't.json').read_text()",
        "base/__init__": "",
        "base/closure": "from pathlib import Path\nPACKAGE_ROOT = Path(__file__).resolve().parents[2]",
        "base/fingerprint": "from nanochat_core.base.closure import PACKAGE_ROOT as PACKAGE_ROOT",
        "t.json": "7",
    },
    "an entry point": {
        "body": "from importlib import metadata\n\n"
        "def body(): return [each.load()() for each in metadata.entry_points(group='ours')]",
        "a": "def f(): return 7",
    },
    "a compiled module": {
        "body": "from . import fast\n\ndef body(): return fast.f()",
        "fast.cpython-311-x86_64-linux-gnu.so": "7",
    },
    "a compiled alternative": {
        "body": "try:\n    from .fast import f\nexcept ImportError:\n    from .slow import f\n\ndef body(): return f()",
        "fast.abi3.so": "7",
        "slow": "def f(): return 0",
    },
}  # fmt: skip
SEEN_BY_NEWER_PYTHONS: dict[str, Files] = {
    "a bound of a type parameter": {
        "body": "from .sizes import Size\n\nclass Own[T: Size]:\n    pass\n\n"
        "def body(): return Own.__type_params__[0].__bound__()",
        "sizes": "class Size:\n    value = 7",
    },
    "a type alias": {
        "body": "from .sizes import Size\n\ntype Own = Size\n\ndef body(): return Own.__value__()",
        "sizes": "class Size:\n    value = 7",
    },
}  # fmt: skip
UNSEEN: dict[str, Files] = {
    "a name beside the fallback's": {
        "body": "try:\n    from .fast import f\nexcept ImportError:\n    from .slow import f\n\ndef body(): return f()",
        "fast": "def f(): return 0\n\ndef g(): return 7",
        "slow": "def f(): return 0",
    },
    "a name beside one of a module in a function": {
        "body": "def body():\n    from . import a\n    return a.f()",
        "a": "def f(): return 0\n\ndef g(): return 7",
    },
    "what only type checkers see": {
        "body": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    LIMIT = 7\n\ndef body(): return 0",
    },
    "what only type checkers see, by the module": {
        "body": "import typing as t\nif t.TYPE_CHECKING:\n    LIMIT = 7\n\ndef body(): return 0",
    },
    "the version, where nobody asks": {
        "body": "from . import LIMIT\n\ndef body(): return LIMIT",
        "__init__": "LIMIT = 0\n__version__ = '7'",
    },
    "a docstring": {"body": "from .told import f\n\ndef body(): return f()", "told": "def f():\n    'says 7'"},
    "another module of a package": {
        "body": "from .tools import a\n\ndef body(): return a.f()",
        "tools/__init__": "",
        "tools/a": "def f(): return 0",
        "tools/b": "def f(): return 7",
    },
}


def written(folder: Path, files: Files) -> Path:
    for name, text in {"__init__": "", **files}.items():
        path = folder / "nanochat_core" / (f"{name}.py" if "." not in name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def edited(files: Files) -> Files:
    return {name: text.replace("7", "8") for name, text in files.items()}


def is_seen(tmp_path: Path, files: Files) -> bool:
    one, two = written(tmp_path / "one", files), written(tmp_path / "two", edited(files))
    return code_closure([ENTRY], root=one) != code_closure([ENTRY], root=two)


@pytest.mark.parametrize("files", SEEN.values(), ids=SEEN)
def test_an_edit_behind_any_form_is_seen_or_refused(files: Files, tmp_path: Path) -> None:
    assert is_seen(tmp_path, files) or unfollowed([ENTRY], root=tmp_path / "one")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12's own forms")
@pytest.mark.parametrize("files", SEEN_BY_NEWER_PYTHONS.values(), ids=SEEN_BY_NEWER_PYTHONS)
def test_an_edit_behind_a_form_of_newer_pythons_is_seen(files: Files, tmp_path: Path) -> None:
    assert is_seen(tmp_path, files)


@pytest.mark.parametrize("files", UNSEEN.values(), ids=UNSEEN)
def test_an_edit_that_the_body_does_not_reach_costs_no_run(files: Files, tmp_path: Path) -> None:
    assert not is_seen(tmp_path, files)
