"""An evaluation as a process of its own: ranks, device, records, and how its end is told.

`run_ranks` is the main function of every evaluation worker (`python -m ... plan.json`, alone or under torchrun): it
reads the plan, joins the process group, calls the evaluation, and writes result.json as base/child.py expects it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat_core.base import distributed, redaction
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.hardware import num_threads, pick_device
from nanochat_core.base.process import die_with_parent
from nanochat_core.base.records import RECORDS_NAME, RecordWriter, failure, told, write_result


@dataclass(frozen=True)
class Rank:
    """Where one rank of an evaluation runs, and what it may tell."""

    world: World
    device: torch.device
    records: RecordWriter | None
    """None on all ranks but the first."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Tell the supervisor how far the first rank is."""
        if self.records is not None:
            self.records.write("progress", done=done, total=total, text=text)


def run_ranks(evaluate: Callable[[dict[str, Any], Rank], dict[str, Any]]) -> None:
    """Call `evaluate` with the plan of sys.argv[1] and exit; the plan names "work", "device" and "num_threads".

    What `evaluate` returns on the first rank becomes the result; whichever rank fails says why.
    """
    redaction.install()
    die_with_parent()
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    world = distributed.world_from_environment()
    code = 0
    try:
        result = {"status": "completed", **_evaluate(evaluate, plan, world)}
    except NanochatError as error:
        result, code = failure(error), 2
    except Exception as error:
        result, code = told(error, near=Path(plan["work"])), 1
    if world.is_main or code:
        write_result(Path(plan["work"]), result)
    distributed.stop()
    sys.exit(code)


def _evaluate(
    evaluate: Callable[[dict[str, Any], Rank], dict[str, Any]], plan: dict[str, Any], world: World
) -> dict[str, Any]:
    device = pick_device(plan["device"], local_rank=world.local_rank)
    torch.set_num_threads(num_threads(plan["num_threads"], num_processes=world.size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.start(world, device)
    records = RecordWriter(Path(plan["work"]) / RECORDS_NAME) if world.is_main else None
    return evaluate(plan, Rank(world, device, records))
