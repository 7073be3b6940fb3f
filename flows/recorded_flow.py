"""A flow of which Prefect's server keeps nothing secret.

A run's parameters and the text of the error that ended it are in the server's database for as long as the run is, and
on its page. A setting with a secret is refused by the run itself; by then the server has been told of it.

What a deployed run returns is kept in Prefect's result storage. Nobody reads it, but a server lets a run whose result
was kept leave Completed no more: not for a worker either that was held up and now starts what another one has finished.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

from nanochat_core.base import redaction
from nanochat_core.base.redaction import redact_value, redacted_errors

OWN_RUN = "PREFECT__FLOW_RUN_ID"  # which a worker sets in the process that it starts for a run


class RecordedFlow(Flow[Any, Any]):
    """A flow of Prefect's with clean parameters and errors."""

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        if OWN_RUN in os.environ and _can_keep_results():
            options.setdefault("persist_result", True)
        super().__init__(fn, **options)
        self.fn = _redacting(fn)  # after it: the version is the digest of the file that the function is in

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """As the server is told of them."""
        told: dict[str, Any] = redact_value(super().serialize_parameters(parameters))
        return told

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """As Prefect does; its errors and its log repeat what was given."""
        redaction.install()
        with redacted_errors():
            return super().validate_parameters(parameters)


def _can_keep_results() -> bool:
    folder = Path(PREFECT_LOCAL_STORAGE_PATH.value())
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    return False


def _redacting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with redacted_errors():
            result = function(*args, **kwargs)
        if OWN_RUN in os.environ and threading.current_thread() is threading.main_thread():
            # all that is left is to say so: Prefect would call what it has just called Completed Crashed
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return result

    return call
