"""The site has every document; `make site` refuses what leads nowhere (.ci/weekly builds it)."""

from typing import Any

import yaml
from conftest import ROOT


def pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in pages(each)]


def test_every_document_is_in_the_site_once() -> None:
    listed = pages(yaml.safe_load((ROOT / "infra/mkdocs.yml").read_text())["nav"])
    there = [path.name for path in ROOT.glob("*.md")] + [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    assert sorted(listed) == sorted([*there, "benchmarks/RESULTS.md"])
