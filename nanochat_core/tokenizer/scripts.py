"""What languages cost: bytes per token of a text by its scripts, and the tokens of one sentence in twelve languages.

A language whose words a vocabulary does not know takes several times the tokens of another for the same thing said:
so much less fits into a row, and training and answers cost so many times as much. The sentence is the first article of
the Universal Declaration of Human Rights, which says the same in each. Scripts are told from the names of letters.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

from nanochat_core.tokenizer.tokenizer import Tokenizer

DOC_CHARS = 20_000  # of each document that is looked at
LEAST_SHARE = 0.01  # of the text, for a script to be in the table
DEAR = 3.0  # so many times the tokens of the cheapest language: then it is said
KANA = ("HIRAGANA", "KATAKANA")
JAPANESE, CHINESE = "Japanese", "Chinese"
# language -> (its script, the sentence)
SENTENCES = {
    "English": (
        "Latin",
        "All human beings are born free and equal in dignity and rights. They are endowed with "
        "reason and conscience and should act towards one another in a spirit of brotherhood.",
    ),
    "German": (
        "Latin",
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
        "und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    ),
    "Russian": (
        "Cyrillic",
        "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
        "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    ),
    "Greek": (
        "Greek",
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. "
        "Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους "
        "με πνεύμα αδελφοσύνης.",
    ),
    "Arabic": (
        "Arabic",
        "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن "
        "يعامل بعضهم بعضًا بروح الإخاء.",
    ),
    "Hindi": (
        "Devanagari",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "
        "उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव "
        "करना चाहिए।",
    ),
    "Bengali": (
        "Bengali",
        "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং "
        "বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",
    ),
    "Tamil": (
        "Tamil",
        "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், "
        "உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் "
        "பெற்றவர்கள். அவர்கள் ஒருவருடனொருவர் சகோதர உணர்வுப் பாங்கில் நடந்துகொள்ளல் வேண்டும்.",
    ),
    "Thai": (
        "Thai",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    ),
    "Chinese": (
        CHINESE,
        "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    ),
    "Japanese": (
        JAPANESE,
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間"
        "は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    ),
    "Korean": (
        "Hangul",
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 "
        "천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
    ),
}


@lru_cache(maxsize=1 << 16)
def _script_of_letter(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def script_of(line: str) -> str | None:
    """The script that most letters of a line are of; None for a line without any."""
    counts = Counter(map(_script_of_letter, line))
    del counts[""]
    if not counts:
        return None
    kana = sum(counts.pop(name, 0) for name in KANA)
    if kana:  # Chinese has none
        return JAPANESE if kana + counts["CJK"] >= max(counts.values(), default=0) else _named(counts)
    return _named(counts)


def _named(counts: Counter[str]) -> str:
    name = counts.most_common(1)[0][0]
    return CHINESE if name == "CJK" else name.capitalize()


def by_script(documents: Iterable[str]) -> dict[str, str]:
    """The text of each script that has a hundredth of the whole, the largest first; each line is of one."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        for line in document[:DOC_CHARS].splitlines(keepends=True):
            if script := script_of(line):
                lines[script].append(line)
    texts = {script: "".join(several) for script, several in lines.items()}
    sizes = {script: len(text.encode()) for script, text in texts.items()}
    total = sum(sizes.values())
    order = sorted(sizes, key=lambda script: -sizes[script])
    return {script: texts[script] for script in order if sizes[script] >= LEAST_SHARE * total}


def sentence_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """How many tokens the same sentence has in each language."""
    return {language: len(tokenizer.encode(sentence)) for language, (_, sentence) in SENTENCES.items()}


def dear_languages(tokenizer: Tokenizer, scripts: Iterable[str]) -> list[str]:
    """What to say of the languages, of those a text may be in by its scripts, that cost three times the cheapest."""
    tokens, scripts = sentence_tokens(tokenizer), list(scripts)
    costs: dict[str, tuple[int, str]] = {}
    for language, (script, _) in SENTENCES.items():
        if script in scripts:
            costs[script] = min(costs.get(script, (tokens[language], language)), (tokens[language], language))
    least, cheapest = min(costs.values(), default=(0, ""))
    return [
        f"{script} is dear: {language} takes {num / least:.1f} times the tokens of {cheapest} for the same sentence; "
        "more of it in the text, a larger tokenizer.vocab_size or tokenizer.pattern = scripts makes it cheaper"
        for script, (num, language) in costs.items()
        if num >= DEAR * least
    ]
