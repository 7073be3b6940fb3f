"""The cache key changes with everything that can change a result, and with nothing else."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base import fingerprint as fp
from nanochat_core.base.errors import ConfigError

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
