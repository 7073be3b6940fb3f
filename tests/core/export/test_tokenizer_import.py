"""Other people's tokenizer.json: equal ids on any text, or refused by the name of what they ask for."""

import json
import random

import pytest
from core.data.cases import REFUSED, RIGHT, WRONG, cases, refusal

from nanochat_core.base.errors import MissingError
from nanochat_core.export.adopt import read_tokenizer
from nanochat_core.export.tokenizer_import import tokenizer_from_json
from nanochat_core.export.tokenizer_json import tokenizers_json
from nanochat_core.tokenizer.patterns import GPT2, GPT4, GPT4O, SCRIPTS, TIKTOKEN_GPT4
from nanochat_core.tokenizer.tokenizer import Added, Tokenizer

FEW, MANY = 300, 10_000
NO_DIGITS, SINGLE_DIGITS = GPT4.replace(r"\p{N}{1,3}", r"\p{N}+"), GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
ALPHABETS = (
    "abcdefghij ABC  \n\t'", "the and of in that's we'll IT'S ", "0123456789.,-+()[]{}<>=/", " \n\r\t\u00a0\u2003",
    "äöüßéèçñø ", "абвгдежз Привет", "老磨坊在河边的。", "पुरानीचक्कीनदी ", "المطحنةالقديمة ", "👨👩👧\u200d🏳️🌈❤️",
    "\u0000\u200b\ufeff\u0301ſ½²１٣", "<|im_start|>user<|bos|><tool>",
)  # fmt: skip


def random_texts(count, marks=()):
    """Texts of several scripts, with marks between; the same ones each time."""
    rng = random.Random(1)
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 6)):
            letters = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(letters) for _ in range(rng.randint(0, 12))))
            parts.append(rng.choice([letters, *marks, ""]))
        yield "".join(parts)


def library_of(path):
    library = pytest.importorskip("tokenizers", reason="the `tokenizers` library is not installed")
    theirs = library.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True  # text that spells a mark is text, as in ours
    return theirs


def require_equal(path, count):
    ours, theirs = tokenizer_from_json(path), library_of(path)
    for text in random_texts(count, [token.content for token in ours.added]):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text
        assert ours.encode_to_numpy(text).tolist() == ours.encode(text)


def written(tmp_path, stored):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stored))
    return path


def _outcome(case):
    expected = json.loads((case / "expected.json").read_text())
    try:
        ours = read_tokenizer(case)
    except MissingError as error:
        return refusal(expected, [error.message, error.hint or ""], case)
    is_same = all(ours.encode(one["text"]) == one["ids"] for one in expected.get("plain_text", expected["encode"]))
    is_same &= all(ours.encode_with_special(one["text"]) == one["ids"] for one in expected["encode"])
    is_same &= all(ours.decode(one["ids"]) == one["decoded"] for one in expected["encode"])
    ends = [expected, *expected["also_acceptable"]]
    return RIGHT if is_same and any(end["verdict"] == "read" for end in ends) else WRONG


def test_every_case_has_the_librarys_ids_or_is_refused_with_its_reason(shared):
    outcomes = {case.name: _outcome(case) for case in cases(shared, "tokenizers")}
    print(outcomes)
    assert RIGHT in outcomes.values()
    assert set(outcomes.values()) <= {RIGHT, REFUSED}, outcomes


@pytest.mark.parametrize(
    "count", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.torture)]
)
def test_every_case_that_is_read_has_the_librarys_ids_on_random_texts(shared, count):
    read = 0
    for case in cases(shared, "tokenizers"):
        try:
            tokenizer_from_json(case / "tokenizer.json")
        except MissingError:
            continue
        require_equal(case / "tokenizer.json", count)
        read += 1
    assert read


@pytest.fixture
def stored(tokenizer):
    """A vocabulary with merges, as a file of the library has it, without our marks."""
    made = tokenizers_json(tokenizer)
    return {**made, "added_tokens": []}


def _token(number, content, **flags):
    none = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": content, **none, **flags}


def _changed(stored, change):
    """A file of the library that is made in another way."""
    num, split = len(stored["model"]["vocab"]), stored["pre_tokenizer"]["pretokenizers"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if change == "GPT-2":
        stored["pre_tokenizer"] = {**byte_level, "use_regex": True}
    elif change == "one split, whose default is to use the pattern":
        stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [byte_level]}
    elif change == "inverted":
        split[0] |= {"behavior": "Removed", "invert": True}
    elif change == "merges as pairs":
        stored["model"]["merges"] = [merge.split(" ") for merge in stored["model"]["merges"]]
    elif change == "no whole words":
        stored["model"]["ignore_merges"] = False
    elif change == "a mark in the vocabulary":
        stored["model"]["vocab"]["<|endoftext|>"] = num
        stored["added_tokens"] = [_token(num, "<|endoftext|>", special=True)]
    elif change == "tokens within others":
        names = ["<a", "<a>", "<a>b", " the", "<|x|>", "e e", "<|x|>y"]
        stored["added_tokens"] = [
            _token(num + i, name, special=name == "<|x|>", normalized=name == "e e") for i, name in enumerate(names)
        ]
    elif change == "marks before the vocabulary":
        stored["model"]["vocab"] = {"<unk>": 0, "<s>": 1} | {w: i + 2 for w, i in stored["model"]["vocab"].items()}
        stored["added_tokens"] = [_token(0, "<unk>", special=True), _token(1, "<s>"), _token(num + 2, "<tool>")]
    elif change == "a template":
        one, two = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
        stored["post_processor"] = {"type": "TemplateProcessing", "single": [one], "pair": [one, two],
                                    "special_tokens": {}}  # fmt: skip
    else:
        split[0]["pattern"]["Regex"] = change
    return stored


