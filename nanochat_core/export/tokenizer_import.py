"""A tokenizer.json of Hugging Face's `tokenizers` library as ours: equal ids on any text, or refused with the reason.

Byte-level BPE alone can be ours. tiktoken takes, of all neighbours that spell a token, those of the lowest id; the file
takes the pairs it lists, in their order. Both are the same where the listed results go up in id and each token's own
last pair is listed: what else is listed never comes to be (`tokenizer_json.last_pair`). Whatever else would change ids
(a normalizer, a second split, byte fallback, tokens that swallow blanks) is named, all of it at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.foreign import MAX_VOCABULARY_VALUES, NO_VALUES, loads, read_bounded
from nanochat_core.export.tokenizer_json import MODEL_TYPE, byte_alphabet, last_pair
from nanochat_core.tokenizer.patterns import GPT2, is_known
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Added, Tokenizer

HINT = "what can be read: byte-level BPE, one split by a known pattern, no normalizer (docs/export.md)"
SHOWN = 60
SWALLOWS = {"single_word": "is found only as a whole word", "lstrip": "takes the blanks before it",
            "rstrip": "takes the blanks behind it"}  # fmt: skip


def tokenizer_from_json(path: Path) -> Tokenizer:
    """Our tokenizer of a tokenizer.json; its marks stay, and ours follow. MissingError where ids would differ."""
    try:
        stored = loads(read_bounded(path).decode(), most_values=MAX_VOCABULARY_VALUES)
        wrong = list(_unsupported(stored))
        if not wrong:
            return _tokenizer(stored)
    except (CorruptError, *NO_VALUES) as error:
        wrong = [str(error)]
    raise MissingError(f"{path} cannot be our tokenizer: {'; '.join(wrong)}", hint=HINT)


def _unsupported(stored: Any) -> Iterator[str]:
    """What a file asks for and ours cannot do."""
    model = stored["model"]
    kind = model.get("type") or (MODEL_TYPE if "merges" in model else "of no known kind")  # older files name none
    if kind != MODEL_TYPE:
        yield f"its model is {kind}, and only byte-level {MODEL_TYPE} can be read"
        return
    if normalizer := stored.get("normalizer"):
        yield f"it has a normalizer ({_named(normalizer, 'normalizers')}), which changes the text"
    if model.get("byte_fallback"):
        yield "it has byte fallback (byte_fallback), tokens <0x00> for letters that it lacks"
    if model.get("dropout"):
        yield f"it leaves out merges at random (dropout {model['dropout']})"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            yield f"it marks parts of words ({name} {model[name]!r})"
    for name in ("truncation", "padding"):
        if stored.get(name):
            yield f"it has {name}, which changes what a text becomes"
    yield from _unsupported_split(stored.get("pre_tokenizer"))
    alphabet = set(byte_alphabet())
    if num := len(alphabet - set(model["vocab"])):
        yield f"it is no byte-level vocabulary: {num} of 256 bytes have no token"
    for token in stored.get("added_tokens") or []:
        if not token["special"]:
            yield from (f"its token {token['content']!r:.{SHOWN}} {what}" for name, what in SWALLOWS.items()
                        if token.get(name))  # fmt: skip


def _named(part: Any, several: str) -> str:
    names = [each.get("type", "unnamed") for each in part.get(several, [])]
    return ", ".join(names or [str(part.get("type"))])


def _unsupported_split(split: Any) -> Iterator[str]:
    parts = _splits(split)
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    if len(byte_level) != 1 or parts[-1] is not byte_level[0]:
        yield f"its split ends with {_named(split, 'pretokenizers') if split else 'nothing'}, not with ByteLevel"
        return
    if byte_level[0].get("add_prefix_space", True):
        yield "it puts a blank before each text (ByteLevel with add_prefix_space)"
    patterns = [part for part in parts if part is not byte_level[0]]
    if len(patterns) > 1 or (patterns and byte_level[0].get("use_regex", True)):
        yield f"it splits further: {_named(split, 'pretokenizers')}"
    elif not patterns and not byte_level[0].get("use_regex", True):
        yield "it has no split pattern (ByteLevel without use_regex)"
    elif patterns and not _is_plain(patterns[0]):
        how = {name: patterns[0].get(name) for name in ("type", "behavior", "invert")}
        yield f"it splits in a way of its own: {how}"
    elif patterns and not is_known(patterns[0]["pattern"]["Regex"]):
        yield f"its split pattern is none that is known to cut alike here: {patterns[0]['pattern']['Regex']!r}"


def _splits(split: Any) -> list[Any]:
    if not split:
        return []
    return split["pretokenizers"] if split.get("type") == "Sequence" else [split]


def _is_plain(part: Any) -> bool:
    """A pattern whose matches are the pieces; each that is known covers every text, so nothing lies between them."""
    way = part.get("behavior"), bool(part.get("invert"))
    is_way = way in (("Isolated", False), ("Isolated", True), ("Removed", True))
    return part.get("type") == "Split" and is_way and isinstance(part.get("pattern", {}).get("Regex"), str)


def _tokenizer(stored: Any) -> Tokenizer:
    model, byte_of = stored["model"], {letter: byte for byte, letter in enumerate(byte_alphabet())}
    added = sorted(stored.get("added_tokens") or [], key=lambda token: token["id"])
    ids = {token["content"]: token["id"] for token in added}
    if odd := next((word for word, token in model["vocab"].items() if ids.get(word, token) != token), None):
        raise ValueError(f"its token {odd!r:.{SHOWN}} has two ids")
    words = sorted((token, word) for word, token in model["vocab"].items() if word not in ids)
    tokens = [bytes(byte_of[letter] for letter in word) for _, word in words]
    first = words[0][0] if words else 0
    _require_in_order([token["id"] for token in added if token["id"] < first], "its added tokens", first=0, end=first)
    _require_in_order([token for token, _ in words], "its vocabulary", first=first)
    end = first + len(tokens)
    _require_in_order([token["id"] for token in added if token["id"] >= first], "its added tokens", first=end)
    _check_merges(tokens, [word for _, word in words], model)
    theirs = [token["content"] for token in added]
    if theirs[-len(SPECIAL_TOKENS) :] == list(SPECIAL_TOKENS):
        added = added[: -len(SPECIAL_TOKENS)]
    elif ours := [name for name in theirs if name in SPECIAL_TOKENS]:
        raise ValueError(f"its added tokens have {', '.join(ours)} in other places than ours")
    split = _splits(stored["pre_tokenizer"])
    pattern = split[0]["pattern"]["Regex"] if len(split) > 1 else GPT2
    return Tokenizer(tokens, pattern, [_added(token, first=first) for token in added])


def _added(token: Any, *, first: int) -> Added:
    return Added(
        str(token["content"]),
        is_special=bool(token["special"]),
        is_late=bool(token.get("normalized")),
        is_first=token["id"] < first,
    )


def _require_in_order(ids: list[int], what: str, *, first: int, end: int | None = None) -> None:
    """ValueError for ids that are not `first`, `first` + 1, ..., up to `end`."""
    wanted = range(first, first + len(ids) if end is None else end)
    there = set(ids)
    if (odd := next((place for place in wanted if place not in there), None)) is not None:
        raise ValueError(f"the ids of {what} do not go on at {odd:,}")


def _check_merges(tokens: list[bytes], words: list[str], model: Any) -> None:
    """ValueError where the listed merges are not those of the order of ids."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens):
        raise ValueError("it has a token twice")
    id_of = {word: number for number, word in enumerate(words)}
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    last, listed = -1, set[tuple[str, ...]]()
    for pair in pairs:
        made = id_of.get("".join(pair)) if len(pair) == 2 and all(half in id_of for half in pair) else None
        if made is None:
            raise ValueError(f"its merge {pair!r:.{SHOWN}} makes no token of its vocabulary")
        if made < last:
            raise ValueError(f"its merges are not in the order of its ids: {pair!r:.{SHOWN}} comes late")
        last = made
        listed.add(pair)
    for token, word in zip(tokens, words, strict=True):
        if len(token) == 1:
            continue
        halves = last_pair(token, ranks)
        is_listed = halves is not None and (words[ranks[halves[0]]], words[ranks[halves[1]]]) in listed
        if not is_listed and not (halves is None and model.get("ignore_merges")):
            raise ValueError(f"no merge arrives at its token {word!r:.{SHOWN}} as ours would")
