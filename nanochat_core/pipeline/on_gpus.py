"""The GPUs that a step's ranks compute on: its own while it runs, and the last thing that it waits for.

Who holds a GPU waits for nobody, so no two runs can wait for each other.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nanochat_core import observe
from nanochat_core.base import gpu_slots
from nanochat_core.plan import RunPlan

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import StepRun


@contextlib.contextmanager
def on_gpus(run: "StepRun") -> Iterator[None]:
    """Within the block as many of the machine's GPUs are the step's own as it has ranks; a wait says who has them."""

    def on_wait(reason: str) -> None:
        run.lease.raise_if_lost()
        run.progress(0, 1, reason)  # where a stop is heard

    def note(text: str) -> None:
        run.note(f"{run.step} {text}")

    with gpu_slots.taken(gpus_wanted(run.plan), owner=observe.who(), on_wait=on_wait, note=note):
        yield


def gpus_wanted(plan: RunPlan) -> int:
    """How many a step's ranks take on this machine, where it has any."""
    return plan.config.runtime.num_processes if plan.config.runtime.device in ("auto", "cuda") else 0