@pytest.mark.parametrize(
    "change",
    ["GPT-2", "one split, whose default is to use the pattern", "inverted", "merges as pairs", "no whole words",
     "a mark in the vocabulary", "marks before the vocabulary", "tokens within others", "a template", GPT2, GPT4, GPT4O,
     TIKTOKEN_GPT4, NO_DIGITS,
     SCRIPTS, SINGLE_DIGITS],
)  # fmt: skip
@pytest.mark.parametrize(
    "count", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.torture)]
)
def test_what_is_read_has_the_librarys_ids(stored, tmp_path, change, count):
    path = written(tmp_path, _changed(stored, change))
    require_equal(path, count)
    again = tokenizer_from_json(path)
    again.save(tmp_path / "ours")
    loaded = Tokenizer.load(tmp_path / "ours")
    texts = list(random_texts(30, [token.content for token in again.added]))
    assert [loaded.encode(text) for text in texts] == [again.encode(text) for text in texts]
    assert [loaded.decode(loaded.encode(text)) for text in texts] == texts
    exported = tokenizer_from_json(written(tmp_path, tokenizers_json(again)))
    assert (exported.ranks, exported.pattern, exported.added) == (again.ranks, again.pattern, again.added)


@pytest.mark.parametrize(
    "pattern",
    [
        GPT4O,
        SCRIPTS,
        *(pytest.param(each, marks=pytest.mark.torture) for each in (GPT2, GPT4, TIKTOKEN_GPT4, SINGLE_DIGITS)),
    ],
)
def test_a_known_pattern_cuts_every_character_of_the_basic_plane_alike(stored, tmp_path, pattern):
    path = written(tmp_path, _changed(stored, pattern))
    ours, theirs = tokenizer_from_json(path), library_of(path)
    for first in range(0, 0xD800, 64):
        text = "".join(f"a{chr(code)}1{chr(code)} {chr(code)}" for code in range(first, first + 64))
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text), hex(first)


def _asking(stored, what):
    """A file that asks for what ours cannot do."""
    model, split = stored["model"], stored["pre_tokenizer"]["pretokenizers"]
    num = len(model["vocab"])
    if what == "NFC":
        stored["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    elif what == "Digits":
        split.insert(0, {"type": "Digits", "individual_digits": True})
    elif what == "Metaspace":
        stored["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    elif what == "splits further":
        split[1]["use_regex"] = True
    elif what == "add_prefix_space":
        stored["pre_tokenizer"] = {
            "type": "ByteLevel",
            "use_regex": True,
            "trim_offsets": True,
            "add_prefix_space": True,
        }
    elif what == "MergedWithPrevious":
        split[0]["behavior"] = what
    elif what == "split pattern":
        split[0]["pattern"] = {"Regex": r"\p{N}{2}|\s+"}
    elif what in ("WordPiece", "WordLevel"):
        stored["model"] = {"type": what, "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    elif what == "byte fallback":
        model["byte_fallback"] = True
    elif what == "dropout":
        model["dropout"] = 0.1
    elif what == "end_of_word_suffix":
        model["end_of_word_suffix"] = "</w>"
    elif what == "truncation":
        stored["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    elif what == "no byte-level":
        del model["vocab"]["Ġ"]
    elif what == "blanks before it":
        stored["added_tokens"] = [_token(num, "<mask>", lstrip=True)]
    elif what == "go on at":
        stored["added_tokens"] = [_token(num, "<a>"), _token(num + 2, "<b>")]
    elif what == "go on at 1":
        model["vocab"] = {w: i + 2 for w, i in model["vocab"].items()}
        stored["added_tokens"] = [_token(0, "<s>")]
    elif what == "in other places":
        stored["added_tokens"] = [_token(num, "<|bos|>", special=True)]
    elif what == "order of its ids":
        model["merges"][3], model["merges"][7] = model["merges"][7], model["merges"][3]
    elif what == "no merge arrives":
        model["ignore_merges"] = False
        del model["merges"][-1]
    return stored


@pytest.mark.parametrize(
    "what",
    ["NFC", "Digits", "Metaspace", "splits further", "add_prefix_space", "MergedWithPrevious", "split pattern",
     "WordPiece", "WordLevel", "byte fallback", "dropout", "end_of_word_suffix", "truncation", "no byte-level",
     "blanks before it", "go on at", "go on at 1", "in other places", "order of its ids", "no merge arrives"],
)  # fmt: skip
def test_what_ours_cannot_do_is_refused_by_name(stored, tmp_path, what):
    with pytest.raises(MissingError) as refused:
        tokenizer_from_json(written(tmp_path, _asking(stored, what)))
    assert what in refused.value.message
    assert "byte-level BPE" in refused.value.hint


def test_added_tokens_have_bytes_unless_they_are_marks(tokenizer):
    theirs = Tokenizer(tokenizer.ranks, GPT4, [Added("<tool>", is_special=False), Added("<|x|>", is_special=True)])
    num = len(tokenizer.ranks)
    assert theirs.vocab_size == tokenizer.vocab_size + 2
    assert theirs.token_bytes()[num : num + 2].tolist() == [6, 0]
    assert theirs.encode("<tool><|x|>")[0] == num
    assert num + 1 not in theirs.encode("<|x|>")
    assert theirs.encode_with_special("<|bos|><|x|><tool>") == [theirs.bos, num + 1, num]


def test_a_file_as_long_as_published_ones_is_read(stored, tmp_path):
    stored["model"]["merges"] = [merge.split(" ") for merge in stored["model"]["merges"]]
    stored["model"]["merges"] += [stored["model"]["merges"][-1]] * 200_000  # as Llama 3 lists a pair more than once
    assert tokenizer_from_json(written(tmp_path, stored)).ranks
