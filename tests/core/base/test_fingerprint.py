"""The cache key changes with everything that can change a result, and with nothing else."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base import fingerprint as fp
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
    return loop.run(steps) + gpt.SIZE

class Empty:
    """Only a docstring."""
''',
    "nanochat_core/train/loop.py": "def run(n):\n    from ..optim.muon import step\n    return step(n)\n",
    "nanochat_core/model/__init__.py": "",
    "nanochat_core/model/gpt.py": 'SIZE = 3\nCLOSURE_FILES = ("table.json",)\nWORKER = "nanochat_core.worker"\n',
    "nanochat_core/model/table.json": '{"a": 1}',
    "nanochat_core/optim/__init__.py": "",
    "nanochat_core/optim/muon.py": "import nanochat_core.optim.newton\ndef step(n):\n    return n + 1\n",
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
    "line breaks": (PRETRAIN, "loop.run(steps) + gpt.SIZE", "(\n        loop.run(steps)\n        + gpt.SIZE\n    )"),
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
    "package on the way": ("nanochat_core/optim/__init__.py", "", "X = 1\n"),
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
        "nanochat_core", "nanochat_core.base", "nanochat_core.model", "nanochat_core.model.gpt",
        "nanochat_core.model.gpt:table.json", "nanochat_core.optim", "nanochat_core.optim.muon",
        "nanochat_core.optim.newton", "nanochat_core.train", "nanochat_core.train.loop", ENTRY, "nanochat_core.worker",
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
        "import nanochat_core.helper",
        "import nanochat_core.helper as h",
        "from nanochat_core import helper",
        "from nanochat_core.helper import H",
        "from nanochat_core.helper import *",
        "from nanochat_core import *",
        "from .. import helper",
        "from ..helper import H",
        "def f():\n    import nanochat_core.helper",
        "async def f():\n    try:\n        from .. import helper\n    except ImportError:\n        pass",
        "class C:\n    from ..helper import H",
        "import importlib\nimportlib.import_module('nanochat_core.helper')",
    ],
)
def test_every_way_to_import_is_followed(root, statement):
    mutate(root, LOOP, "def run", f"{statement}\ndef run")
    assert "nanochat_core.helper" in fp.code_closure([ENTRY], root=root)


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
        "import sys; from nanochat_core.base.fingerprint import code_closure\n"
        "found = code_closure(['nanochat_core.store.store'])\n"
        "assert 'nanochat_core.store.cache' in found and 'nanochat_core.base.errors' not in found\n"
        "assert 'torch' not in sys.modules and 'nanochat_core.store' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3], timeout=60)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(JSON_VALUES)
def test_canonical_json_keeps_every_value_and_is_a_fixed_point(value):
    text = fp.canonical_json(value)
    assert json.loads(text) == value
    assert fp.canonical_json(json.loads(text)) == text
    assert text.isascii()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON_VALUES, min_size=2, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    backwards = dict(reversed(list(value.items())))
    assert fp.canonical_json(backwards) == fp.canonical_json(value)


@settings(max_examples=60, deadline=None)
@given(JSON_VALUES, JSON_VALUES)
def test_canonical_json_of_different_values_differs(one, two):
    if fp.canonical_json(one) == fp.canonical_json(two):
        assert one == two


def test_tuples_are_lists_and_dataclasses_are_their_fields():
    @dataclass(frozen=True)
    class Inner:
        rate: float = 0.1
        sizes: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner = field(default_factory=Inner)

    assert fp.canonical_json(Outer()) == '{"inner":{"rate":0.1,"sizes":[1,2]}}'


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: "x"}, {"a": {1, 2}}, b"x", Path("x"), object(), int])
def test_what_has_no_fixed_json_form_is_refused_by_name(value):
    with pytest.raises(ConfigError, match="value"):
        fp.canonical_json(value)


def test_fingerprint_is_the_same_in_every_process():
    script = (
        "from nanochat_core.base.fingerprint import *\n"
        "print(fingerprint(step='s', config={'b': 1, 'a': [0.1, None]}, inputs={'x': 'y', 'w': 'z'},"
        " code={'m': 'n'}, packages={'p': '1'}))"
    )
    seen = set()
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        root = Path(__file__).parents[3]
        done = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, check=True, timeout=60
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def test_fingerprint_depends_on_each_of_its_parts():
    base = {"step": "s", "config": {"a": 1}, "inputs": {"i": "1"}, "code": {"m": "1"}, "packages": {"p": "1"}}
    changed = [
        {"step": "t"}, {"config": {"a": 1.0}}, {"inputs": {"i": "2"}}, {"code": {"n": "1"}}, {"packages": {"p": "2"}},
    ]  # fmt: skip
    prints = {fp.fingerprint(**{**base, **change}) for change in [{}, *changed]}
    assert len(prints) == 6
    assert all(len(each) == 64 for each in prints)


def test_package_versions_leave_out_the_local_part(monkeypatch):
    monkeypatch.setattr(fp.metadata, "version", lambda name: "2.11.0+cpu")
    assert fp.package_versions(["torch"]) == {"torch": "2.11.0"}
    monkeypatch.undo()
    assert fp.package_versions(["surely-not-installed"]) == {"surely-not-installed": "absent"}
