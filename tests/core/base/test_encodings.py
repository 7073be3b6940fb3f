"""Guesses of encodings: right for what people have, on a line as on a page, and none where nothing is likely."""

import pytest

from nanochat_core.base.encodings import likely


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Größe und Übung, schön für Mädchen.\n", "latin1"),
        ("Ça va où? «Très bien», déjà vu\n", "latin1"),
        ("“Quotes” and café – it’s.\n", "cp1252"),
        ("Это русский текст, и он длинный.\n", "cp1251"),
        ("Это русский текст, и он длинный.\n", "koi8-r"),
        ("Καλημέρα κόσμε\n", "cp1253"),
        ("これは日本語の文章です。テキスト\n", "shift_jis"),
        ("これは日本語の文章です。テキスト\n", "euc_jp"),
        ("안녕하세요 세계 여러분\n", "euc_kr"),
        ("这是一个中文句子。\n", "gb18030"),
        ("中文內容，這是繁體字。\n", "big5"),
        ("Это 2 слова\n", "utf-16-le"),
        ("これは 日本語\n", "utf-16-be"),
    ],
)
def test_the_encoding_of_a_text_is_guessed(text, encoding, times):
    assert likely((text * times).encode(encoding)) == encoding


def test_bytes_of_no_text_have_no_encoding():
    assert likely(bytes(range(1, 256)) * 40) is None
