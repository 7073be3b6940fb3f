"""Two hundred kinds of text that might cost a reader more than their length: runs, alternations, mixtures.

    for name, text in kinds(4 << 20): ...

Each is a unit that repeats, a mixture drawn from an alphabet, or runs of one length of the one and a few of the other.
"""

import random
from collections.abc import Iterator

UNITS = (
    "a", "z", "Q", "e", "th", "the", "he", "qu", "abcdefghijklmnopqrstuvwxyz", "aA", "ab", "aab", "xX1",
    "a1", "1a", "a1!", "a!", "!a", "a ", " a", "a  ", "a\n", "a\r\n", "a\t", "the ", " the",
    "The quick brown fox. ", "a_b", "__init__", "camelCase", "HTTPServer", "é", "e\u0301",
    "a\u0301\u0302\u0303", "ß", "ø", "ñ", "İ", "ſ", "ﬁ", "Ω", "Я", "привет", "Привет, ", "שלום", "שלום ",
    "مرحبا", "مرحبا ", "ابجد\u200f", "\u200e\u200fa", "ह", "हिन\u094dदी ", "ไทย", "ภาษา", "한",
    "한국어 ", "中", "中文。", "日本語テキスト", "ｱ", "Ａ", "漢 字", "𠀀", "1", "12", "123",
    "1234567890", "1 ", "1.", "1,", "3.14159 ", "0x1f ", "١", "१२", "Ⅷ", "½", "²", "𝟘", "①", "1a2b3c",
    "1-", "!", "=", "-", ".", "...", "?!", "#", "# ", "/", "//", "\\", "(", "()", "[](", "{\"a\": 1}, ",
    "<b>", "<|bos|>", "<|user_end|>", "<|", "|>", "'", "''", "'s", "'S", "'ll", "'re ", "'ve", "'t ",
    "don't ", "' ", " '", "\"", "``", "`", "~", "@", "$", "€", "_", "+1 ", "a=b;", "if (x) {\n",
    "\tx = 1\n", "    return x\n", "! ", " !", "!\n", "!\r\n", "!\n\n", "\n!", " !\n", "—", "…", "«»",
    "。", "、", "¿", "🙂", "🙂 ", "👨\u200d👩\u200d👧", "👍🏽", "❤️", "🇫🇷", "\u200d", "\u200b", "\ufeff",
    "️", "\xad", "\u0301", "\u202e", "\u2066a\u2069", "\x00", "\x00a", "\x01", "\x07", "\x1b[31m",
    "\x7f", "\x80", "\x1c", "\x1c ", "\x1da", "\ud800", "\udfff", "\ud83d\ude42", "\ue000", "�",
    "\uffff", "\U0010ffff", " ", "  x", "\t", "\t ", "\n", "\n\n", "\r", "\r\n", "\n\r", " \n", "\n ",
    "\t\n", "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u2028", "\u2029", "\u3000", "\xa0 ", "a\xa0",
    " \t", "x \n", "\n  x", "\r\n\t", "\u3000中",
)  # fmt: skip
ALPHABETS = {
    "letters": "abcdefghijklmnopqrstuvwxyz", "letters and blanks": "abcdefgh    ",
    "white space": " \n\t\r\x0b\x0c\u2028\x85",
    "blanks and marks": "  !.,;\n'", "digits and letters": "0123456789abc",
    "marks": "!?#$%&*+-/=<>", "hex": "0123456789abcdef",
    "Latin": "".join(map(chr, range(0xA0, 0x250))), "CJK": "".join(map(chr, range(0x4E00, 0x5E00))),
    "Hangul": "".join(map(chr, range(0xAC00, 0xBC00))), "any plane": "".join(map(chr, range(0x1F300, 0x1FA00))),
    "any": "".join(map(chr, range(1, 0xD800))),
    "apostrophes": "'stmdlvre ", "line ends": "\r\na", "combining": "aeiou\u0300\u0301",
}  # fmt: skip
RUNS = (
    (" ", "x"), ("\n", "x"), ("\t", "!"), (" ", "\n"), ("\n", " "), ("\u00a0", "a"), ("a", " "), ("!", "a"), ("1", " "),
    ("'", "s"),
    ("\x1c", "x"), ("中", " "),
)  # fmt: skip
RUN_CHARS = (49_999, 4_096)


def kinds(num_bytes: int) -> Iterator[tuple[str, str]]:
    """(what it is, a text of about so many bytes in UTF-8), two hundred and some times."""
    for unit in UNITS:
        yield ascii(unit), unit * (num_bytes // _size(unit))
    random_ = random.Random(1)
    for name, alphabet in ALPHABETS.items():
        yield f"random {name}", "".join(random_.choices(alphabet, k=num_bytes * len(alphabet) // _size(alphabet)))
    for character, other in RUNS:
        for length in RUN_CHARS:
            unit = character * length + other
            repeated = unit * (num_bytes // _size(unit) + 1)
            yield f"{length} times {character!a}, {other!a}", repeated[: num_bytes * len(unit) // _size(unit)]


def _size(text: str) -> int:
    return len(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode())
