"""`nanochat verify`: everything that a bundle claims, computed again from the evidence inside it.

By the rules that it was written under (rules.py), without GPU, store or network. The order is: the files are those
listed, with their digests; each run's evidence fits together; the claims are what the evidence gives. All problems are
listed, not only the first. docs/records.md says what this proves and what it cannot.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nanochat_core
from nanochat_core.base.errors import CorruptError
from nanochat_core.record import core_scores, line_digests, rules
from nanochat_core.record.archive import Archive, Reading, entry_of, open_archive
from nanochat_core.record.chain import check_chain, check_weights, is_weights
from nanochat_core.record.claims import Claims, check_alike, check_claims, derive_claims
from nanochat_core.record.copies import check_copies
from nanochat_core.record.evidence import BITS_PER_BYTE, ROOT, STEP_LOG, UNCHECKABLE, Evidence, read_evidence
from nanochat_core.record.problems import Problem, Problems, differences, is_number, read_json, shown
from nanochat_core.record.scores import check_scores
from nanochat_core.record.step_log import LogRules, check_log
from nanochat_core.store.manifest import FileEntry, open_sealed_json
from nanochat_core.store.provenance import STEPS_BY_CODE

RECORD = "record.json"
FORMAT = 1
MAX_RUNS = 64  # seeds of one record
FIELDS = ("format", "description", "target_bits_per_byte", "claims", "files", "seal")


@dataclass(frozen=True)
class Verdict:
    """What a check of a bundle came to."""

    path: str
    problems: tuple[Problem, ...]
    claims: Claims | None
    """As computed from the evidence; None where the evidence is too broken to compute them."""
    notes: tuple[str, ...]
    """What the bundle does not show."""
    description: str = ""
    rules: int = rules.CURRENT
    """The number of those that it was checked by."""

    @property
    def is_sound(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class _Contents:
    """A bundle as read: its record, the files by run, and what is wrong so far."""

    record: dict[str, Any]
    files: dict[str, dict[str, bytes]]
    weights: dict[str, dict[str, FileEntry]]
    problems: Problems

    @property
    def rules(self) -> int:
        """Those that it was written under; records of before had no number."""
        number = self.record.get("rules", rules.FIRST)
        return number if rules.is_known(number) else rules.CURRENT


def verify(path: Path) -> Verdict:
    """Check the bundle at `path`, a folder or a zip; MissingError where there is none.

    Whatever is there is judged and not raised: what is no bundle, or is not safe to unpack, is refused as one.
    """
    try:
        with closing(open_archive(path)) as archive:
            contents = _read(archive)
    except (CorruptError, OSError) as error:
        text = error.message if isinstance(error, CorruptError) else str(error)
        return Verdict(str(path), (Problem(path.name, "", text.removeprefix(str(path)).lstrip(": ")),), None, ())
    runs = [read_evidence(run_id, files) for run_id, files in sorted(contents.files.items())]
    for evidence in runs:
        check_evidence(evidence, contents.weights.get(evidence.run_id, {}))
    problems = contents.problems
    for evidence in runs:
        problems += evidence.problems
    if not runs:
        return Verdict(str(path), tuple(problems), None, ())
    problems += check_alike(runs, file=RECORD)
    problems += check_copies(runs, file=RECORD)
    claims, found = _check_claims(contents, runs)
    problems += found
    description = contents.record.get("description")
    notes = tuple(_notes(runs, contents))
    return Verdict(str(path), tuple(dict.fromkeys(problems)), claims, notes, str(description), contents.rules)


def check_evidence(evidence: Evidence, weights: dict[str, FileEntry] | None = None) -> list[Problem]:
    """All checks within one run."""
    check_chain(evidence)
    check_weights(evidence, weights or {})
    log_rules = _log_rules(evidence)
    if log_rules is not None:
        with evidence.checking(STEP_LOG):
            evidence.problems += check_log(evidence.records, log_rules, file=evidence.path(STEP_LOG))
    with evidence.checking(BITS_PER_BYTE):
        check_scores(evidence)
    core_scores.check_core(evidence)
    return evidence.problems


def _log_rules(evidence: Evidence) -> LogRules | None:
    """From the plan, with which the pretraining's own settings have been compared."""
    if "pretrain" not in evidence.manifests:
        evidence.say("manifests/pretrain.json", "", "is missing: there is no record without a pretraining")
    if evidence.plan is None:
        return None
    if evidence.plan.has_base:
        evidence.say("run.json", "base.model", "names a model to start from: this is no training from nothing")
    plan = evidence.plan.pretrain
    return LogRules(
        schedule=plan.schedule,
        tokens_per_step=plan.total_batch_tokens,
        validate_every_steps=evidence.plan.config.pretrain.validate_every_steps,
    )


