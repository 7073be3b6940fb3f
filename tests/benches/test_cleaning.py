"""A short run of benchmarks/cleaning.py: what is planted is found, and nothing else is."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import cleaning


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cleaning.Text]:
    folder = tmp_path_factory.mktemp("planted")
    return folder, cleaning.generate(folder, cleaning.Text(2_000_000, num_known=200, num_words=6000, times=6))


class Heard:
    """Takes what a step's process would send."""

    def send(self, figures: tuple[float, int]) -> None:
        self.figures = figures


@pytest.mark.parametrize("step", ["exact", "near", "items"])
def test_all_that_is_planted_is_found_and_nothing_else(
    step: str, corpus: tuple[Path, cleaning.Text], tmp_path: Path
) -> None:
    folder, text = corpus
    items = [" ".join(item) for item in text.items]
    cleaning.run_step(step, folder, tmp_path, items, 1, heard := Heard())
    scores = cleaning.judged(step, tmp_path, text)
    print(scores)
    assert heard.figures[0] > 0
    assert min(Counter(text.planted.values()).values()) >= 5
    assert scores["precision"] == 1
    assert scores["recall"] == dict.fromkeys(scores["recall"], 1)
