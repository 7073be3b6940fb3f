"""GPT-2 on single benchmarks of CORE, to hold a run's own scores against, and the names of benchmarks and stages.

Figures from nanochat, which measured OpenAI's checkpoints with the same bundle: the tables of
dev/estimate_gpt3_core.ipynb (January 2026, four digits) print six of the 22 benchmarks one by one; the other sixteen
are nowhere published apart, so they have no reference here. GPT-2's CORE itself is in evals/core/gpt2.py.
"""

GPT2_XL_CENTERED = {
    "hellaswag_zeroshot": 0.3360,
    "lambada_openai": 0.5230,
    "hellaswag": 0.3493,
    "piqa": 0.4500,
    "arc_easy": 0.4600,
    "arc_challenge": 0.0653,
}
STAGE_NAMES = {"benchmark_base": "base", "benchmark_chat": "SFT", "benchmark_rl": "RL"}  # in the order of training
CORE_NAMES = {
    "hellaswag_zeroshot": "HellaSwag, 0-shot",
    "hellaswag": "HellaSwag, 10-shot",
    "lambada_openai": "LAMBADA",
    "winograd": "Winograd",
    "winogrande": "WinoGrande",
    "bigbench_language_identification": "Language identification",
    "jeopardy": "Jeopardy",
    "bigbench_qa_wikidata": "QA Wikidata",
    "arc_easy": "ARC Easy",
    "arc_challenge": "ARC Challenge",
    "copa": "COPA",
    "commonsense_qa": "CommonsenseQA",
    "piqa": "PIQA",
    "openbook_qa": "OpenBookQA",
    "bigbench_dyck_languages": "Dyck languages",
    "agi_eval_lsat_ar": "LSAT reasoning",
    "bigbench_cs_algorithms": "CS algorithms",
    "bigbench_operators": "Operators",
    "bigbench_repeat_copy_logic": "Repeat copy logic",
    "squad": "SQuAD",
    "coqa": "CoQA",
    "boolq": "BoolQ",
}


def core_name(label: str) -> str:
    """The benchmark's usual name; a bundle of one's own may hold others, which keep their label."""
    return CORE_NAMES.get(label, label.replace("_", " "))