def _read(archive: Archive) -> _Contents:
    names, reading, problems = archive.names(), Reading(archive), Problems()
    if RECORD not in names:
        return _Contents({}, {}, {}, Problems([Problem(RECORD, "", "is missing: this is no bundle")]))
    record = _read_record(reading.content(RECORD), problems)
    listed = record.get("files")
    listed = listed if isinstance(listed, dict) else {}
    problems += [Problem(name, "", "is missing") for name in sorted(listed.keys() - set(names))]
    known = {*listed, RECORD}
    problems += [Problem(name, "", "is not listed in record.json") for name in names if name not in known]
    lines = _read_lines(reading, names, listed, problems)
    files: dict[str, dict[str, bytes]] = {}
    weights: dict[str, dict[str, FileEntry]] = {}
    for name in names:
        root, _, rest = name.partition("/")
        run_id, _, inner = rest.partition("/")
        if root == ROOT and is_weights(inner):
            found = weights.setdefault(run_id, {})[inner] = reading.entry(name)
            problems += _check_listed(name, found, listed)
        elif root == ROOT and inner:
            content = files.setdefault(run_id, {})[inner] = reading.content(name)
            problems += _check_lines(name, content, listed, lines.get(name))
        elif name not in (RECORD, line_digests.NAME):
            problems.append(Problem(name, "", "is no part of a bundle"))
    text_files = {f"{ROOT}/{run_id}/{name}" for run_id, inner in files.items() for name in inner}
    problems += _check_lines_cover(lines, text_files)
    if not files:
        problems.append(Problem(RECORD, "", f"there is no run under {ROOT}/"))
    problems += [Problem(f"{ROOT}/{run_id}", "", "holds weights alone") for run_id in weights.keys() - files.keys()]
    if len(files) > MAX_RUNS:
        problems.append(Problem(RECORD, "", f"there are {len(files):,} runs, and a record has up to {MAX_RUNS}"))
    return _Contents(record, dict(sorted(files.items())[:MAX_RUNS]), weights, problems)


def _read_record(content: bytes, problems: Problems) -> dict[str, Any]:
    try:
        record = read_json(content, where=RECORD)
    except CorruptError as error:
        problems.append(Problem(RECORD, "", error.message.removeprefix(f"{RECORD} ")))
        return {}
    if not isinstance(record, dict):
        problems.append(Problem(RECORD, "", "is not an object"))
        return {}
    for name in (name for name in FIELDS if name not in record):
        problems.append(Problem(RECORD, name, "is missing"))
    problems += [Problem(RECORD, name, "is unknown") for name in record if name not in (*FIELDS, "rules")]
    if record.get("format") != FORMAT:
        problems.append(Problem(RECORD, "format", f"is {shown(record.get('format'))}, this version reads {FORMAT}"))
    if not rules.is_known(number := record.get("rules", rules.FIRST)):
        told = f"is {shown(number)}, this version knows {rules.FIRST} to {rules.CURRENT}: a newer one wrote it"
        problems.append(Problem(RECORD, "rules", told))
    if not isinstance(record.get("description", ""), str):
        problems.append(Problem(RECORD, "description", f"is {shown(record['description'])}, which is no text"))
    try:
        open_sealed_json(content, where=RECORD)
    except CorruptError as error:
        text = error.message.removeprefix(f"{RECORD} ")
        covers = "it covers format, description, target_bits_per_byte, claims and files"
        problems.append(Problem(RECORD, "seal", f"{text} ({covers})"))
    return record


