"""Text that people bring, made after public reports: every document that is there is read, or what is not is said.

What a case keeps is in words ("24 of a.jsonl", "c.md as it is written"): the files that it names are read here plainly.
A file that the case leaves out for its ending may be read, where the run says so.
"""

import json
import re

import pyarrow as pa
from core.data.cases import REFUSED, RIGHT, WRONG, cases, is_said, refusal

from nanochat_core.base.errors import NanochatError
from nanochat_core.data import shards
from nanochat_core.data.corpora import build_corpus, notes_of
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import corpus


def _read(path, settings, out):
    """(documents, what was said) of a run with this corpus.path."""
    plan = plan_run(load_config("tiny", ["corpus.source=path", f"corpus.path={path}", *settings]))
    least_bytes = corpus.settings(plan)["least_bytes"]
    made = build_corpus(plan.config.corpus, out, downloads=out, log=lambda text: None, least_bytes=least_bytes)
    read = [text for split in ("train", "validation") for text in shards.read_documents(out / split)]
    return read, [*notes_of(plan.config.corpus), *made["notes"]]


def _lines(file, column):
    raw = pa.input_stream(file, compression="detect").read() if file.suffix == ".zst" else file.read_bytes()
    for line in raw.decode().splitlines():
        record = json.loads(line)
        for name in column.split("."):
            record = record[name]
        yield record.strip()


def _wanted(case, expected, column):
    """The documents that a case keeps; None for one whose cuts are free."""
    given = case / expected["give"]
    wanted = set()
    for kept in expected["kept"]:
        if not (named := re.match(r"(?:(\d+) of )?(\S+\.\w+)", kept)):
            return None if "cut" in kept else set(_lines(given, column))
        file, num = given / named[2], named[1]
        texts = list(_lines(file, column)) if num else [file.read_text().removeprefix("\ufeff").strip()]
        assert len(texts) == int(num or 1), kept
        wanted |= set(texts)
    return wanted


def _outcome(case, out):
    expected = json.loads((case / "expected.json").read_text())
    column = next((each.partition(": ")[2] for each in expected["settings"] if each.startswith("text column")), "text")
    try:
        read, said = _read(case / expected["give"], [f"corpus.text_column={column}"], out)
    except NanochatError as error:
        said = [error.message, error.hint or ""]
        return refusal(expected, said, case), said
    found, wanted = {text.strip() for text in read}, _wanted(case, expected, column)
    if wanted is None:
        whole = (case / expected["give"]).read_text()
        is_same = len(found) > 1 and sorted(" ".join(found).split()) == sorted(whole.split())
    else:
        passed_over = [one["where"] for one in expected["dropped"] if one["reason"] == "suffix not read"]
        named = [name for name in passed_over if is_said([[f"1 of {name}"]], said, case)]
        is_same = wanted <= found and len(found) == len(wanted) + len(named)
    is_clean = not any(words in text for words in expected["must_not_be_trained"] for text in found)
    ends = [end for end in (expected, *expected["also_acceptable"]) if end["verdict"] != "refused"]
    is_right = is_same and is_clean and any(is_said(end["must_match"], said, case) for end in ends)
    return (RIGHT if is_right else WRONG), said


def test_every_corpus_is_read_right_or_refused_with_its_reason(shared, tmp_path):
    reading = [case for case in cases(shared, "corpora") if '"kind": "reading"' in (case / "expected.json").read_text()]
    outcomes = {case.name: _outcome(case, tmp_path / case.name) for case in reading}
    table = "\n".join(f"{name}: {end}: {said}" for name, (end, said) in outcomes.items())
    print(table)
    assert outcomes
    assert {end for end, _ in outcomes.values()} <= {RIGHT, REFUSED}, table


def test_a_mark_at_the_start_and_mojibake_are_not_learnt(shared, tmp_path):
    case = shared / "datacases/corpora/k10-mojibake-and-encodings"
    if not case.is_dir():
        cases(shared, "corpora")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jsonl", "b-bom.txt"):
        (folder / name).write_bytes((case / "in" / name).read_bytes())
    read, said = _read(folder, [], tmp_path / "out")
    assert len(read) == 23
    assert not any("\ufeff" in text or "Ã" in text for text in read)
    assert any(text.startswith("Der Müller öffnet früh, weil") for text in read)
    assert is_said([["1 of mojibake"], ["a.jsonl, line 21"], ["1 with U+FFFD"], ["a.jsonl, line 22"]], said, case)
