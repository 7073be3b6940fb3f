"""The bill of what a run installs names all of it, and an audit that cannot look is none."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from pinned_venv import programs

LOCK = ROOT / "infra/supply.lock"


@pytest.mark.torture
@pytest.mark.slow
def test_the_bill_names_every_pin(tmp_path: Path) -> None:
    command = [programs("supply", LOCK) / "cyclonedx-py", "requirements", "--of", "JSON", "-o", tmp_path / "sbom.json"]
    subprocess.run([*command, ROOT / "requirements.lock"], check=True, timeout=120)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {f"{part['name']}=={part['version']}".lower() for part in bill["components"]}
    pins = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    assert listed == {pin.partition(" ;")[0].lower() for pin in pins}
