"""A training that goes on, or has broken off: what it learns from, before any run is recorded.

The newest attempt on this machine says in its plan.json which rows it reads, and its log has every step so far. Folders
that artifacts are read from are named after their content, so those rows lead to the artifact that they are.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.look.run_data import RunData, has_text
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

UNFINISHED = "unfinished"
ROWS = {"pretrain": "tokens", "sft": "conversations"}
PLAN = "plan.json"
LOOKED_AT = 20  # artifacts of a step, the newest first


def attempts(home: Path) -> list[Path]:
    """The folders of trainings that are not done on this machine, the newest last."""
    plans = [plan for step in ROWS for plan in (home / "work").glob(f"{step}-*/attempt-*/{PLAN}")]
    return [plan.parent for plan in sorted(plans, key=lambda plan: plan.stat().st_mtime)]


def open_unfinished(store: Store, home: Path) -> RunData:
    """What the newest training that is not done learns from; MissingError where there is none."""
    for attempt in reversed(attempts(home)):
        training = attempt.parent.name.rpartition("-")[0]
        paths = json.loads((attempt / PLAN).read_text())["paths"]
        rows = _read_from(store, ROWS[training], paths["rows"])
        words = _read_from(store, "tokenizer", paths["tokenizer"])
        if rows and words:
            found = {**_texts(store, rows), "tokenizer": words, rows.step: rows}
            return RunData(store, f"{UNFINISHED} {attempt.parent.name}", found, attempts={training: attempt})
    raise MissingError(f"no training in {home} is unfinished", hint="nanochat runs list")


def _read_from(store: Store, step: str, folder: str) -> Artifact | None:
    """The artifact whose files are read from this folder."""
    return next((made for made in islice(store.artifacts(step), LOOKED_AT) if str(store.fetch(made)) == folder), None)


def _texts(store: Store, rows: Artifact) -> dict[str, Any]:
    """The text that rows were made of."""
    read = set(rows.inputs.values())
    return {made.step: made for made in store.artifacts() if made.result_digest in read and has_text(made)}
