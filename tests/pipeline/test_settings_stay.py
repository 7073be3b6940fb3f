"""The settings part of every preset's keys, held across changes: whoever upgrades does not pay again.

tests/golden/settings.json is written by `python tests/pipeline/test_settings_stay.py` and changes only where a key is
meant to change. A setting that came later is `base.neutral.later(neutral)`, and in no key at its neutral value.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.base.neutral import identity, later
from nanochat_core.config import GPTConfig
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config, preset_names

TABLE = Path(__file__).parents[1] / "golden/settings.json"
SHAPE = GPTConfig(sequence_len=64, vocab_size=265, n_layer=2, n_head=2, n_kv_head=1, n_embd=64)


def settings_of(preset: str) -> dict[str, Any]:
    plan = plan_run(load_config(preset))
    found = {name: step.settings(plan) for name, step in STEPS.items()}
    return _without_versions(found)


def _without_versions(found: dict[str, Any]) -> dict[str, Any]:
    """Without the packages that are installed here, whose documentation is read."""
    kept = {name: {key: it for key, it in each.items() if key != "documented"} for name, each in found.items()}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


@pytest.mark.parametrize("preset", preset_names())
def test_the_settings_in_every_key_are_those_of_the_table(preset: str) -> None:
    held = _without_versions(json.loads(TABLE.read_text(encoding="utf-8"))[preset])
    found = settings_of(preset)
    assert {name: found[name] for name in held} == held


@dataclass(frozen=True)
class Grown:
    """A config to which settings were added."""

    depth: int = 2
    is_wide: bool = later(False)
    ratio: float = later(1.0, default=2.0)
    model: GPTConfig = SHAPE


def test_a_later_setting_is_in_the_key_only_where_it_is_not_neutral() -> None:
    assert identity(Grown()) == {"depth": 2, "ratio": 2.0, "model": identity(SHAPE)}
    assert identity(Grown(ratio=1.0)) == {"depth": 2, "model": identity(SHAPE)}
    assert identity(Grown(is_wide=True))["is_wide"] is True
    assert identity(replace(Grown(), is_wide=0))["is_wide"] == 0, "another kind of value is another value"


if __name__ == "__main__":
    TABLE.write_text(json.dumps({name: settings_of(name) for name in preset_names()}, indent=1, sort_keys=True) + "\n")
