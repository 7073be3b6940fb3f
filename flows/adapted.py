"""What a server of ours does otherwise than Prefect's: the order of artifacts, the words of a refusal, its garbage."""

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

from nanochat_core.settings import did_you_mean

COLLECT_EVERY_S = 0.5
COLLECT_ALL_EVERY = 120  # of those; a full collection holds everything up for some tenths of a second


def collect_garbage_elsewhere() -> None:
    """Keep the event loop from waiting for SQLite: what is garbage is dropped by a thread of its own.

    Where the loop's thread collects, it may come upon a cursor whose connection waits, in another thread, for the
    database's lock, and closing that cursor waits for the connection. Who has the lock needs the loop to go on: nothing
    moves until SQLite gives up, after 60 s (seen with Prefect 3.8.8 and 3.9.1, several times an hour in a busy server).
    """
    gc.disable()
    threading.Thread(target=_collect, daemon=True, name="garbage").start()


def _collect() -> None:
    looks = 0
    while True:
        time.sleep(COLLECT_EVERY_S)
        looks += 1
        if looks % COLLECT_ALL_EVERY == 0:
            gc.collect()
        elif gc.get_count()[0] > gc.get_threshold()[0]:
            gc.collect(1)


def show_newest_artifacts_first() -> None:
    """A run's page sorts its artifacts by falling id, and ids are random; here they grow with time."""
    from prefect._internal.uuid7 import uuid7
    from prefect.server.schemas.core import Artifact

    Artifact.model_fields["id"].default_factory = uuid7
    Artifact.model_rebuild(force=True)


def suggest_settings() -> None:
    """A form's override that names no setting is refused with the one that may be meant, not with a list of all."""
    from prefect.utilities.schema_tools import validation

    rules = validation._VALIDATOR.VALIDATORS
    prefects = rules["pattern"]

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[Any]:
        for error in prefects(validator, wanted, value, schema):
            from flows.parameters import OVERRIDE  # what most servers never need

            if wanted == OVERRIDE and (meant := did_you_mean(str(value).partition("=")[0])):
                error.message = f"{value!r} is no section.field=value of a setting: {meant}"
            yield error

    rules["pattern"] = pattern
