"""Records that earlier versions wrote stay sound, by the rules of their time; damaged ones stay refused.

tests/golden/records: by the commit that wrote it, or by the rules and what is special about it. A record is added with
every release and with every new number of rules, and never written anew.
"""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from core.record.spoil import Edit, edit_json, edit_line, reseal_bundle, reseal_manifest, setting

from nanochat_core.base.neutral import later
from nanochat_core.presets import _section_from_record
from nanochat_core.record import rules
from nanochat_core.record.problems import ABSENT
from nanochat_core.record.verify import verify

FOLDER = ROOT / "tests/golden/records"
RECORDS = sorted(FOLDER.glob("*.zip"))
RULES_OF = {"65379cf.zip": 1, "f4df12b.zip": 1}  # others: of 2
LOG = "pretrain/log/metrics.jsonl"
of_each_record = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)


@pytest.fixture
def bundle(path: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "bundle")
    return tmp_path / "bundle"


def run_of(bundle: Path) -> str:
    return next((bundle / "evidence").iterdir()).name


@of_each_record
def test_a_record_of_an_earlier_version_is_sound_by_its_rules(path: Path) -> None:
    verdict = verify(path)
    assert verdict.problems == ()
    assert verdict.rules == RULES_OF.get(path.name, 2)


def test_there_is_a_record_of_every_number_of_rules() -> None:
    assert {verify(path).rules for path in RECORDS} == {*range(rules.FIRST, rules.CURRENT + 1)}


DAMAGES: dict[str, tuple[str, Edit, str]] = {
    "a claim": ("record.json", setting("claims/clock_s", lambda value: value / 2), "claims.clock_s"),
    "a seed": ("record.json", setting("claims/runs/0/seed", 7), "claims.runs[0].seed"),
    "a plan": ("plan.json", setting("pretrain/num_steps", 3), "pretrain.num_steps"),
    "a setting": ("manifests/pretrain.json", setting("config/seed", 7), "config.seed"),
    "a setting that came later": ("manifests/pretrain.json", setting("config/fp8", "dynamic"), "config.fp8"),
    "rules that are not known": ("record.json", setting("rules", 99), "rules is 99"),
}


@of_each_record
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused_also_where_its_digests_fit_again(bundle: Path, damage: str) -> None:
    name, edit, told = DAMAGES[damage]
    file = bundle / name if name == "record.json" else bundle / "evidence" / run_of(bundle) / name
    edit_json(file, edit)
    if name.startswith("manifests/"):
        reseal_manifest(bundle / "evidence" / run_of(bundle), "pretrain")
    reseal_bundle(bundle)
    assert any(told in str(problem) for problem in verify(bundle).problems)


@of_each_record
def test_a_changed_line_and_a_byte_are_refused(bundle: Path, path: Path) -> None:
    log = bundle / "evidence" / run_of(bundle) / LOG
    edit_line(log, 5, setting("loss", 1.0))
    assert any("line 5" in str(problem) for problem in verify(bundle).problems)
    shutil.rmtree(bundle)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt = bundle.with_suffix(".zip")
    spoilt.write_bytes(content)
    assert not verify(spoilt).is_sound


def test_what_came_later_may_be_absent_at_its_neutral_value_and_under_earlier_rules_alone() -> None:
    claim = "claims.runs[0].steps_by_code"
    assert rules.may_lack_claim(claim, ABSENT, [], rules=1)
    assert not rules.may_lack_claim(claim, ABSENT, [], rules=2)
    assert not rules.may_lack_claim(claim, ABSENT, [{"first_step": 1}], rules=1), "it says something"
    assert not rules.may_lack_claim("claims.clock_s", ABSENT, 1.0, rules=1)
    assert rules.may_lack_setting("config.fp8", ABSENT, "auto")
    assert rules.may_lack_setting("pretrain.model.softcap", ABSENT, 15.0)
    assert not rules.may_lack_setting("pretrain.model.softcap", ABSENT, 20.0)
    assert not rules.may_lack_setting("pretrain.model.smear", ABSENT, 1), "1 is not true"
    assert not rules.may_lack_setting("pretrain.model.smear", False, True)
    assert not rules.may_lack_setting("config.seed", ABSENT, 42)


def test_a_setting_that_a_ledger_lacks_stands_at_the_value_that_is_as_good_as_absent() -> None:
    @dataclass(frozen=True)
    class Section:
        seed: int = 1
        sharper: bool = later(False, default=True)

    assert _section_from_record(Section, "section", {"seed": 2}) == Section(2, sharper=False)
    assert _section_from_record(Section, "section", {"sharper": True}) == Section(1, sharper=True)