def _read_lines(reading: Reading, names: list[str], listed: dict[str, Any], problems: Problems) -> dict[str, str]:
    if line_digests.NAME not in names:
        return {}  # that it is missing is told by record.json's list
    content = reading.content(line_digests.NAME)
    problems += _check_listed(line_digests.NAME, entry_of(content), listed)
    try:
        return line_digests.parse(content)
    except CorruptError as error:
        problems.append(Problem(line_digests.NAME, "", error.message.removeprefix(f"{line_digests.NAME} ")))
        return {}


def _check_listed(name: str, found: FileEntry, listed: dict[str, Any]) -> list[Problem]:
    """A file against its digest in the list."""
    if name not in listed:
        return []
    expected = {"sha256": found.sha256, "num_bytes": found.num_bytes}
    return [
        Problem(name, "", f"has {field.rpartition('.')[2]} {shown(actual)}, record.json promises {shown(claimed)}")
        for field, claimed, actual in differences(listed[name], expected, "files")
    ]


def _check_lines(name: str, content: bytes, listed: dict[str, Any], lines: str | None) -> list[Problem]:
    """The same, and its lines against theirs."""
    wrong = _check_listed(name, entry_of(content), listed)
    if lines is None or name not in listed:
        return wrong
    changed = list(line_digests.changed_lines(name, content, lines))
    if changed and not wrong:
        return [Problem(line_digests.NAME, f"lines.{name}", "does not fit the file")]
    return changed + wrong


def _check_lines_cover(lines: dict[str, str], text_files: set[str]) -> list[Problem]:
    unknown = [Problem(line_digests.NAME, f"lines.{name}", "is unknown") for name in sorted(lines.keys() - text_files)]
    return unknown + [
        Problem(line_digests.NAME, f"lines.{name}", "is missing") for name in sorted(text_files - lines.keys())
    ]


def _check_claims(contents: _Contents, runs: list[Evidence]) -> tuple[Claims | None, list[Problem]]:
    record = contents.record
    target = record.get("target_bits_per_byte")
    if target is not None and not is_number(target):
        return None, [Problem(RECORD, "target_bits_per_byte", f"is {shown(target)}, which is no number")]
    if any(evidence.plan is None for evidence in runs):
        return None, [Problem(RECORD, "claims", "cannot be computed without a plan")]
    try:
        derived = derive_claims(runs, target_bits_per_byte=target)
    except UNCHECKABLE:
        return None, [Problem(RECORD, "claims", "cannot be computed from this evidence")]
    return derived, check_claims(record.get("claims"), derived, file=RECORD, rules=contents.rules)


def _notes(runs: list[Evidence], contents: _Contents) -> list[str]:
    """What is not shown, in plain words."""
    notes, ours = [], nanochat_core.__version__
    if any(evidence.core is None for evidence in runs):
        notes.append("CORE was not measured: nothing is claimed about it")
    if not contents.weights:
        notes.append("the weights are not in the bundle; their sha256 are")
    for evidence in runs:
        made = evidence.manifests["pretrain"].provenance if "pretrain" in evidence.manifests else {}
        if made.get("git_patch_sha256") and "source.patch" not in evidence.files:
            notes.append(f"{evidence.run_id}: the uncommitted changes are not in the bundle; their sha256 is")
        if made.get("num_untracked_files"):
            notes.append(f"{evidence.run_id}: {made['num_untracked_files']} untracked files are not in the bundle")
        version = str(made.get("packages", {}).get("nanochat-prefect", ours))
        if version != ours:
            notes.append(f"{evidence.run_id} was made by version {version}, this is {ours}")
        if parts := made.get(STEPS_BY_CODE):
            notes.append(
                f"{evidence.run_id}: {len(parts)} codes made the steps of its pretraining, so what it reached in what "
                "time is no measure of any of them; no commit makes it again, and leaderboard and gate leave it out"
            )
    return notes
