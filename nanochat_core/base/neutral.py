"""Settings that came later: at their neutral value they are as if they were not there, in keys and in stored files.

So whoever upgrades does not pay again for what an older version has made.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any

NEUTRAL = "neutral"


ONCE_ABSENT: dict[str, tuple[Any, ...]] = {"document_mask": (False,), "fp8": ("off", "auto"), "rl": (None,)}
"""Settings that keys had not at first and have had since -> values that are as good as absent to `--accept-drift`."""


def later(neutral: Any, *, default: Any = None) -> Any:
    """A field that was added after artifacts had been made without it: at `neutral` it is as if it were not there.

    `identity` leaves it out at that value, so whatever was made before keeps its key; `default` may be another one.
    """
    return field(default=neutral if default is None else default, metadata={NEUTRAL: neutral})


def identity(config: Any) -> dict[str, Any]:
    """A config as plain values, as keys and stored files have it: without what stands at its neutral value."""
    values = {
        item.name: getattr(config, item.name) for item in dataclasses.fields(config) if not _is_absent(config, item)
    }
    return {name: _plain(value) for name, value in values.items()}


def _is_absent(config: Any, item: "dataclasses.Field[Any]") -> bool:
    value = getattr(config, item.name)
    # 1 and True are equal, and two values in JSON
    return NEUTRAL in item.metadata and type(value) is type(item.metadata[NEUTRAL]) and value == item.metadata[NEUTRAL]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return identity(value)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, Mapping) else value
