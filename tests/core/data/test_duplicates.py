"""Documents that are there more than once: what goes, because of which other, and what stays."""

import random

import numpy as np
import pytest

from nanochat_core.data import duplicates, workers
from nanochat_core.data.cleaning import write_cleaned
from nanochat_core.data.duplicates import EXACT, NEAR, WORDS, find_duplicates
from nanochat_core.data.minhash import shape_of, signatures_of
from nanochat_core.data.placed import PlacedText
from nanochat_core.data.shards import read_documents, write_shards
from nanochat_core.data.word_hashes import hash_words

EVERYTHING = {"duplicates": "near", "duplicate_jaccard": 0.7, "duplicate_ngram_words": 5, "minhash_permutations": 128}


def words(rng, count=300):
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def edited(given, rng, count):
    changed, first = list(given), rng.randrange(len(given) // count)
    for at in range(count):
        changed[first + at * len(changed) // count] = f"new{rng.randrange(10**9)}"
    return changed


def corpus(folder, train, validation=("a validation text of its own",)):
    for split, texts in (("train", train), ("validation", validation)):
        write_shards((PlacedText(text, f"{split}.txt", n) for n, text in enumerate(texts, 1)), folder / split)
    return folder


def cleaned(folder, out, settings=EVERYTHING, num_workers=1):
    """(documents of training that stay, {number of one that goes or nearly does: (rule, twin, is_kept)})."""
    found = [
        *find_duplicates(folder, out / "scratch", settings, num_workers=num_workers, progress=lambda done, total: None)
    ]
    write_cleaned(folder, out, iter(found), progress=lambda done, total: None)
    told = {one.row: (one.rule, one.twin, one.is_kept) for one in found[0]}
    return list(read_documents(out / "train")), told


def test_the_first_of_equal_ones_stays_and_others_name_it(tmp_path):
    rng = random.Random(1)
    one, other = " ".join(words(rng)), " ".join(words(rng))
    loud = one.upper().replace(" ", "\n") + "!"
    near = " ".join(edited(one.split(), rng, 3))
    half = " ".join(edited(one.split(), rng, 20))
    kept, told = cleaned(corpus(tmp_path / "in", [one, other, one, loud, near, half]), tmp_path / "out")
    assert kept == [one, other, half]
    assert {row: (rule, twin) for row, (rule, twin, _) in told.items()} == {
        2: (EXACT, "train.txt, line 1"), 3: (WORDS, "train.txt, line 1"), 4: (NEAR, "train.txt, line 1")}  # fmt: skip
    exactly, _ = cleaned(tmp_path / "in", tmp_path / "exact", {"duplicates": "exact"})
    assert exactly == [one, other, loud, near, half]


def test_a_chain_of_small_changes_takes_nothing_out_that_is_far_from_what_stays(tmp_path):
    rng = random.Random(2)
    chain = [words(rng)]
    for _ in range(4):
        chain.append(edited(chain[-1], rng, 6))  # about 0.82 of each is in the next, 0.67 two steps on
    texts = [" ".join(each) for each in chain]
    kept, told = cleaned(corpus(tmp_path / "in", texts), tmp_path / "out")
    assert kept[0] == texts[0]
    assert len(kept) >= 2
    gone = {row: twin for row, (_, twin, is_kept) in told.items() if not is_kept}
    assert gone[1] == "train.txt, line 1"
    assert set(gone.values()) <= {f"train.txt, line {texts.index(text) + 1}" for text in kept}


def test_a_copy_of_what_goes_names_what_stays(tmp_path):
    rng = random.Random(3)
    first = words(rng)
    near = " ".join(edited(first, rng, 2))
    kept, told = cleaned(corpus(tmp_path / "in", [" ".join(first), near, near]), tmp_path / "out")
    assert kept == [" ".join(first)]
    assert told[1][:2] == (NEAR, "train.txt, line 1")
    assert told[2][:2] == (EXACT, "train.txt, line 1")


def test_what_is_nearly_in_training_is_taken_out_of_validation(tmp_path):
    rng = random.Random(4)
    one = words(rng)
    folder = corpus(tmp_path / "in", [" ".join(one)], [" ".join(edited(one, rng, 2)), " ".join(words(rng))])
    cleaned(folder, tmp_path / "out")
    assert len(list(read_documents(tmp_path / "out/validation"))) == 1


def test_a_document_near_the_line_stays_and_is_named_with_what_it_is_like(tmp_path):
    rng = random.Random(5)
    one = words(rng)
    texts = [" ".join(one), " ".join(edited(one, rng, 12))]  # 0.66
    kept, told = cleaned(corpus(tmp_path / "in", texts), tmp_path / "out")
    assert kept == texts
    assert told == {1: (NEAR, "train.txt, line 1", True)}


def test_short_texts_and_texts_without_words_are_equal_or_not(tmp_path):
    texts = ["yes", "no", "yes", "!!!", "???", "a b c d", "a b c d."]
    kept, _ = cleaned(corpus(tmp_path / "in", texts), tmp_path / "out")
    assert kept == ["yes", "no", "!!!", "???", "a b c d"]


def test_texts_without_blanks_between_words_are_compared_by_letters(tmp_path):
    rng = random.Random(6)
    one = "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(400))
    near = one[:200] + "新" + one[201:]
    kept, _ = cleaned(corpus(tmp_path / "in", [one, near]), tmp_path / "out")
    assert kept == [one]


def test_processes_and_crowded_bands_change_nothing(tmp_path, monkeypatch):
    rng = random.Random(7)
    one = words(rng)
    texts = [" ".join(edited(one, rng, 3)) for _ in range(60)] + [" ".join(words(rng, 40)) for _ in range(60)]
    folder = corpus(tmp_path / "in", texts)
    alone = cleaned(folder, tmp_path / "alone")
    assert len(alone[0]) < 70
    monkeypatch.setattr(workers, "MIN_UNITS_FOR_PROCESSES", 1)
    assert cleaned(folder, tmp_path / "two", num_workers=2) == alone
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 7)
    assert cleaned(folder, tmp_path / "pairs") == alone


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.9])
def test_bands_miss_few_pairs_at_the_line_and_the_estimate_is_right(jaccard):
    shape = shape_of(jaccard, ngram_words=1, permutations=128)
    assert shape.bands * shape.rows <= 128
    assert 1 - (1 - jaccard**shape.rows) ** shape.bands >= 0.98
    rng, size = random.Random(8), 200
    common = round(2 * size * jaccard / (1 + jaccard))
    texts = []
    for pair in range(100):
        shared = [f"s{pair}x{n}" for n in range(common)]
        texts += [" ".join(shared + [f"{rng.random()}"[2:] for _ in range(size - common)]) for _ in range(2)]
    signatures, _ = signatures_of(hash_words(texts), len(texts), shape)
    estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
    assert abs(np.mean(estimates) - jaccard) < 0.02
