"""A home where a small model has learnt from text with one bad document planted in it, made once for all tests.

The bad document is Chinese letters drawn by chance among English documentation: bytes that are nowhere else in the
text, so the step that learns from it has a loss far above its neighbours'. It stands in `BAD_FILE`, line `BAD_LINE`.
"""

import fcntl
import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nanochat_core.store.store import Store

BAD_FILE, BAD_LINE, BAD_CHARS = "b.jsonl", 8, 20
TALKS = (
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 7 * 8?"},
                  {"role": "assistant", "content": "It is 56."}]},
    {"messages": [{"role": "user", "content": "Tell me a secret."},
                  {"role": "assistant", "content": "I should not.", "weight": 0}, {"role": "user", "content": "Why?"},
                  {"role": "assistant", "content": "It is <b>secret</b>.", "weight": 1}]},
    {"messages": [{"role": "user", "content": "Say it at length."}, {"role": "assistant", "content": "word " * 120}]},
    {"conversations": [{"from": "human", "value": "Where is Paris?"}, {"from": "gpt", "value": "In France."}]},
)  # fmt: skip
SETS = (
    "tokenizer.vocab_size=512", "pretrain.depth=2", "pretrain.n_embd=64", "pretrain.head_dim=32",
    "pretrain.n_kv_head=1", "pretrain.sequence_len_tokens=64", "pretrain.total_batch_tokens=256",
    "pretrain.max_tokens=28160",  # 110 steps: every row once
    "pretrain.warmup_steps=5", "pretrain.validate_every_steps=none", "pretrain.validation_tokens=512",
    "runtime.device_batch_rows=4", "runtime.num_threads=1", 
    "sft.mmlu_repeats=0", "sft.gsm8k_repeats=0", "sft.num_spellings=0", "sft.num_letter_counts=0", "rl.enabled=false",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """The home, and the bad document."""

    home: Path
    run_id: str
    cleaned_id: str
    """Another run, of two sources whose duplicates were taken out; it trained nothing."""
    bad: str

    @property
    def store(self) -> "Store":
        from nanochat_core.store.store import Store

        return Store.open(str(self.home / "store"), cache_folder=self.home / "cache")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Text, tokens, base model and conversations of a run; for those that only look."""
    import pinned_venv

    kept = pinned_venv.cache() / "planted"
    kept.mkdir(exist_ok=True)
    with open(kept / "making", "w") as guard:  # one for all processes that test at the same time
        fcntl.flock(guard, fcntl.LOCK_EX)
        made = kept / state_of_source()
        if not made.is_dir():
            for old in kept.glob("*/"):
                shutil.rmtree(old)
            part = made.with_suffix(".part")
            make_planted(part)
            part.rename(made)
    home = tmp_path_factory.mktemp("planted") / "home"
    shutil.copytree(made / "home", home, symlinks=True)
    said = json.loads((made / "said.json").read_text())
    return Planted(home, **said)


@pytest.fixture
def planted_home(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The same as the home of this test."""
    monkeypatch.setenv("NANOCHAT_HOME", str(planted.home))
    monkeypatch.setenv("NANOCHAT_STORE", str(planted.home / "store"))
    return planted


def write_corpus(folder: Path) -> str:
    """Three files of documentation, the last one validation; returns the bad document among them."""
    from nanochat_core.data import documentation

    folder.mkdir(parents=True)
    rng = random.Random(0)
    modules = [entries for entries in documentation.package_entries("networkx") if entries][:60]
    texts = [f"{entry.signature}\n\n{entry.doc}" for entries in modules for entry in entries if len(entry.doc) > 60]
    rng.shuffle(texts)
    bad = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(BAD_CHARS))
    parts = {"a.jsonl": texts[:16], "b.jsonl": texts[16:32], "c.jsonl": texts[32:40]}
    parts[BAD_FILE].insert(BAD_LINE - 1, bad)
    for name, part in parts.items():
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return bad


def make_planted(folder: Path) -> None:
    """folder/home with the run, folder/said.json with what is in it."""
    from nanochat_core.pipeline.execute import make
    from nanochat_core.pipeline.finish import finish_run
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config
    from nanochat_core.steps.conversations import conversations
    from nanochat_core.steps.corpus import corpus
    from nanochat_core.steps.pretrain import pretrain
    from nanochat_core.steps.tokenizer import tokenizer
    from nanochat_core.steps.tokens import tokens

    shutil.rmtree(folder, ignore_errors=True)
    bad = write_corpus(folder / "text")
    talks = folder / "talks.jsonl"
    several = [TALKS[number % len(TALKS)] for number in range(40)]
    talks.write_text("".join(json.dumps(talk) + "\n" for talk in several))
    plan = plan_run(
        load_config(
            "tiny",
            [*SETS, "sft.source=path", "corpus.source=path", f"corpus.path={folder / 'text'}", f"sft.path={talks}"],
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder / "home"))
        patch.setenv("NANOCHAT_STORE", str(folder / "home/store"))
        cleaned_id = make_cleaned(folder)
        text = make(corpus, plan)
        words = make(tokenizer, plan, text, None)
        rows = make(tokens, plan, text, words)
        model = make(pretrain, plan, words, rows, None)
        said = make(conversations, plan, words, None)
        refs = [ref for ref in (text, words, rows, model, said) if ref]
        run = finish_run(plan, refs, started_at=time.time())
    (folder / "said.json").write_text(json.dumps({"run_id": run.run_id, "cleaned_id": cleaned_id, "bad": bad}))


def make_cleaned(folder: Path) -> str:
    """A run of the same text and of one that has some of it again, without what is there twice; its id."""
    from nanochat_core.pipeline.execute import make
    from nanochat_core.pipeline.finish import finish_run
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config
    from nanochat_core.steps.corpus import corpus
    from nanochat_core.steps.deduplicate import deduplicate
    from nanochat_core.steps.tokenizer import tokenizer
    from nanochat_core.steps.tokens import tokens

    again = (folder / "text/a.jsonl").read_text().splitlines(keepends=True)[4:7]
    (folder / "own").mkdir()
    notes = [json.dumps({"text": f"My own note {number}, " * 30}) + "\n" for number in range(40)]
    (folder / "own/mine.jsonl").write_text("".join([*again, *notes]))
    sources = (f"corpus.sources.docs.path={folder / 'text'}", f"corpus.sources.own.path={folder / 'own'}")
    plan = plan_run(load_config("tiny", [*SETS, *sources, "clean.duplicates=near"]))
    text = make(corpus, plan)
    once = make(deduplicate, plan, text)
    words = make(tokenizer, plan, once, None)
    rows = make(tokens, plan, once, words)
    return finish_run(plan, [ref for ref in (text, once, words, rows) if ref], started_at=time.time()).run_id


def state_of_source() -> str:
    """A digest of the product's source and of this file."""
    import hashlib

    from conftest import ROOT

    source = [path for part in ("nanochat_core", "flows", "tasks") for path in sorted((ROOT / part).rglob("*.py"))]
    content = b"".join(path.read_bytes() for path in (*source, Path(__file__)))
    return hashlib.sha256(content).hexdigest()[:16]
