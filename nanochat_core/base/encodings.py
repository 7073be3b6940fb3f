"""What bytes that are no UTF-8 may have been written in: a guess for a hint, never for reading.

Statistics of byte pairs are wrong on a line of text; scripts are not: what is read in the right encoding has letters
of one script, small ones for the most part, and in a wrong one it has not, or ends in the middle of a letter.
"""

import codecs
import re

SAMPLE_BYTES = 1 << 16
LEAST_SHARE = 0.9  # of the letters outside ASCII that have to be of the script
JAPANESE, HAN, HANGUL = (
    "\u3001-\u30ff\u4e00-\u9fff\uff01-\uff5e",
    "\u3001\u3002\u4e00-\u9fff\uff01-\uff5e",
    "\uac00-\ud7a3",
)
WIDE = f"[\u00c0-\u052f\u0590-\u06ff\u0900-\u0dff{JAPANESE}{HANGUL}]"
# (name, all of the script, what at least half are), in this order, for some that come first rule out what follows
MIXED = (("shift_jis", f"[{JAPANESE}]", "[\u3041-\u30ff]"), ("euc_jp", f"[{JAPANESE}]", "[\u3041-\u30ff]"))
OTHERS = (
    ("euc_kr", f"[{HANGUL}]", "."),
    ("cp1251", "[\u0401\u0410-\u044f\u0451\xab\xbb\u2013\u2014]", "[\u0430-\u044f]"),
    ("koi8-r", "[\u0401\u0410-\u044f\u0451]", "[\u0430-\u044f]"),
    ("cp1253", "[\u0384-\u03ce\xab\xbb\u2013\u2014]", "[\u03ac-\u03ce]"),
    ("gb2312", f"[{HAN}]", "."),
    ("big5", f"[{HAN}]", "."),
)
# a capital in the middle of a word: the right letters of the wrong alphabet
CAMEL = re.compile("[\u0430-\u0451\u03ac-\u03ce][\u0410-\u042f\u0391-\u03ab]")
LONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff]{1,2}(?![\x80-\xff])")


def likely(raw: bytes) -> str | None:
    """The name of the encoding, as `iconv` has it; None where none is likely."""
    raw = raw[:SAMPLE_BYTES]
    if b"\0" in raw:
        return _first(raw, (("utf-16-le", WIDE, "."), ("utf-16-be", WIDE, ".")))
    if found := _first(raw, MIXED):
        return found
    if 2 * sum(map(len, LONE.findall(raw))) >= sum(byte > 0x7F for byte in raw):  # among the plain letters of Europe
        return "cp1252" if any(0x80 <= byte < 0xA0 for byte in raw) else "latin1"
    found = _first(raw, OTHERS)
    return "gb18030" if found == "gb2312" else found  # the larger one has all of it


def _first(raw: bytes, candidates: tuple[tuple[str, str, str], ...]) -> str | None:
    for name, script, most in candidates:
        try:
            text = codecs.getincrementaldecoder(name)().decode(raw)
        except UnicodeDecodeError:
            continue
        letters = re.sub("[\0-\x7f]+", " ", text)
        num = len(letters) - letters.count(" ")
        is_script = num and len(re.findall(script, letters)) >= LEAST_SHARE * num
        if is_script and 2 * len(re.findall(most, letters)) >= num and 20 * len(CAMEL.findall(letters)) <= num:
            return name
    return None
