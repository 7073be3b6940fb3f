"""What cleaning may take out of the text; each part is off by default and a step of its own (nanochat_core/steps).

As config.py says: only values, each of which is in the key of the step that reads it.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """What is left out of the text before a vocabulary is learnt from it."""

    languages: str | None = None
    """Keep documents in these languages alone, by ISO 639-1, as "en,de"; None: all. py3langid tells them."""
    min_language_score: float = 0.65
    """How likely it is in one of them rather than in the likeliest other; 0.65 is FineWeb's (arXiv 2406.17557)."""
    quality: Literal["off", "gopher", "c4", "gopher+c4"] = "off"
    """Rules for English prose. gopher: of Rae et al. 2021 (arXiv 2112.11446, A.1). c4: whole-page rules of Raffel et
    al. 2020 (arXiv 1910.10683) and FineWeb's share of lines that end as sentences. The limits below are theirs."""
    min_words: int | None = 50
    """gopher: fewer words, and the document goes. None, here as below: that rule is not asked."""
    max_words: int | None = 100_000
    """gopher: more words."""
    min_mean_word_chars: float | None = 3.0
    """gopher: shorter words on average."""
    max_mean_word_chars: float | None = 10.0
    """gopher: longer words on average."""
    max_symbols_per_word: float | None = 0.1
    """gopher: more # or more ellipses for each word."""
    max_bullet_lines_frac: float | None = 0.9
    """gopher: more of the lines begin with a bullet."""
    max_ellipsis_lines_frac: float | None = 0.3
    """gopher: more of the lines end with an ellipsis."""
    min_letter_words_frac: float | None = 0.8
    """gopher: fewer of the words hold a letter."""
    min_stop_words: int | None = 2
    """gopher: fewer of the, be, to, of, and, that, have, with."""
    max_repeated_lines_frac: float | None = 0.3
    """gopher: more of the lines are copies of others, or of the paragraphs."""
    max_repeated_line_chars_frac: float | None = 0.2
    """gopher: more of the text is in such lines, or paragraphs."""
    max_top_2gram_frac: float | None = 0.20
    """gopher: more of the text is the commonest two words in a row."""
    max_top_3gram_frac: float | None = 0.18
    """gopher: the commonest three."""
    max_top_4gram_frac: float | None = 0.16
    """gopher: the commonest four."""
    max_repeated_5gram_frac: float | None = 0.15
    """gopher: more of the text is five words in a row that were there before; of six to ten words a hundredth less for
    each word."""
    min_sentences: int | None = 3
    """c4: fewer sentences."""
    min_sentence_lines_frac: float | None = 0.12
    """c4: fewer of the lines end as a sentence does (FineWeb's limit)."""
    placeholder_words: bool = True
    """c4: "lorem ipsum" and curly brackets take a document out, as pages of layout and of code."""
    duplicates: Literal["off", "exact", "near"] = "off"
    """exact: of equal documents the first stays. near: also of those that differ in white space, case or punctuation,
    and of those that MinHash finds alike."""
    duplicate_jaccard: float = 0.7
    """near: documents whose sets of word runs overlap by so much of both are alike (FineWeb: 0.75)."""
    duplicate_ngram_words: int = 5
    """near: the length of these runs (Lee et al. 2022, arXiv 2107.06499)."""
    minhash_permutations: int = 128
    """near: hashes of a document; twice as many, and the estimate errs by 0.7 of what it did. 4 bytes each on disk."""
    benchmarks: bool = False
    """Leave out documents that hold an item of CORE or a chat benchmark of this run: its question, or thirteen of its
    words in a row (Brown et al. 2020, arXiv 2005.14165)."""
