"""The documents, run: every block, in order, in a home of its own. `make docs` runs the long ones too, and counts."""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import LANGUAGES, Block, blocks, missing_lines
from conftest import ROOT
from player import Player

README = "README.md"
DOCUMENTS = sorted([*(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "CONTRIBUTING.md", "SECURITY.md"])
IS_LONG = bool(os.environ.get("NANOCHAT_DOCS_LONG"))
COUNTS: Counter[str] = Counter()


def of(document: str) -> list[Block]:
    return blocks(ROOT / document, document)


def played(document: str, folder: Path, home: Path, corpus: Path) -> list[str]:
    player = Player(folder, home, corpus, is_long=IS_LONG, is_active=document != README)
    try:
        for block in of(document):
            player.play(block)
    finally:
        player.close()
        COUNTS.update(player.counts)
    return player.failures


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> tuple[Path, list[str]]:
    """README's home once its blocks have run in it, and what failed: the models that the other documents talk about."""
    home = tmp_path_factory.mktemp("home")
    return home, played(README, tmp_path_factory.mktemp("README"), home, small_corpus)


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """What became of the blocks, for whoever runs this with -s."""
    yield
    print("\n" + "\n".join(f"{number:4}  {what}" for what, number in sorted(COUNTS.items())))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readme_is_true(readme: tuple[Path, list[str]]) -> None:
    assert not readme[1], "\n\n".join(readme[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if of(name)])
def test_a_document_is_true(document: str, readme: tuple[Path, list[str]], tmp_path: Path, small_corpus: Path) -> None:
    assert not readme[1], "the README's blocks failed: there are no models to go on with"
    home, folder = tmp_path / "home", tmp_path / "here"
    shutil.copytree(readme[0], home, symlinks=True)
    folder.mkdir()
    failures = played(document, folder, home, small_corpus)
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize("document", [README, *DOCUMENTS])
def test_every_block_says_what_it_is(document: str) -> None:
    assert [block.place for block in of(document) if block.language not in LANGUAGES] == []


def test_what_drifts_is_seen() -> None:
    printed = "model   depth 3, width 128\nother\npretrain  made in 3 s: 30 steps, bpb 3.26\n"
    same = "model depth 3, width 128\npretrain made in 7 min 31 s: 30 steps, bpb 3.26\n"
    assert missing_lines(same, printed, {}) == []
    assert missing_lines(same.replace("3.26", "3.30"), printed, {"numbers": "2%"}) == []
    assert missing_lines(same.replace("832", "9"), printed, {"numbers": "any"}) == []
    for drifted in (same.replace("depth 3", "depth 4"), same.replace("width", "wide"), same.replace("3.26", "3.30")):
        assert len(missing_lines(drifted, printed, {})) in (1, 2)
    assert missing_lines("\n".join(reversed(same.splitlines())), printed, {}), "the order counts"
    assert missing_lines(f"{same}not there\n", printed, {"without": "^not"}) == []
    assert re.search("not there", missing_lines(f"{same}not there\n", printed, {})[0])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_a_run_leaves_is_in_the_reference(readme: tuple[Path, list[str]]) -> None:
    assert not readme[1], "the README's blocks failed"
    page, home = (ROOT / "docs/reference.md").read_text(encoding="utf-8"), readme[0] / ".nanochat"
    left = [re.sub(r"-\d+\.\d+\.\d+", "-<version>", path.name) for path in home.iterdir()]
    assert [name for name in left if f"`{name}/" not in page and f"`{name}`" not in page] == []
    assert {path.name for path in (home / "store/refs").iterdir()} == {"tiny-base", "tiny-sft", "tiny-chat"}
