"""A small bundle of all three kinds, a vocabulary with merges, and models whose windows end inside the prompts."""

import json
import zipfile

import pytest
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.data import documentation
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import train_tokenizer

CORE_YAML = """
icl_tasks:
- {label: copa, dataset_uri: a/copa.jsonl, num_fewshot: [0], icl_task_type: multiple_choice}
- label: piqa
  dataset_uri: a/piqa.jsonl
  num_fewshot: [3]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
- {label: winograd, dataset_uri: b/winograd.jsonl, num_fewshot: [0], icl_task_type: schema}
- {label: jeopardy, dataset_uri: b/jeopardy.jsonl, num_fewshot: [2], icl_task_type: language_modeling}
"""
TABLE = """Eval Task,Task Category,Random baseline
copa,commonsense reasoning,50
piqa,commonsense reasoning,50
winograd,language understanding,50
jeopardy,world knowledge,0
"""
COPA_CHOICES = ["the toilet filled.", "water flowed."]
PIQA_CHOICES = ["Turn it", "Turn it around the lid."]  # the one is how the other begins
FISH = ("The {} fish ate the worm. The fish", "The {} fish ate the worm. The worm")
ITEMS = {
    "a/copa.jsonl": [
        {"query": f"The man turned on tap {i}, therefore", "choices": COPA_CHOICES, "gold": i % 2} for i in range(5)
    ],
    "a/piqa.jsonl": [
        {"query": f"Question: How do I open jar {i}?\n", "choices": PIQA_CHOICES, "gold": i % 2} for i in range(6)
    ],
    "b/winograd.jsonl": [
        {"context_options": [option.format(i) for option in FISH], "continuation": "was hungry.", "gold": 0}
        for i in range(4)
    ],
    "b/jeopardy.jsonl": [
        {"context": f"SCIENCE: Number {i} after this one \n", "continuation": f"It is {i + 1}"} for i in range(5)
    ],
}


@pytest.fixture
def bundle_folder(tmp_path):
    """A bundle's folder, to be spoilt by the test."""
    root = tmp_path / "eval_bundle"
    for name, items in ITEMS.items():
        path = root / "eval_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    (root / "core.yaml").write_text(CORE_YAML)
    (root / "eval_meta_data.csv").write_text(TABLE)
    return root


@pytest.fixture
def make_zip(tmp_path):
    """Zip a folder's content under `top`."""

    def make(folder, top):
        path = tmp_path / f"bundle{len(top)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, top + str(file.relative_to(folder)))
        return path

    return make


@pytest.fixture(scope="session")
def real_bundle(shared):
    folder = shared / "data" / "core_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def bpe():
    """A vocabulary with merges, trained on the embedded documentation."""
    texts = (text for _, text in zip(range(300), documentation.documents(), strict=False))
    return train_tokenizer(texts, vocab_size=1024, max_train_bytes=300_000, max_doc_bytes=5_000)


@pytest.fixture(scope="session")
def make_model(bpe):
    """Random weights, none of them zero."""

    def make(**changes):
        shape = {"sequence_len": 256, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "window_pattern": "SSL"}
        model = GPT(GPTConfig(**{"vocab_size": bpe.vocab_size, **shape, **changes}))
        model.init_weights(0)
        nudge(model, 0.1, seed=1)
        return model

    return make
