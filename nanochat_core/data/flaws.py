"""What is wrong with the letters of a document that somebody brings, found without knowing its language.

Mojibake is UTF-8 that was read as Windows-1252 or Latin-1 and saved again: "MÃ¼ller" for "Müller". A document of which
every letter goes back is mended, for by chance none does: each would have to be followed by the right kind of another.
The rest (letters lost, markup, escape sequences) is kept and counted, so that a person hears of it before the training.
"""

import re

# Windows-1252's letters for 0x80 to 0x9f; five of these it leaves to Latin-1, as programs do
HIGH = {
    byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
BYTE_OF = {ord(letter): byte for byte, letter in HIGH.items()}
MISREAD = re.compile(f"[\xc2-\xf4][\x80-\xbf{''.join(HIGH.values())}]")
CLOSING = re.compile(
    r"</(?:a|article|body|div|h[1-6]|html|li|p|script|section|span|style|t[adhr]\w*|ul)\s*>", re.IGNORECASE
)
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[0-9a-fA-F]+);")
MARK = re.compile(r"<\|(?:endoftext|begin_of_text|im_start|im_end|eot_id|bos)\|>")
PAGE = re.compile(r"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
LINE_OF_JSON = re.compile(r'\s*\{\s*"[^"\n]*"\s*:.*\}\s*(?:\n|$)')
MARKUP_EVERY_CHARS = 200  # so often, or more: then it is markup, not a text that speaks of it
FEW = 3


def mended(text: str) -> str | None:
    """The text that mojibake stands for; None where it is none, or only in part."""
    if text.isascii() or not MISREAD.search(text):
        return None
    try:
        return text.translate(BYTE_OF).encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None


def flaws(text: str) -> list[str]:
    """What a person should know of a document before it is learnt."""
    found = []
    if "\ufffd" in text:
        found.append("with U+FFFD, where letters were lost")
    if not text.isascii() and len(MISREAD.findall(text)) >= FEW:
        found.append("with what looks like mojibake (UTF-8 read as Latin-1), kept as it is")
    if PAGE.match(text) or ("</" in text and _is_often(CLOSING, text)):
        found.append("with HTML, whose tags are learnt")
    elif "&" in text and _is_often(ENTITY, text):
        found.append("with entities of HTML (&amp;), which are learnt")
    if "\0" in text or "\x1b" in text:
        found.append("with control characters")
    if mark := MARK.search(text):
        found.append(f"with marks of a model ({mark[0]}), learnt as plain text")
    if LINE_OF_JSON.match(text):
        found.append("that look like lines of JSON, learnt as they are; the ending .jsonl has their fields read")
    return found


def _is_often(pattern: re.Pattern[str], text: str) -> bool:
    num = len(pattern.findall(text))
    return num * MARKUP_EVERY_CHARS >= len(text) and (num >= FEW or len(text) < MARKUP_EVERY_CHARS)
