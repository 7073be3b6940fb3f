"""Files that people bring, made after public reports: what is read of each, what is learnt of it, and what is said.

A case of one conversation is read with another one beside it for validation, without which it would be refused.
A case is right where the conversations are those that it lists, with their targets, and what has to be said is said in
notes or errors; or where it is refused as the case allows, with the reason.
"""

import itertools
import json
import re
import shutil

from core.data.cases import REFUSED, RIGHT, WRONG, cases, is_said, refusal

from nanochat_core.base.errors import NanochatError
from nanochat_core.data.conversations import notes_of
from nanochat_core.pipeline.mixture import load_mixture
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.tokenizer.conversation import render_conversation


def _learnt(tokenizer, messages):
    """Runs of (is it a target, text) as the model has them; special tokens are letters of a private area."""
    ids, mask = render_conversation(tokenizer, messages)
    runs = []
    for learn, members in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        coded = b"".join(bytes([i]) if i < 256 else chr(0xE000 + i).encode() for i, _ in members)
        runs.append((learn, re.sub(r" ?([\ue000-\uf8ff]) ?", r"\1", re.sub(r"\s+", " ", coded.decode())).strip()))
    return tuple(runs)


def _as_ours(messages):
    """The messages of expected.json in the product's own form: an answer with its calls and their results is one."""
    ours = []
    for message in messages:
        if message["role"] not in ("assistant", "tool"):
            ours.append({"role": message["role"], "content": message["content"]})
            continue
        if not ours or ours[-1]["role"] != "assistant":
            ours.append({"role": "assistant", "content": [], "train": True})
        thought = f"<think>{message['reasoning']}</think>" if "reasoning" in message else ""
        kind = "python_output" if message["role"] == "tool" else "text"
        parts = [{"type": kind, "text": thought + message["content"]}]
        for call in message.get("tool_calls", []):
            arguments = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
            parts.append({"type": "python", "text": f"{call['name']}({arguments})"})
        is_learnt = message["train"] or message["role"] == "tool"
        ours[-1]["content"] += [{**part, "train": is_learnt} for part in parts if part["text"]]
        ours[-1]["train"] = is_learnt
    return ours


def _read(path):
    """(messages of each conversation, what was said)."""
    mix = load_mixture(plan_run(load_config("tiny", ["sft.source=path", f"sft.path={path}"])))
    talks = [conversation["messages"] for source in (mix.train, mix.validation) for conversation in source]
    return talks, [*notes_of(str(path)), *mix.notes]


def _read_with_validation(given, folder):
    try:
        return _read(given)
    except NanochatError as error:
        if not error.message.startswith("1 conversation cannot be"):
            raise
    shutil.copy(given, folder)
    held_out = [{"role": "user", "content": "held out"}, {"role": "assistant", "content": "held out"}]
    (folder / "valid.jsonl").write_text(json.dumps({"messages": held_out}))
    talks, said = _read(folder)
    return [messages for messages in talks if messages != held_out], said


def _outcome(case, tokenizer, folder):
    """(what the case came to, what was said)."""
    expected = json.loads((case / "expected.json").read_text())
    folder.mkdir()
    try:
        read, said = _read_with_validation(case / expected["give"], folder)
        found = {_learnt(tokenizer, messages) for messages in read}
    except NanochatError as error:
        said = [error.message, error.hint or ""]
        return refusal(expected, said, case), said
    wanted = {_learnt(tokenizer, _as_ours(messages)) for messages in expected["conversations"]}
    is_right = expected["verdict"] != "refused" and found == wanted and is_said(expected["must_match"], said, case)
    return (RIGHT if is_right else WRONG), said


def test_every_case_is_read_right_or_refused_with_its_reason(shared, tokenizer, tmp_path):
    outcomes = {case.name: _outcome(case, tokenizer, tmp_path / case.name) for case in cases(shared, "conversations")}
    table = "\n".join(f"{name}: {end}: {said}" for name, (end, said) in outcomes.items())
    print(table)
    assert {end for end, _ in outcomes.values()} <= {RIGHT, REFUSED}, table
