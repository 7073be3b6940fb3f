"""ARCHITECTURE.md against the tree: its rooms, its paths, and who may not know whom."""

import re

import grimp
import pytest
from conftest import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
CORE = ROOT / "nanochat_core"
ROOMS = re.findall(r"^\| `([\w/]+/)` \| .+ \| (.*?) ?\|$", PAGE, re.MULTILINE)
PACKAGES = {  # the words of the column "may not know" -> what they forbid
    "store": "nanochat_core.store", "pipeline": "nanochat_core.pipeline", "the command line": "nanochat_core.cli",
    "torch": "torch", "Prefect": "prefect", "flows": "flows",
}  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("flows", "tasks", "nanochat_core", include_external_packages=True)


def test_every_room_is_told_and_every_told_room_is_there() -> None:
    outside = {f"{name}/" for name in ("flows", "tasks", "deployments", "infra", "benchmarks", "tests")}
    inside = {f"nanochat_core/{path.parent.name}/" for path in CORE.glob("*/__init__.py")}
    assert {room for room, _ in ROOMS} == outside | inside


def test_every_path_exists() -> None:
    paths = [path for path in re.findall(r"`([\w/.*]+/[\w/.*]*)`", PAGE) if not path.endswith("/X.py")]
    assert len(paths) > 60
    assert [path for path in paths if not any(True for _ in ROOT.glob(path)) and not any(CORE.glob(path))] == []


@pytest.mark.parametrize(("room", "words"), [pair for pair in ROOMS if set(pair[1].split(", ")) & PACKAGES.keys()])
def test_a_room_does_not_know_what_the_page_says(graph: grimp.ImportGraph, room: str, words: str) -> None:
    package = room.strip("/").replace("/", ".")
    for word in words.split(", "):
        assert (
            graph.find_shortest_chains(package, PACKAGES[word], as_packages=word not in ("torch", "Prefect")) == set()
        )


def test_what_stands_lowest_knows_nothing_above(graph: grimp.ImportGraph) -> None:
    for lowest in ("nanochat_core.base", "nanochat_core.kernels"):
        inside = {lowest, *graph.find_descendants(lowest)}
        known = {other for module in inside for other in graph.find_modules_directly_imported_by(module)}
        assert {other for other in known - inside if other.startswith("nanochat_core.")} == set()
