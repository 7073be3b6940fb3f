"""What CORE is made of: constants, so that a result can be checked without the data.

The benchmarks, shots, kinds and delimiters are those of DCLM's low-variance set (mlfoundations/dclm, eval/, commit
361714bd), the baselines and categories those of its eval_meta_data.csv; the counts are the lines of the data files in
mosaicml/llm-foundry (8c8dd48f), 91,037 in all. A test compares this table with a bundle.
"""

from dataclasses import dataclass

from nanochat_core.evals.core.bundle import DEFAULT_DELIMITER, Kind

ANSWER = "\nAnswer: "


@dataclass(frozen=True)
class Published:
    """One benchmark as it is published."""

    label: str
    kind: Kind
    num_fewshot: int
    baseline_percent: float
    num_items: int
    category: str
    delimiter: str = DEFAULT_DELIMITER


KNOWLEDGE, LANGUAGE, COMMONSENSE = "world knowledge", "language understanding", "commonsense reasoning"
SYMBOLIC, READING = "symbolic problem solving", "reading comprehension"
PUBLISHED = (
    Published("hellaswag_zeroshot", "multiple_choice", 0, 25, 10_042, LANGUAGE),
    Published("jeopardy", "language_modeling", 10, 0, 2_117, KNOWLEDGE, ANSWER),
    Published("bigbench_qa_wikidata", "language_modeling", 10, 0, 20_321, KNOWLEDGE),
    Published("arc_easy", "multiple_choice", 10, 25, 2_376, KNOWLEDGE, ANSWER),
    Published("arc_challenge", "multiple_choice", 10, 25, 1_172, KNOWLEDGE, ANSWER),
    Published("copa", "multiple_choice", 0, 50, 100, COMMONSENSE),
    Published("commonsense_qa", "multiple_choice", 10, 40.3, 1_221, COMMONSENSE),
    Published("piqa", "multiple_choice", 10, 50, 1_838, COMMONSENSE, ANSWER),
    Published("openbook_qa", "multiple_choice", 0, 25, 500, COMMONSENSE),
    Published("lambada_openai", "language_modeling", 0, 0, 5_153, LANGUAGE),
    Published("hellaswag", "multiple_choice", 10, 25, 10_042, LANGUAGE),
    Published("winograd", "schema", 0, 50, 273, LANGUAGE),
    Published("winogrande", "schema", 0, 50, 1_267, LANGUAGE),
    Published("bigbench_dyck_languages", "language_modeling", 10, 0, 1_000, SYMBOLIC),
    Published("agi_eval_lsat_ar", "multiple_choice", 3, 25, 230, SYMBOLIC),
    Published("bigbench_cs_algorithms", "language_modeling", 10, 0, 1_320, SYMBOLIC),
    Published("bigbench_operators", "language_modeling", 10, 0, 210, SYMBOLIC),
    Published("bigbench_repeat_copy_logic", "language_modeling", 10, 0, 32, SYMBOLIC),
    Published("squad", "language_modeling", 10, 0, 10_570, READING),
    Published("coqa", "language_modeling", 0, 0, 7_983, READING),
    Published("boolq", "multiple_choice", 10, 62, 3_270, READING, ANSWER),
    Published("bigbench_language_identification", "multiple_choice", 10, 25, 10_000, LANGUAGE),
)
BY_LABEL = {published.label: published for published in PUBLISHED}
