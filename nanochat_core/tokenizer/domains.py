"""Bytes per token by kind of text: what a vocabulary is good at, in one small table."""

import itertools
from collections.abc import Iterable

from nanochat_core.tokenizer.scripts import by_script
from nanochat_core.tokenizer.tokenizer import Tokenizer

NUM_VALIDATION_DOCS = 200
SAMPLES = {
    "English": (
        "The committee met on Tuesday to discuss whether the old bridge should be repaired or replaced. Most of the "
        "people who live nearby would like to keep it, because it is beautiful and because they have always crossed it."
    ),
    "Python": (
        "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
        "    return sum(values) / len(values)\n"
    ),
    "numbers": "In 2024 there were 1,483 entries; 37 + 58 = 95 and 3.14159 * 2 = 6.28318. Call 555-0123.",
    "German": "Der Ausschuss tagte am Dienstag und besprach, ob die alte Brücke repariert oder ersetzt werden soll.",
    "Korean": "위원회는 오래된 다리를 수리할지 교체할지 논의하기 위해 화요일에 모였다.",
    "emoji": "🙂 👍🏽 🚀 ❤️ 🎉",
}


def bytes_per_token(tokenizer: Tokenizer, validation: Iterable[str]) -> dict[str, float]:
    """By domain, "validation text" first, then its scripts where it has several: larger is better."""
    documents = list(itertools.islice(validation, NUM_VALIDATION_DOCS))
    scripts = by_script(documents)
    several = {f"of it in {script}": text for script, text in scripts.items()} if len(scripts) > 1 else {}
    texts = {"validation text": "\n\n".join(documents), **several, **SAMPLES}
    return {name: len(text.encode("utf-8")) / max(1, len(tokenizer.encode(text))) for name, text in texts.items()}
