"""The decorator of our flows. A command with `--no-prefect` runs their steps without waiting for Prefect's import.

Prefect's half of a flow's file, the tasks among it, is therefore imported where it is called.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from flows.recorded_flow import RecordedFlow

_is_left_out = False


def leave_out_prefect() -> None:
    """For the rest of this process, unless somebody has imported Prefect before: the flows are plain functions."""
    global _is_left_out
    _is_left_out = "prefect" not in sys.modules


def flow(*, has_steps: bool = False, **options: Any) -> Callable[[Callable[..., Any]], "RecordedFlow"]:
    """Prefect's decorator of that name, for these flows; one with steps ends well for whoever waits for them."""
    if _is_left_out:
        return lambda function: cast("RecordedFlow", function)
    from flows.recorded_flow import RecordedFlow
    from tasks.policy import HOOKS

    hooks = HOOKS if has_steps else {}
    return lambda function: RecordedFlow(function, **hooks, **options)
