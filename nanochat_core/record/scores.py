"""Checks of the measured quality: bits per byte from its sums, and the metrics in the manifests from what they sum up.

bpb.json and the last validation of the step log are two measurements of the same weights. Where both looked at the
same rows they agree up to the order of additions in bf16.
"""

import math
from typing import Any

from nanochat_core.record.chain import manifest_name
from nanochat_core.record.evidence import BITS_PER_BYTE, Evidence
from nanochat_core.record.problems import Problem, is_close, is_count, is_number, shown

SAME_ROWS_TOLERANCE = 1e-4  # relative; other micro-batches add up in another order, in bf16
FIELDS = {"bits_per_byte", "nats_per_token", "num_bytes", "num_tokens"}
SUMS = {"byte_nats", "nats"}  # of newer evaluations: the sums that the two ratios are made of


def last_validation(evidence: Evidence) -> dict[str, Any] | None:
    """The record of the last validation in the step log."""
    found = [record for record in evidence.records if record["event"] == "validate"]
    return found[-1] if found else None


def check_scores(evidence: Evidence) -> list[Problem]:
    """What contradicts itself among bpb.json, the step log and the metrics of the manifests."""
    _check_pretrain_metrics(evidence)
    scores = evidence.bits_per_byte
    if scores is not None and _has_sound_fields(evidence, scores):
        _check_sums(evidence, scores)
        _check_rows(evidence, scores)
        _check_metric(evidence, "evaluate_base", "bits_per_byte", scores["bits_per_byte"], "bpb.json")
    return evidence.problems


def _check_pretrain_metrics(evidence: Evidence) -> None:
    by_event = {record["event"]: record for record in evidence.records}  # the last of each kind
    if {"step", "validate", "end"} <= by_event.keys():
        expected = {
            "num_steps": by_event["end"]["step"],
            "train_s": by_event["end"]["train_s"],
            "smooth_loss": by_event["step"]["smooth_loss"],
            "bits_per_byte": by_event["validate"]["bits_per_byte"],
            "validation_loss": by_event["validate"]["validation_loss"],
        }
        for name, value in expected.items():
            _check_metric(evidence, "pretrain", name, value, "the step log")


def _check_metric(evidence: Evidence, step: str, name: str, expected: Any, source: str) -> None:
    artifact = evidence.manifests.get(step)
    if artifact is not None and not is_close(artifact.metrics.get(name), expected):
        claimed = shown(artifact.metrics.get(name))
        evidence.say(manifest_name(step), f"metrics.{name}", f"is {claimed}, {source} gives {shown(expected)}")


def _has_sound_fields(evidence: Evidence, scores: dict[str, Any]) -> bool:
    before = len(evidence.problems)
    for name in sorted(FIELDS - scores.keys()):
        evidence.say(BITS_PER_BYTE, name, "is missing")
    for name in sorted(scores.keys() - FIELDS - SUMS):
        evidence.say(BITS_PER_BYTE, name, "is unknown")
    for name in sorted(FIELDS & scores.keys()):
        is_sound = is_count(scores[name]) if name.startswith("num_") else is_number(scores[name])
        if not is_sound or scores[name] <= 0:
            evidence.say(BITS_PER_BYTE, name, f"{shown(scores[name])} is not a number it can be")
    return len(evidence.problems) == before


def _check_sums(evidence: Evidence, scores: dict[str, Any]) -> None:
    byte_nats = scores["bits_per_byte"] * math.log(2) * scores["num_bytes"]
    nats = scores["nats_per_token"] * scores["num_tokens"]
    if byte_nats > nats * (1 + 1e-9):  # those of special tokens, which have no bytes, are in the second only
        text = f"x ln 2 x num_bytes is {shown(byte_nats)} nats, nats_per_token x num_tokens is only {shown(nats)}"
        evidence.say(BITS_PER_BYTE, "bits_per_byte", text)
    for name, found in (("byte_nats", byte_nats), ("nats", nats)):
        if name in scores and not is_close(scores[name], found):
            evidence.say(BITS_PER_BYTE, name, f"is {shown(scores[name])}, the ratios give {shown(found)}")


def _check_rows(evidence: Evidence, scores: dict[str, Any]) -> None:
    """How many rows there were, and whether the last validation saw the same ones."""
    tokens, last = evidence.manifests.get("tokens"), last_validation(evidence)
    if evidence.plan is None or tokens is None or last is None:
        return
    config, sequence_len = evidence.plan.config, evidence.plan.pretrain.model.sequence_len
    num_rows = tokens.metrics.get("validation_rows", 0)
    if not is_count(num_rows):
        evidence.say(manifest_name("tokens"), "metrics.validation_rows", f"{shown(num_rows)} is not a number it can be")
        return
    looked_at = min(num_rows, math.ceil(config.evaluate.bpb_tokens / sequence_len))
    validated = min(num_rows, math.ceil(config.pretrain.validation_tokens / sequence_len))
    if scores["num_tokens"] > looked_at * sequence_len:
        text = f"is {scores['num_tokens']}, {looked_at} rows of {sequence_len} tokens have fewer"
        evidence.say(BITS_PER_BYTE, "num_tokens", text)
    if looked_at != validated:
        return
    for name, logged in (("bits_per_byte", "bits_per_byte"), ("nats_per_token", "validation_loss")):
        if not is_close(scores[name], last[logged], tolerance=SAME_ROWS_TOLERANCE):
            text = f"is {shown(scores[name])}, the last validation, of the same rows, gives {shown(last[logged])}"
            evidence.say(BITS_PER_BYTE, name, text)
