"""Rules of quality and languages: each measures what it says, on texts that are right at its limit."""

import random
from dataclasses import asdict

import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.clean_config import CleanConfig
from nanochat_core.data.cleaning import Documents, Judged, write_cleaned
from nanochat_core.data.languages import language_judge, wanted_languages
from nanochat_core.data.quality import limits_of, measures, quality_judge, repetitions
from nanochat_core.data.shards import write_shards
from nanochat_core.data.word_hashes import hash_words

SENTENCE = "The boat that we have seen went to the harbour and was tied up with two old ropes of hemp."


def documents(*texts):
    return Documents(list(texts), ["file"] * len(texts), list(range(1, len(texts) + 1)))


def prose(count, seed=1):
    """So many words, every fourth a common one."""
    rng = random.Random(seed)
    common = ["the", "be", "to", "of", "and", "that", "have", "with"]
    return " ".join(rng.choice(common) if n % 4 == 0 else f"{rng.randrange(10**8):x}word" for n in range(count)) + "."


def judged(*texts, **settings):
    return quality_judge(asdict(CleanConfig(**{"quality": "gopher", **settings})))(documents(*texts))


def test_a_limit_holds_at_its_value_and_what_is_a_tenth_away_is_near():
    fifty, more = prose(50), prose(56)
    assert judged(fifty, more) == [Judged(0, "too-few-words", 50, is_kept=True)]
    [gone] = judged(prose(49))
    assert (gone.rule, gone.score, gone.is_kept) == ("too-few-words", 49, False)
    assert judged(fifty, min_words=None) == []


def test_every_broken_rule_is_named():
    [one] = judged("#\n- x...\n- x...")
    assert not one.is_kept
    assert {"too-few-words", "mean-word-length", "symbols", "ellipsis", "stop-words", "repeated-lines"} <= {
        *one.rule.split(", ")
    }


def test_runs_that_come_again_are_counted_once_and_by_their_length():
    rng = random.Random(3)
    run = [f"{rng.randrange(10**8):08x}" for _ in range(10)]
    rest = [f"{rng.randrange(10**8):08x}" for _ in range(30)]
    found = repetitions(hash_words([" ".join(run + rest + run), " ".join(rest)]))
    size = 50 * 9 - 1
    assert found[0]["repeated-runs-5"] == found[0]["repeated-runs-10"] == pytest.approx(80 / size)
    assert found[0]["repeated-runs-6"] == pytest.approx(48 / size)
    assert found[0]["repeated-words-2"] == pytest.approx(2 * 17 / size)
    assert set(found[1].values()) == {0}


def test_the_rules_of_c4_are_for_whole_pages():
    plain = "\n".join([SENTENCE] * 2 + [SENTENCE.replace("two", "three")])
    assert measures(plain)["too-few-sentences"] == 3
    judge = quality_judge(asdict(CleanConfig(quality="c4")))
    found = judge(documents(plain, plain + "\n{", SENTENCE, "\n".join(["no end here"] * 9 + [plain])))
    assert [(one.row, one.rule) for one in found if not one.is_kept] == [(1, "placeholder"), (2, "too-few-sentences")]
    assert not [limit for limit in limits_of(asdict(CleanConfig(quality="c4"))) if limit.rule == "bullets"]


@pytest.mark.parametrize("text", ["", "\n\n", "!", "¿", "字", "a " * 300_000])
def test_any_text_can_be_measured(text):
    assert [one.is_kept for one in judged(text, prose(120))] == [False]


def test_documents_in_other_languages_go_by_the_name_of_theirs():
    english = "It was a quiet evening by the river, and the children were looking for the boat that had gone."
    german = "Es war ein ruhiger Abend am Fluss, und die Kinder suchten nach dem Boot, das verschwunden war."
    judge = language_judge(("en",), 0.65)
    found = judge(documents(english, german, "12 345 !", f"{english * 8}{german * 16}"))
    gone = {one.row: one.rule for one in found if not one.is_kept}
    assert gone == {1: "language de", 2: "language none", 3: "language de"}
    assert not [one for one in language_judge(("en", "de"), 0.65)(documents(english, german)) if not one.is_kept]
    assert wanted_languages(" de,EN ,de") == ("de", "en")
    for wrong in ("xx", "", "english"):
        with pytest.raises(ConfigError, match="there is no language"):
            wanted_languages(wrong)


def test_nothing_left_is_an_error_that_says_what_took_it(tmp_path):
    for split in ("train", "validation"):
        write_shards(["a text"], tmp_path / "in" / split)
    all_of_them = iter([[Judged(0, "too-few-words", 2)], []])
    with pytest.raises(MissingError, match=r"nothing is left of the train text: 1 of 2 documents .*too-few-words"):
        write_cleaned(tmp_path / "in", tmp_path / "out", all_of_them, progress=lambda done, total: None)
