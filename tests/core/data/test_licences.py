"""Terms of a source: what is said goes before what is found, what is neither is unknown, and no key holds any of it."""

import pytest

from nanochat_core.data.licences import UNKNOWN, corpus_terms, talk_terms, terms
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import conversations, corpus


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    return folder


def test_what_nobody_says_is_unknown(folder):
    found = terms(None, None, path=str(folder))
    assert (found.licence, found.origin) == (UNKNOWN, "files named texts")
    assert "unknown" in found.note("text", "corpus.licence")
    assert "corpus.licence" in found.note("text", "corpus.licence")
    assert terms(None, None, dataset="somebody/else").licence == UNKNOWN


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_card_or_a_licence_beside_the_files_says_it(folder, given):
    path = str(folder if given == "folder" else folder / "a.jsonl")
    (folder / "LICENSE").write_text("\nMIT License\n\nCopyright")
    assert terms(None, None, path=path).licence == "MIT License"
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Texts\n")
    assert terms(None, None, path=path).licence == "cc0-1.0"


def test_what_is_said_goes_before_what_is_found(folder):
    (folder / "LICENSE").write_text("MIT License")
    found = terms("CC BY 4.0", "a survey of 2025", path=str(folder))
    assert (found.licence, found.origin) == ("CC BY 4.0", "a survey of 2025")
    assert found.note("text", "corpus.licence") == "licence of the text: CC BY 4.0"


def test_the_web_text_of_the_presets_is_known_to_be_non_commercial():
    found = corpus_terms(load_config("d12").corpus)
    assert "NC" in found.licence
    assert "https://" in found.licence
    assert found.origin == "karpathy/climbmix-400b-shuffle"


def test_a_licence_is_in_no_key(folder):
    said = ["corpus.licence=MIT", "corpus.origin=a survey", "sft.licence=MIT", "sft.origin=a survey"]
    path = ["corpus.source=path", f"corpus.path={folder}"]
    plain, with_licence = plan_run(load_config("tiny", path)), plan_run(load_config("tiny", [*path, *said]))
    assert corpus.settings(plain) == corpus.settings(with_licence)
    assert conversations.settings(plain) == conversations.settings(with_licence)
    assert corpus_terms(with_licence.config.corpus).licence == "MIT"


def test_every_run_says_the_terms_of_what_somebody_brings(folder):
    plan = plan_run(load_config("tiny", ["corpus.source=path", f"corpus.path={folder}"]))
    assert any("licence of the text: unknown" in note for note in corpus.notes(plan))
    assert corpus.notes(plan_run(load_config("tiny"))) == []
    assert talk_terms(plan.config.sft).is_known
