"""Writes what a reader of the documents is said to have: DATA, conversations.jsonl, and a checkpoint of nanochat's."""

import json
import pickle
import runpy
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

TALK = {"messages": [{"role": "user", "content": "Who are you? {}"}, {"role": "assistant", "content": "A model. {}"}]}


def write() -> None:
    """The benchmarks' data and the conversations, into this folder."""
    import chat_items

    core_items = runpy.run_path(str(TESTS / "core/evals/core/conftest.py"))
    for name, items in core_items["ITEMS"].items():
        path = Path("DATA/core_eval/eval_data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    Path("DATA/core_eval/core.yaml").write_text(core_items["CORE_YAML"])
    Path("DATA/core_eval/eval_meta_data.csv").write_text(core_items["TABLE"])
    chat_items.write(Path("DATA/chat_eval"))
    talks = [json.dumps(TALK).replace("{}", f"Number {number}.") for number in range(200)]
    Path("conversations.jsonl").write_text("\n".join(talks))


def write_checkpoint() -> None:
    """A checkpoint and a tokenizer where nanochat keeps them."""
    import nanochat_golden
    import tiktoken

    from nanochat_core.tokenizer.bpe import train_tokenizer
    from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

    folder = Path.home() / ".cache/nanochat"
    (folder / "tokenizer").mkdir(parents=True)
    nanochat_golden.write_checkpoint(folder / "base_checkpoints/d12")
    learnt = train_tokenizer(["the quick brown fox"] * 9, vocab_size=275, max_train_bytes=1000, max_doc_bytes=100)
    ranks = {token: rank for rank, token in enumerate(learnt.ranks)}
    special = {name: learnt.special(name) for name in SPECIAL_TOKENS}
    made = tiktoken.Encoding("rustbpe", pat_str=learnt.pattern, mergeable_ranks=ranks, special_tokens=special)
    (folder / "tokenizer/tokenizer.pkl").write_bytes(pickle.dumps(made))


if __name__ == "__main__":
    sys.path.append(str(TESTS))
    write_checkpoint() if "checkpoint" in sys.argv else write()
